"""Tables of a region's fleet: its state, its shards and their tenants, and nobody else's."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Column, DateTime, Index
from sqlmodel import Field, SQLModel


class RegionState(SQLModel, table=True):
    """One row: the region whose database this is."""

    __tablename__ = "region_state"

    region: str = Field(primary_key=True)
    generation: int = Field(default=0, description="counts the changes of the routes")
    epoch: int = Field(default=0, description="nothing below this fencing epoch is accepted")
    placement: int = Field(
        default=0, description="the generation at which tenants were last added, moved or changed"
    )


class ShardRow(SQLModel, table=True):
    """A shard, and the release that all its tenants see."""

    __tablename__ = "shard"

    id: str = Field(primary_key=True)
    region: str
    zone: str
    release: str | None = None
    epoch: int = Field(default=0, description="fencing epoch of the last activation")
    rolling: bool = Field(default=False, description="its tenants cannot be moved now")
    activated_at: datetime | None = Field(
        default=None, sa_column=Column(DateTime(timezone=True), nullable=True)
    )


class TenantRow(SQLModel, table=True):
    """A tenant and where it lives."""

    __tablename__ = "tenant"
    __table_args__ = (
        # Covers the catalog's count and sum for each shard, the most expensive question asked.
        Index("tenant_by_shard", "shard", "size"),
        CheckConstraint("size >= 1", name="tenant_size"),
        CheckConstraint("state IN ('active', 'suspended')", name="tenant_state"),
    )

    id: str = Field(primary_key=True)
    shard: str = Field(foreign_key="shard.id")
    region: str
    zone: str
    size: int
    state: str
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
