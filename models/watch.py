"""Inputs and answers of the watch over a region's primary, and when it may fail over by itself."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.ids import Actor, Reason
from models.probe import Health, Probe, Verdict

ACTOR = "watch"
COOL_DOWN = timedelta(minutes=5)
"""After a failover the next one by itself waits so long; twice as long after each further one."""
DAY = timedelta(days=1)
MOST_A_DAY = 3
"""Failovers that begin by themselves within a day; after that a person decides."""
KEPT = 20


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WatchSettings(_Model):
    """What the region's configuration says of watching it, in seconds."""

    interval: int
    timeout: int
    automatic: bool
    initiate_within: int


class Decision(_Model):
    """A person's word on the watch."""

    actor: Actor
    reason: Reason


class WatchRequest(_Model):
    """Input of ``WatchRegion``: what it knew when it was continued.

    Attributes:
        ended: when failovers ended, the oldest first.
        standing: the verdict that is not dealt with.
        rounds: after so many it goes on with a history of its own.
    """

    ended: tuple[AwareDatetime, ...] = ()
    standing: Verdict | None = None
    paused: Decision | None = None
    rounds: int = Field(default=500, ge=1)


class WatchStep(_Model):
    """Probe the store for a while.

    Attributes:
        standing: the verdict that is known; only what changes it is news.
        until: when it may be acted on, if it still stands then.
    """

    standing: Verdict | None = None
    until: AwareDatetime | None = None


class WatchReport(_Model):
    """What probing has shown: a verdict to act on, the end of one, or only that time has passed.

    Attributes:
        at: when it was given.
    """

    at: AwareDatetime
    last: Probe | None = None
    verdict: Verdict | None = None
    recovered: bool = False


class StartedFailOver(_Model):
    """The failover that is under way; ``found``: somebody else had started it."""

    workflow: str
    found: bool


class FailOverEnd(_Model):
    """How a failover ended; ``why`` it did not bring the region back."""

    normal: bool
    why: str = ""


WatchState = Literal["watching", "alarm", "failing over", "paused"]


class WatchStatus(BaseModel):
    """Answer of the ``status`` query.

    Attributes:
        since: when it came into this state.
        last: the newest probe that was reported; the activity's heartbeat has newer ones.
        verdict: what stands against the store.
        failover: the workflow of the newest failover that followed from a verdict.
        next_failover: not before then one begins by itself; None: at once.
    """

    model_config = ConfigDict(extra="forbid")

    region: str
    state: WatchState
    why: str = ""
    since: AwareDatetime
    last: Probe | None = None
    verdict: Verdict | None = None
    failover: str = ""
    next_failover: AwareDatetime | None = None
    paused: Decision | None = None
    ended: list[AwareDatetime] = Field(default_factory=list)


def next_failover(ended: Sequence[datetime], now: datetime) -> datetime:
    """When the next failover may begin by itself; not later than ``now``: at once."""
    recent = [each for each in ended if now - each < DAY]
    if not recent:
        return now
    if len(recent) >= MOST_A_DAY:
        return sorted(recent)[-MOST_A_DAY] + DAY
    longer: int = 2 ** (len(recent) - 1)
    return max(recent) + COOL_DOWN * longer


def reported(
    step: WatchStep, health: Health, *, degraded: bool, over: bool, now: datetime
) -> WatchReport | None:
    """What there is to say after a probe; None: nothing yet.

    Args:
        degraded: whether the region still serves from its buffer. A failover that did not come to
            its end leaves it so, and a store that is well again does not change that.
        over: whether probing has lasted so long that its state is to be shown in any case.
    """
    verdict = health.verdict
    if step.standing is None:
        if verdict is None and not over:
            return None
        return WatchReport(at=now, last=health.last, verdict=verdict)
    if health.recovered and not degraded:
        return WatchReport(at=now, last=health.last, recovered=True)
    if degraded and verdict is None:
        verdict = step.standing
    due = step.until is not None and now >= step.until
    if (verdict is not None and due) or over:
        return WatchReport(at=now, last=health.last, verdict=verdict)
    return None
