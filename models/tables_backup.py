"""Tables of a protected store: who it is, and the changes that are not yet in the backup."""

from sqlalchemy import BigInteger, Column, Integer, LargeBinary
from sqlmodel import Field, SQLModel


class StoreIdentityRow(SQLModel, table=True):
    """One row: which store this is, and whether it may still be written to.

    A region's store gets a new id when it is made and when it is restored; sequence numbers count
    within an id.
    """

    __tablename__ = "store_identity"

    id: str = Field(primary_key=True, description="32 hex digits")
    region: str
    epoch: int = Field(sa_type=BigInteger, description="rises at every change of the primary")
    seq: int = Field(
        sa_type=BigInteger,
        description="the last change's number (PostgreSQL; SQLite counts by itself)",
    )
    fenced: bool = Field(description="another store is the region's primary: refuse every write")
    fenced_why: str = ""
    triggers: str = Field(description="digest of the triggers that are installed")


class ChangelogRow(SQLModel, table=True):
    """One change, as the triggers of the protected tables wrote it."""

    __tablename__ = "changelog"
    __table_args__ = {"sqlite_autoincrement": True}

    # SQLite counts by itself only in a column of the type INTEGER, which holds 64 bits there.
    seq: int = Field(
        sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    )
    collection: int
    op: int
    txn: int = Field(
        sa_type=BigInteger, description="the same in all changes that committed together"
    )
    key: str
    before: bytes | None = Field(sa_column=Column(LargeBinary, nullable=True))
    image: str | None
    payload: bytes | None = Field(sa_column=Column(LargeBinary, nullable=True))
    epoch: int = Field(sa_type=BigInteger)
    at: int = Field(sa_type=BigInteger, description="Unix ms, by the database's clock")
