"""What is wrong with a ledger in its database, receipt by receipt, and the hashes it still has.

A receipt's hash stands in the receipt after it, once in its bytes and once in a column beside them,
and the last one's in the ledger's head. So a receipt whose bytes are lost is still named.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Connection, select

from models.ledger_repair import DamagedReceipt
from models.receipts import GENESIS
from models.tables_receipts import ReceiptRow
from models.verifier import read_receipt
from stores.ledger import Ledger
from stores.sql import read, table

_RECEIPTS = table(ReceiptRow)


class BeyondRepair(Exception):
    """Nothing says what a receipt was: restore the region from its backup."""


@dataclass(frozen=True)
class LedgerScan:
    """All hashes of a ledger, the damaged receipts' by what the chain has of them."""

    hashes: list[bytes]
    damaged: tuple[DamagedReceipt, ...]
    repairs: tuple[bytes, ...]

    @property
    def head(self) -> str:
        """The last one, hex."""
        return self.hashes[-1].hex() if self.hashes else GENESIS


@dataclass(frozen=True)
class _Row:
    """A receipt as it is: its hash, and the one before it by its bytes and by its column.

    ``digest`` is None where the bytes are no receipt of this place, or are not there.
    """

    digest: bytes | None = None
    prev: bytes | None = None
    column: bytes | None = None


def scan_ledger(ledger: Ledger) -> LedgerScan:
    """Read a whole ledger, and find what is damaged.

    Raises:
        BeyondRepair: a hash cannot be told, or two places say different ones.
        StoreUnavailable: the database cannot serve now.
    """
    hashes: list[bytes] = []
    damaged: list[DamagedReceipt] = []
    repairs: list[bytes] = []
    with read(ledger.engine) as connection:
        head = ledger.head(connection=connection)
        end = _Row(prev=bytes.fromhex(head.hash), column=bytes.fromhex(head.hash))
        rows = _rows(connection, ledger.name, head.size, repairs)
        row = next(rows, end)
        for seq in range(head.size):
            following = next(rows, end)
            true = _true_hash(ledger.name, seq, row, following)
            if row.digest != true or row.prev != (hashes[-1] if hashes else bytes(32)):
                damaged.append(DamagedReceipt(seq=seq, hash=true.hex()))
            hashes.append(true)
            row = following
    return LedgerScan(hashes, tuple(damaged), tuple(repairs))


def _true_hash(ledger: str, seq: int, row: _Row, following: _Row) -> bytes:
    claims = {claim for claim in (following.prev, following.column) if claim is not None}
    if row.digest is not None and (row.digest in claims or not claims):
        return row.digest
    if len(claims) != 1:
        said = "nothing says" if not claims else "two places say otherwise"
        raise BeyondRepair(
            f"ledger {ledger}: receipt {seq} is damaged, and {said} what it was: restore the "
            "region from its backup"
        )
    return claims.pop()


def _rows(connection: Connection, ledger: str, size: int, repairs: list[bytes]) -> Iterator[_Row]:
    """One row for each number below ``size``, also for those that are not there."""
    columns = (_RECEIPTS.c.seq, _RECEIPTS.c.prev, _RECEIPTS.c.data)
    query = select(*columns).where(_RECEIPTS.c.ledger == ledger, _RECEIPTS.c.seq < size)
    expected = 0
    for seq, prev, data in connection.execute(
        query.order_by(_RECEIPTS.c.seq).execution_options(yield_per=2_000)
    ):
        yield from (_Row() for _ in range(expected, seq))
        expected = seq + 1
        try:
            receipt = read_receipt(bytes(data))
        except ValueError:
            yield _Row(column=bytes(prev))
            continue
        if (receipt["ledger"], receipt["seq"]) != (ledger, seq):
            yield _Row(column=bytes(prev))
            continue
        if b'"kind":"ledger.repaired"' in data:
            repairs.append(bytes(data))
        yield _Row(sha256(data).digest(), bytes.fromhex(receipt["prev"]), bytes(prev))
    yield from (_Row() for _ in range(expected, size))
