"""Which store is a region's primary, and how the gateway serves its tenants meanwhile."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from models.buffer import LARGEST_EPOCH
from models.ids import RegionCode

Mode = Literal["normal", "buffered", "draining"]
"""``normal``: by the primary. ``buffered``: writes go to the buffer, reads are the buffer over a
snapshot. ``draining``: reads as before, writes are told to come back, because the buffer's last
records are on their way into the primary: between two modes that both take writes there must be a
moment in which none does."""


LONGEST_WHY = 500
"""Characters."""


class Primary(BaseModel):
    """The state of a region's request path; whoever changes it takes a higher epoch.

    Attributes:
        snapshot: URL of the store that is read while the primary is down, as it was at
            ``snapshot_at``; None: there is none, and only buffered keys can be answered for.
        why: for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionCode
    epoch: int = Field(ge=0, le=LARGEST_EPOCH)
    mode: Mode
    snapshot: str | None = None
    snapshot_at: AwareDatetime | None = None
    why: str = Field(default="", max_length=LONGEST_WHY)

    @field_validator("snapshot")
    @classmethod
    def _no_password(cls, url: str | None) -> str | None:
        if url is not None and urlsplit(url).password is not None:
            raise ValueError("must hold no password, others can read this file")
        return url

    @model_validator(mode="after")
    def _dated(self) -> "Primary":
        if (self.snapshot is None) != (self.snapshot_at is None):
            raise ValueError("snapshot_at: goes with snapshot, and only with it")
        return self
