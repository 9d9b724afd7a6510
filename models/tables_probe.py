"""Table of the canary document that probes of a region's primary write and read.

It is no protected table. A canary every ten seconds would be 8,640 changes a day in the changelog
and in the backup, and a state root that never rests, for a document that nobody ever restores.
"""

from sqlalchemy import BigInteger, Column, LargeBinary
from sqlmodel import Field, SQLModel


class CanaryRow(SQLModel, table=True):
    """One row: the newest canary, and how far the rotating check of live documents is.

    The place is kept here, and not with the process that probes, so that the check goes on over
    restarts and tenants' keys stay where they are.
    """

    __tablename__ = "canary"

    id: int = Field(primary_key=True, description="always 1")
    nonce: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    sha256: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    tenant: str = Field(default="", description="of the last value that was checked")
    key: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))
    receipt: int = Field(default=-1, sa_type=BigInteger, description="the last that was checked")
