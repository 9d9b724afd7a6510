"""A release store with an attested release, and the real verifier before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from release_evidence_harness import POLICY, REPOSITORY, provenance, report
from signing_harness import World
from timestamp_authority import START

from activities.release_verifier import RegistryVerifier
from activities.verification import Judgement
from models.provenance import Material, Provenance, read_provenance
from models.release_evidence import KnownVulnerability
from models.sbom import Component
from models.statement import write_statement
from models.test_results import TestResults
from stores.attesting import attest_release
from stores.evidence_archive import EvidenceArchive
from stores.oci import ImageLayout
from stores.sql import StoreUnavailable
from stores.vulnerability_report import LookedUp, Spoken

BUILT = START + timedelta(days=10)
NOW = START + timedelta(days=12)


@dataclass
class FakeVulnerabilities:
    """Knows what a test tells it."""

    found: tuple[KnownVulnerability, ...] = ()
    down: bool = False
    as_of: datetime = NOW
    asked: Sequence[Component] = ()

    def look_up(self, release: str, components: Sequence[Component], *, at: datetime) -> LookedUp:
        if self.down:
            raise StoreUnavailable("locked", "the test says so")
        self.asked = components
        sources = {"nvd": self.as_of, "osv": self.as_of}
        known = report(*self.found, components=len(components), sources=sources)
        return LookedUp(known, Spoken(), advisories=b"")


class Bench:
    """One store, one signer, one policy; `verify` judges what is there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.world = World()
        self.layout = ImageLayout(home / "releases")
        self.archive = EvidenceArchive(home / "archive")
        self.vulnerabilities = FakeVulnerabilities()
        self.files = {name: home / name for name in ("policy", "trust", "config")}
        self.files["policy"].write_text(POLICY)
        self.files["trust"].write_bytes(self.world.trust().to_bytes())
        self.files["config"].write_text("")
        self.verifier = RegistryVerifier(
            layout=self.layout,
            registry=self.layout,
            archive=self.archive,
            vulnerabilities=self.vulnerabilities,
            policy=self.files["policy"],
            trust_root=self.files["trust"],
            config=self.files["config"],
        )

    def release(self, version: str = "1.0.0", content: str = "program") -> str:
        """A release without evidence."""
        directory = self.home / f"source-{version}"
        directory.mkdir(exist_ok=True)
        (directory / "serve").write_text(content)
        return self.layout.put_release("catalog", version, directory, entrypoint=["serve"])

    def attested(self, version: str = "1.0.0") -> str:
        """A release with all evidence, signed when it was built."""
        digest = self.release(version)
        self.attest(digest)
        return digest

    def attest(self, digest: str) -> list[str]:
        self.world.clock.now = BUILT
        return attest_release(
            self.layout,
            digest,
            self.world.signer(),
            provenance=built(),
            tests=TestResults(passed=["unit::answers", "unit::starts"]),
            now=BUILT,
        )

    def attach(self, subject: str, kind: str, predicate: dict, about: str | None = None) -> None:
        """Sign any statement, and keep it with a release."""
        statement = write_statement([("catalog", about or subject)], kind, predicate)
        self.layout.attach(subject, self.world.bundle(statement, at=BUILT), kind)

    def verify(self, digest: str, at: datetime = NOW, phase: str = "verify") -> Judgement:
        beats: list[str] = []
        return self.verifier.verify(digest, phase=phase, at=at, heartbeat=beats.append)


def built() -> Provenance:
    """Where the attested releases come from."""
    said = read_provenance(provenance())
    source = Material(uri=f"git+{REPOSITORY}", digest={"gitCommit": said.commit})
    times = {"started_on": BUILT - timedelta(minutes=5), "finished_on": BUILT}
    return said.model_copy(update={"materials": [source], **times})
