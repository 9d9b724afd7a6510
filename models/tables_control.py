"""Tables of the control plane: who may change the fleet, what failed, what regions looked like."""

from datetime import datetime

from sqlalchemy import Column, DateTime
from sqlmodel import JSON, Field, SQLModel


class FleetLease(SQLModel, table=True):
    """One row a fleet: the rollout that holds it and the highest epoch ever granted."""

    __tablename__ = "fleet_lease"

    fleet: str = Field(primary_key=True)
    epoch: int
    holder: str = Field(default="", description="workflow id; empty: the fleet is free")
    run: str = ""
    phase: str = ""


class KnownBad(SQLModel, table=True):
    """A release that a gate stopped; a later rollout of it is refused unless a person insists."""

    __tablename__ = "known_bad"

    release: str = Field(primary_key=True)
    rollout: str
    why: str
    at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class CatalogCopy(SQLModel, table=True):
    """A region's last known catalog: lets a plan be made while the region is down."""

    __tablename__ = "catalog_copy"

    region: str = Field(primary_key=True)
    shards: list[dict[str, object]] = Field(sa_column=Column(JSON, nullable=False))
    at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
