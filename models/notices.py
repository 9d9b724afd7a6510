"""What a region tells its tenants about itself, and where each of them may read it."""

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.ids import RegionCode

NoticeKind = Literal["degraded", "normal"]

MESSAGES: dict[NoticeKind, str] = {
    "degraded": "degraded mode, may see stale data",
    "normal": "normal again",
}


class Notice(BaseModel):
    """One notice to all tenants of a region; each of them finds it in its inbox once.

    Attributes:
        id: names it wherever it goes; a receiver that has seen it drops it.
        number: counts within the region, and says the order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"[0-9a-f]{32}")
    region: RegionCode
    number: int = Field(ge=1)
    kind: NoticeKind
    at: AwareDatetime
    message: str


class Posted(BaseModel):
    """What became of a notice: None where the tenants know already, or are not to be told.

    Attributes:
        deliver: whether it goes to a webhook too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    notice: Notice | None = None
    deliver: bool = False


def is_news(kind: NoticeKind, newest: NoticeKind | None) -> bool:
    """Whether the tenants do not know it yet: an outage is told once, however often it is begun."""
    return kind != (newest or "normal")
