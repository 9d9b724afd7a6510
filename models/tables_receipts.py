"""Tables of the receipt ledgers: heads, receipts, signed checkpoints.

The unique keys make forks and double appends impossible in a healthy store: one receipt per
``seq``, one successor per ``prev``, one effect per ``idempotency_key``. Columns beside ``data``
are only an index of it; ``data`` alone is evidence.
"""

from sqlalchemy import BigInteger, Index, UniqueConstraint
from sqlmodel import Field, SQLModel


class LedgerHeadRow(SQLModel, table=True):
    """One row a ledger: what the next receipt must follow, and the fence."""

    __tablename__ = "ledger_head"

    ledger: str = Field(primary_key=True)
    size: int = Field(sa_type=BigInteger, description="number of receipts, and the next one's seq")
    hash: bytes = Field(description="SHA-256 of the last receipt's bytes; zeros when empty")
    epoch: int = Field(sa_type=BigInteger, description="the highest epoch that has appended")


class ReceiptRow(SQLModel, table=True):
    """One receipt: its exact bytes, and the fields that are looked up."""

    __tablename__ = "receipt"
    __table_args__ = (
        UniqueConstraint("ledger", "prev", name="receipt_prev"),
        UniqueConstraint("ledger", "idempotency_key", name="receipt_idempotency_key"),
        Index("receipt_kind", "ledger", "kind", "seq"),
        # With kind in it, or SQLite (which has no statistics here) finds the index above as good
        # for "the newest of a kind about a subject", and takes the one that was created last.
        Index("receipt_subject", "ledger", "subject", "kind", "seq"),
    )

    ledger: str = Field(primary_key=True)
    seq: int = Field(primary_key=True, sa_type=BigInteger)
    prev: bytes
    kind: str
    subject: str
    idempotency_key: str
    data: bytes = Field(description="canonical JSON, exactly as hashed")


class CheckpointRow(SQLModel, table=True):
    """A signed checkpoint, and the Merkle frontier to go on from."""

    __tablename__ = "checkpoint"

    ledger: str = Field(primary_key=True)
    size: int = Field(primary_key=True, sa_type=BigInteger)
    note: str = Field(description="signed note, exactly as published")
    frontier: bytes = Field(description="roots of the perfect subtrees, widest first, 32 B each")
