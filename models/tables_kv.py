"""Tables of the tenant KV: each tenant's space, and what is in it."""

from sqlalchemy import BigInteger, Column, LargeBinary
from sqlmodel import Field, SQLModel


class KvSpaceRow(SQLModel, table=True):
    """One tenant's space. Its clock never goes back, so a version is never used twice."""

    __tablename__ = "kv_space"

    tenant: str = Field(primary_key=True)
    clock: int = Field(sa_column=Column(BigInteger, nullable=False))
    used: int = Field(
        sa_column=Column(BigInteger, nullable=False), description="bytes of keys and values"
    )


class KvEntryRow(SQLModel, table=True):
    """One value. Keys are UTF-8 bytes, so that their order is the same in every database."""

    __tablename__ = "kv_entry"

    tenant: str = Field(primary_key=True)
    key: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    value: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    sha256: bytes = Field(
        sa_column=Column(LargeBinary, nullable=False), description="see stores.kv.value_digest"
    )
    version: int = Field(sa_column=Column(BigInteger, nullable=False))
