"""Whether the evidence that receipts name is still there, all of it, for as long as it must be.

Nothing removes evidence; this finds what was lost all the same. A verdict's receipt names its
inputs by digest: the policy, the trust root, the bundles, the vulnerability data and the rest.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from models.forensics_facts import JUDGED, is_digest
from stores.evidence_archive import ArchiveError, EvidenceArchive
from stores.ledger import Ledger


@dataclass(frozen=True)
class Kept:
    """What the check of one ledger found; ``lost`` names the receipt, the input and its digest."""

    verdicts: int
    digests: int
    oldest: datetime | None
    lost: tuple[str, ...]


def check_evidence(ledger: Ledger, archive: EvidenceArchive) -> Kept:
    """Read back every input of every verdict, whatever its age; each is hashed.

    Raises:
        ReceiptError: a receipt cannot be read.
        StoreUnavailable: the database cannot serve now.
    """
    states: dict[str, str] = {}
    lost: list[str] = []
    verdicts, oldest = 0, None
    for stored in ledger.read(kinds=[JUDGED]):
        receipt = stored.receipt
        verdicts += 1
        oldest = oldest or datetime.fromisoformat(receipt.at)
        where = f"{ledger.name}/{stored.seq}"
        inputs = list(input_digests(receipt.body))
        if not inputs:
            lost.append(f"{where}: names nothing that the verdict was given on")
        for name, digest in inputs:
            if digest not in states:
                states[digest] = _problem(archive, digest)
            if states[digest]:
                lost.append(f"{where}: {name}: {states[digest]}")
    return Kept(verdicts, len(states), oldest, tuple(lost))


def input_digests(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and digest of each input of the verdict in a receipt's body.

    Read by what is there, not by today's model: a receipt may be seven years old.
    """
    verdict = body.get("verdict")
    inputs = verdict.get("inputs") if isinstance(verdict, Mapping) else None
    for name, value in inputs.items() if isinstance(inputs, Mapping) else ():
        for digest in _values(value):
            if is_digest(digest):
                yield name, str(digest)


def _values(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else [value]


def _problem(archive: EvidenceArchive, digest: str) -> str:
    try:
        archive.get(digest)
    except ArchiveError as error:
        return str(error)
    except OSError as error:
        return f"evidence {digest}: {error.strerror}"
    return ""
