"""Tables of the drain: which buffered writes a store has, and those that it could not take.

Both are protected. A conflict may be the last copy of a write that was acknowledged. Without the
marks, a drain that goes on in a restored store would take writes for conflicts that later ones of
the buffer replaced.
"""

from sqlalchemy import BigInteger, Column, LargeBinary
from sqlmodel import Field, SQLModel


class BufferMarkRow(SQLModel, table=True):
    """One buffered write that was dealt with, in the transaction that did so."""

    __tablename__ = "buffer_mark"

    id: str = Field(primary_key=True, description="the write's idempotency key")
    spool: str = Field(index=True)
    number: int = Field(sa_type=BigInteger)
    applied: bool = Field(description="else it is a conflict")


class BufferConflictRow(SQLModel, table=True):
    """One acknowledged write that was not made; it is kept whole until somebody decides."""

    __tablename__ = "buffer_conflict"

    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True, description="the write's idempotency key")
    spool: str = Field(index=True)
    number: int = Field(sa_type=BigInteger)
    key: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    value: bytes | None = Field(
        sa_column=Column(LargeBinary, nullable=True), description="NULL: the key was to be removed"
    )
    version: int = Field(sa_type=BigInteger, description="what the client was told")
    expected: int | None = Field(sa_type=BigInteger, nullable=True)
    seen: int = Field(sa_type=BigInteger)
    found: int = Field(sa_type=BigInteger, description="the key's version in the store")
    why: str
    at: int = Field(sa_type=BigInteger, description="Unix ms, by the gateway's clock")
