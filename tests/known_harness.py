"""A bench whose verifier asks a real vulnerability database."""

import json

from sbom_harness import install_python
from verifier_harness import NOW, Bench

from activities.release_verifier import RegistryVerifier
from stores.vulnerabilities import VulnerabilityStore
from stores.vulnerability_report import VulnerabilityReports, Words

PURL = "pkg:pypi/leaky@1.4.0"
OSV = {
    "id": "GHSA-xxxx-yyyy-zzzz",
    "modified": "2026-01-01T00:00:00Z",
    "aliases": ["CVE-2026-4242"],
    "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "leaky"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.5.0"}]}],
        }
    ],
}
NVD = {
    "vulnerabilities": [
        {
            "cve": {
                "id": "CVE-2020-1",
                "lastModified": "2026-01-01T00:00:00.000",
                "vulnStatus": "Analyzed",
            }
        }
    ]
}


class Known(Bench):
    """A release with one Python package in it, and a database with one advisory about it."""

    def __init__(self, home):
        super().__init__(home)
        self.store = VulnerabilityStore(home / "vulnerabilities.db")
        self.words = Words(vex=home / "vex", exceptions=home / "exceptions.toml")
        self.words.vex.mkdir()
        self.verifier = RegistryVerifier(
            layout=self.layout,
            registry=self.layout,
            archive=self.archive,
            vulnerabilities=VulnerabilityReports(self.store, self.words),
            policy=self.files["policy"],
            trust_root=self.files["trust"],
            config=self.files["config"],
        )
        self.load(OSV)

    def load(self, *records, at=NOW):
        feed = self.home / "osv"
        feed.mkdir(exist_ok=True)
        for number, record in enumerate(records):
            (feed / f"{number}.json").write_text(json.dumps(record))
        (self.home / "nvd.json").write_text(json.dumps(NVD))
        self.store.load("osv", feed, now=at)
        self.store.load("nvd", self.home / "nvd.json", now=at)

    def release(self, version="1.0.0", content="program"):
        directory = self.home / f"source-{version}"
        directory.mkdir(exist_ok=True)
        (directory / "serve").write_text(content)
        install_python(directory, "leaky", "1.4.0")
        return self.layout.put_release("catalog", version, directory, entrypoint=["serve"])

    def says(self, status, product=PURL, **fields):
        statement = {
            "vulnerability": {"name": "CVE-2026-4242"},
            "products": [{"@id": product}],
            "status": status,
            **fields,
        }
        document = {"@context": "https://openvex.dev/ns/v0.2.0", "statements": [statement]}
        (self.words.vex / "vendor.json").write_text(json.dumps(document))

    def accepts(self, expires):
        self.words.exceptions.write_text(
            '[[exception]]\nvulnerability = "CVE-2026-4242"\nauthor = "ana"\n'
            f'reason = "not reachable"\nexpires = {expires.isoformat()}\n'
        )
