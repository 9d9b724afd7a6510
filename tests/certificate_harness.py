"""Certificates for tests, and forgeries that the region's own key has signed."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.canonical import canonical
from models.checkpoint import Checkpoint, PublicKey, origin, public_key, sign
from models.dsse import IN_TOTO_TYPE, pae
from models.recovery import GapDecision
from models.region_statement import key_id
from models.restore import Gap, Goal, Phase, RestoreReport
from models.restore_certificate import Kind, Times
from models.restore_certificate_check import Certificate, verify_certificate
from models.state_head import state_ledger
from models.verifier import Refused
from stores.certifying import certify
from stores.keys import SigningKey

REGION = "eu"
SOURCE, RESTORED = "a" * 32, "b" * 32
ROOT, CHAIN = b"\x01" * 32, "02" * 32
T0 = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
ACCEPTED = GapDecision(actor="alice", reason="the segment is lost for good")

Change = Callable[[dict[str, Any]], object]


def later(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


TIMES = Times(
    last_acknowledged_at=later(0),
    detected_at=later(20),
    failed_over_at=later(60),
    started_at=later(90),
    finished_at=later(390),
)


@dataclass(frozen=True)
class Region:
    """A region that signs heads and certificates."""

    private: Ed25519PrivateKey
    name: str = REGION

    @property
    def public(self) -> PublicKey:
        return public_key(self.private, self.name)

    @property
    def key(self) -> SigningKey:
        return SigningKey(Path("eu.pem"), self.private)

    def head(
        self, size: int, *, root: bytes = ROOT, chain: str = CHAIN, store: str = SOURCE
    ) -> bytes:
        named = origin(state_ledger(self.name, store))
        return sign(Checkpoint(named, size, root, chain), self.private).encode()

    def checkpoint(self, receipts: int, *, chain: str = CHAIN) -> bytes:
        return sign(Checkpoint(origin(self.name), receipts, ROOT, chain), self.private).encode()

    def certificate(
        self,
        report: RestoreReport | None = None,
        *,
        head: bytes | None = None,
        kind: Kind = "restore",
        times: Times = TIMES,
        acceptance: GapDecision | None = None,
    ) -> bytes:
        report = report or self.report()
        expects = report.receipts_expected
        return certify(
            report,
            self.key,
            kind=kind,
            expected_head=head or self.head(100),
            times=times,
            code_version="0.1.0",
            checkpoint=self.checkpoint(expects) if expects else None,
            acceptance=acceptance,
        )

    def report(self, **changed: Any) -> RestoreReport:
        """Of a restore that reached head 100."""
        said: dict[str, Any] = {
            "region": self.name,
            "source_store": SOURCE,
            "restored_store": RESTORED,
            "epoch": 2,
            "goal": Goal(),
            "target_seq": 100,
            "reached_seq": 100,
            "expected_seq": 100,
            "expected_chain": CHAIN,
            "base_seq": 40,
            "base_manifest": manifest(40),
            "segments": (segment(41, 70, "3" * 32), segment(71, 100)),
            "state_root": ROOT.hex(),
            "root_signed": True,
            "root_note": self.head(100).decode(),
            "chain": CHAIN,
            "documents": 50,
            "changes_applied": 60,
            "erased": 1,
            "receipts": 10,
            "receipts_expected": 10,
            "last_change_at": later(-3),
            "gap": None,
            "findings": (),
            "phases": (
                Phase(name="load snapshot", seconds=100.5, amount=40),
                Phase(name="healing check", seconds=50.25, amount=50),
            ),
            "schema_version": 1,
        }
        return RestoreReport(**said | changed)

    def short_report(self, **changed: Any) -> RestoreReport:
        """Of a restore that ended at change 70 of 100."""
        said: dict[str, Any] = {
            "reached_seq": 70,
            "segments": (segment(41, 70),),
            "root_note": self.head(70).decode(),
            "gap": Gap(first=71, last=100, why="a segment is missing"),
        }
        return self.report(**said | changed)

    def forge(self, data: bytes, change: Change) -> bytes:
        """Another statement under a signature that stands: only what it says can give it away."""
        statement = json.loads(payload_of(data))
        change(statement)
        return self.sign(canonical(statement))

    def sign(self, payload: bytes, payload_type: str = IN_TOTO_TYPE) -> bytes:
        signature = self.private.sign(pae(payload_type, payload))
        return envelope(payload, signature, key_id(self.public), payload_type)

    def called(self, name: str) -> "Region":
        return replace(self, name=name)


def envelope(
    payload: bytes, signature: bytes, keyid: str, payload_type: str = IN_TOTO_TYPE
) -> bytes:
    return json.dumps(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": payload_type,
            "signatures": [{"keyid": keyid, "sig": base64.b64encode(signature).decode()}],
        }
    ).encode()


def payload_of(data: bytes) -> bytes:
    return base64.b64decode(json.loads(data)["payload"])


def signature_of(data: bytes) -> bytes:
    return base64.b64decode(json.loads(data)["signatures"][0]["sig"])


def manifest(seq: int, store: str = SOURCE) -> str:
    return f"{REGION}/{store}/snapshots/{seq:016d}-{'4' * 32}.json"


def segment(first: int, last: int, chain: str = CHAIN[:32], store: str = SOURCE) -> str:
    return f"{REGION}/{store}/changelog/{first:016d}-{last:016d}-{chain}.seg"


EU = Region(Ed25519PrivateKey.from_private_bytes(b"\x07" * 32))
OTHER = Region(Ed25519PrivateKey.from_private_bytes(b"\x08" * 32))
WHOLE = EU.certificate()
SHORT = EU.certificate(EU.short_report(), acceptance=ACCEPTED)


@contextmanager
def refused(code: str, field: str) -> Iterator[None]:
    with pytest.raises(Refused) as caught:
        yield
    assert (caught.value.code, caught.value.detail.partition(": ")[0]) == (code, field)


def verify(data: bytes, *heads: bytes) -> Certificate:
    return verify_certificate(data, [OTHER.called("us").public, EU.public], heads)


def forged(data: bytes, **changed: Any) -> bytes:
    """A certificate whose predicate says something else, with a signature that stands."""
    return EU.forge(data, lambda statement: statement["predicate"].update(changed))
