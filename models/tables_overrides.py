"""The table of overrides: releases that two people let through although verification refuses."""

from datetime import datetime

from sqlalchemy import Column, DateTime, Index
from sqlmodel import Field, SQLModel


class OverrideRow(SQLModel, table=True):
    """A break-glass that was approved; in force until ``expires`` unless it was ended before."""

    __tablename__ = "break_glass"
    __table_args__ = (Index("break_glass_release", "release", "expires"),)

    id: str = Field(primary_key=True)
    release: str
    opened_by: str
    approved_by: str
    reason: str
    expires: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    ended: bool = False
