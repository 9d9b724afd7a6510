"""The table of the tenants' backup keys, and of the keys that were destroyed."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Column, DateTime, LargeBinary
from sqlmodel import Field, SQLModel


class TenantKeyRow(SQLModel, table=True):
    """One tenant's key, wrapped under the region's; a row without one is a tombstone for ever."""

    __tablename__ = "tenant_key"
    __table_args__ = (
        CheckConstraint("(wrapped IS NULL) <> (destroyed_at IS NULL)", name="tenant_key_or_not"),
    )

    tenant: str = Field(primary_key=True)
    wrapped: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    region_key: str = Field(
        description="which region key it is wrapped under; see stores.tenant_keys"
    )
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    destroyed_at: datetime | None = Field(
        default=None, sa_column=Column(DateTime(timezone=True), nullable=True)
    )
