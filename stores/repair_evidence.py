"""The evidence of a repair: both branches' exact bytes and all that was signed of them.

<directory>/<plan>/kept.jsonl        the ledger as it is, from what both share on
<directory>/<plan>/abandoned.jsonl   the other branch, from there on, as far as it is at hand
<directory>/<plan>/damaged/<seq>     the bytes that are in a damaged receipt's place
<directory>/<plan>/checkpoints/...   every note, as signed
<directory>/<plan>/index.json        the plan and the files' digests, signed
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sqlalchemy import select

from models.ledger_repair import EVIDENCE_TYPE, RepairPlan
from models.region_statement import sign_payload
from models.statement import write_statement
from models.tables_receipts import ReceiptRow
from stores.checkpoints import Notary
from stores.files import write_atomic
from stores.keys import SigningKey
from stores.ledger import Ledger
from stores.ledger_damage import LedgerScan
from stores.objects import ObjectStore
from stores.quarantine import file_digest
from stores.sql import read, table

INDEX, KEPT, ABANDONED = "index.json", "kept.jsonl", "abandoned.jsonl"
_RECEIPTS = table(ReceiptRow)


@dataclass(frozen=True)
class Evidence:
    """Evidence that was written; ``digest`` is the SHA-256 of its index."""

    ledger: str
    directory: Path
    digest: str
    files: tuple[str, ...]

    def put(self, objects: ObjectStore) -> list[str]:
        """Keep it in the object store too, each file under its digest; their names, index first."""
        names = []
        for name in (INDEX, *self.files):
            path = self.directory / name
            stored = f"{self.ledger}/repairs/{file_digest(path)}"
            objects.put(stored, path)
            names.append(stored)
        return names


def keep_evidence(
    ledger: Ledger,
    plan: RepairPlan,
    scan: LedgerScan,
    branch: Sequence[bytes] | None,
    notary: Notary,
    key: SigningKey,
    directory: Path,
) -> Evidence:
    """Write the evidence of a plan; again it is written anew."""
    place = directory / plan.digest[:32]
    (place / "checkpoints").mkdir(parents=True, exist_ok=True)
    lost = {each.seq for each in scan.damaged}
    _write_lines(place / KEPT, _kept(ledger, plan.common.size, lost, place))
    if branch is not None:
        _write_lines(place / ABANDONED, branch[plan.common.size :])
    for name, note in notary.files.named_notes():
        write_atomic(place / "checkpoints" / name, note)
    files = sorted(
        str(path.relative_to(place))
        for path in place.rglob("*")
        if path.is_file() and path.name != INDEX
    )
    subjects = [(name, file_digest(place / name)) for name in files]
    statement = write_statement(subjects, EVIDENCE_TYPE, plan.model_dump(mode="json"))
    index = sign_payload(statement, ledger.name, key.private)
    write_atomic(place / INDEX, index)
    return Evidence(ledger.name, place, sha256(index).hexdigest(), tuple(files))


def _kept(ledger: Ledger, start: int, lost: set[int], place: Path) -> Iterable[bytes]:
    """The ledger's receipts; what is in a damaged one's place goes into a file of its own."""
    query = select(_RECEIPTS.c.seq, _RECEIPTS.c.data).where(_RECEIPTS.c.ledger == ledger.name)
    with read(ledger.engine) as connection:
        rows = query.order_by(_RECEIPTS.c.seq).execution_options(yield_per=2_000)
        for seq, data in connection.execute(rows):
            if seq in lost:
                (place / "damaged").mkdir(exist_ok=True)
                write_atomic(place / "damaged" / str(seq), bytes(data))
            elif seq >= start:
                yield bytes(data)


def _write_lines(path: Path, lines: Iterable[bytes]) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.writelines(line + b"\n" for line in lines)
    temporary.replace(path)
