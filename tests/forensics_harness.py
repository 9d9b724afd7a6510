"""Ledgers with a known past: activations, verdicts and tenants, and evidence without signatures."""

import json
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from models.receipts import Draft
from models.statement import PROVENANCE, SBOM, TESTS, write_statement
from stores.checkpoints import Notary
from stores.forensics import Forensics, Source
from stores.forensics_index import ForensicsIndex
from stores.keys import ensure_key
from stores.ledger import Ledger
from stores.sql import create_all, open_engine
from stores.tile_proofs import TileProver

START = datetime(2026, 1, 1, tzinfo=UTC)
VERDICT = "sha256:" + "7" * 64


def digest(name: str) -> str:
    """A release digest for a name."""
    return f"sha256:{sha256(name.encode()).hexdigest()}"


def hour(number: float) -> datetime:
    """So many hours after the start."""
    return START + timedelta(hours=number)


def bundle(release: str, predicate_type: str, predicate: dict) -> bytes:
    """A bundle whose signature is none: forensics reads what is said, and says who weighed it."""
    payload = write_statement([("release", release)], predicate_type, predicate)
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": "key"}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": b64encode(payload).decode(),
                "payloadType": "application/vnd.in-toto+json",
                "signatures": [{"sig": b64encode(b"none").decode(), "keyid": "key"}],
            },
        }
    ).encode()


def sbom_bundle(release: str, *purls: str) -> bytes:
    """A bundle with a bill of materials of these packages."""
    components = [
        {"type": "library", "name": purl.rpartition("/")[2].partition("@")[0], "purl": purl}
        for purl in purls
    ]
    predicate = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}
    return bundle(release, SBOM, predicate)


def evidence_of(release: str, *purls: str) -> list[bytes]:
    """Provenance, tests and a bill of materials."""
    provenance = {
        "buildDefinition": {
            "buildType": "urn:chainring:build:v1",
            "externalParameters": {"repository": "https://example.org/web", "commit": "c" * 40},
            "resolvedDependencies": [{"name": "Cargo.lock", "digest": {"sha256": "e" * 64}}],
        },
        "runDetails": {"builder": {"id": "urn:chainring:builder:local"}, "metadata": {}},
    }
    return [
        bundle(release, PROVENANCE, provenance),
        bundle(release, TESTS, {"result": "PASSED", "passedTests": ["a"], "failedTests": []}),
        sbom_bundle(release, *purls),
    ]


class Past:
    """Ledgers in a directory, filled step by step, and the answers about them."""

    def __init__(self, root: Path, regions: Sequence[str] = ("eu", "us-east")) -> None:
        self.root = root
        self.now = START
        self.evidence: dict[str, list[bytes]] = {}
        self.ledgers: dict[str, Ledger] = {}
        self.notaries: dict[str, Notary] = {}
        for name in ("control", *regions):
            engine = open_engine(f"sqlite:///{root}/{name}/store.db")
            create_all(engine)
            self.ledgers[name] = Ledger(engine, name, clock=lambda: self.now)
            self.notaries[name] = Notary(
                self.ledgers[name], ensure_key(root / name / f"{name}.pem")
            )
        self.index = ForensicsIndex(root / "index.db")

    def record(self, ledger: str, kind: str, subject: str, body: dict, at: datetime) -> int:
        """Append one receipt."""
        self.now = at
        key = f"{kind}/{subject}/{self.ledgers[ledger].head().size}"
        draft = Draft(kind=kind, actor="test", subject=subject, body=body, idempotency_key=key)
        return self.ledgers[ledger].append([draft])[0].seq

    def activate(self, shard: str, name: str, at: datetime, verdict: str | None = VERDICT) -> int:
        """Let a shard run a release; the region is the shard's name up to its number."""
        region, release = shard.rpartition("-")[0], digest(name)
        body: dict = {"shard": shard, "release": release, "rollout": f"rollout/{name}/1"}
        if verdict:
            body["deployment"] = {
                "predicate": {"verdict": {"digest": {"sha256": verdict.removeprefix("sha256:")}}}
            }
        return self.record(region, "shard.activated", shard, body, at)

    def judge(self, name: str, at: datetime, outcome: str = "pass", bundles: Sequence[str] = ()):
        """Record a verdict on a release."""
        verdict = {
            "release": digest(name),
            "outcome": outcome,
            "source": f"https://example.org/web@{'c' * 40}",
            "builder": "urn:chainring:builder:local",
            "inputs": {"bundles": list(bundles)},
        }
        body = {"verdict": verdict, "verdict_digest": VERDICT}
        return self.record("control", "release.judged", digest(name), body, at)

    def checkpoint(self) -> None:
        """Sign all ledgers as they are now."""
        for notary in self.notaries.values():
            notary.checkpoint()

    def ask(self, *, without: str = "") -> Forensics:
        """Bring the index up to date, and answer from it."""
        sources = {}
        for name, ledger in self.ledgers.items():
            size = self.index.update(ledger).size
            if name != without:
                notary = self.notaries[name]
                key = notary._key.public(name)
                prover = TileProver(name, self.index.tiles(name), size, notary.files, [key])
                sources[name] = Source(ledger, prover)
        missing = {without: "out of reach"} if without else {}
        return Forensics(
            self.index, sources, lambda release: self.evidence.get(release, []), missing=missing
        )
