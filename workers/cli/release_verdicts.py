"""Verdicts on releases as the control ledger has them, and given again from the archive."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from activities.judging import from_archive, judge_inputs, report_doubt
from activities.verification import JUDGED
from models.canonical import canonical
from models.ids import CONTROL_LEDGER, short
from models.receipts import ReceiptError, StoredReceipt
from models.release_verdict import ReleaseVerdict
from stores.evidence_archive import ArchiveError, EvidenceArchive
from stores.ledger import Ledger
from stores.oci import ReleaseError
from stores.sql import StoreUnavailable, open_engine
from workers.cli.output import NEGATIVE, UNREACHABLE, USAGE, fail
from workers.release_store import open_releases
from workers.settings import load_control

_SHORT = re.compile(r"[0-9a-f]{8,63}\Z")


@dataclass(frozen=True)
class RecordedVerdict:
    """A verdict as its receipt has it; ``origin`` says which."""

    origin: str
    verdict: ReleaseVerdict
    override: str


def recorded_verdicts(which: str) -> list[RecordedVerdict]:
    """The verdicts on a release, oldest first, or the one of a receipt.

    Args:
        which: a digest or its beginning, ``name:version``, or the number of a receipt in the
            control ledger.
    """
    addresses = load_control()
    try:
        ledger = Ledger(open_engine(addresses.database), CONTROL_LEDGER)
        found = [_recorded(stored) for stored in _stored(ledger, which)]
    except StoreUnavailable as error:
        fail(f"ledger {CONTROL_LEDGER}: {error}", UNREACHABLE)
    except ReceiptError as error:
        fail(f"ledger {CONTROL_LEDGER}: {error}", NEGATIVE)
    if not found:
        fail(f"{which}: no receipt of kind {JUDGED} about it", USAGE)
    return found


def replay_release(recorded: RecordedVerdict) -> dict[str, Any]:
    """Judge what was archived again; a part that is missing or altered is no match."""
    verdict = recorded.verdict
    row = {
        "receipt": recorded.origin,
        "release": verdict.release,
        "phase": verdict.phase,
        "recorded": verdict.outcome,
    }
    address = load_control().verification
    if address is None:
        fail("the control worker's addresses name no evidence archive (`verification`)", USAGE)
    try:
        inputs = from_archive(EvidenceArchive(address.archive), verdict.inputs)
    except (ArchiveError, OSError) as error:
        return row | {"replayed": "-", "match": False, "differences": [str(error)]}
    again = judge_inputs(
        inputs, release=verdict.release, phase=verdict.phase, at=verdict.at
    ).model_dump(mode="json")
    said = verdict.model_dump(mode="json")
    differences = sorted(key for key in said if said[key] != again[key])
    doubt = report_doubt(inputs, release=verdict.release, at=verdict.at)
    return row | {
        "replayed": again["outcome"],
        "match": canonical(said) == canonical(again) and not doubt,
        "differences": [*differences, *([f"vulnerabilities: {doubt}"] if doubt else [])],
    }


def _stored(ledger: Ledger, which: str) -> Iterator[StoredReceipt]:
    if which.isdecimal() and len(which) < 12:
        stored = ledger.get(int(which))
        return iter([stored] if stored is not None and stored.kind == JUDGED else [])
    if _SHORT.match(which):
        every = ledger.read(kinds=[JUDGED])
        return (one for one in every if short(one.receipt.subject).startswith(which[:12]))
    try:
        digest = open_releases(load_control()).resolve(which)
    except ReleaseError as error:
        if not which.startswith("sha256:"):
            fail(str(error), USAGE)
        digest = which
    return ledger.read(kinds=[JUDGED], subject=digest)


def _recorded(stored: StoredReceipt) -> RecordedVerdict:
    body = stored.receipt.body
    origin = f"{CONTROL_LEDGER} {stored.seq}"
    try:
        verdict = ReleaseVerdict.model_validate(body.get("verdict"))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        fail(f"{origin}: verdict.{field}: {first['msg']}")
    override = body.get("override")
    return RecordedVerdict(
        origin, verdict, str(override.get("id")) if isinstance(override, dict) else ""
    )
