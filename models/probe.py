"""When a region's primary counts as down, corrupted or slow: rules over single probes.

A probe writes and reads a canary document. Two bad probes in a row make a verdict, so that one
that was lost is no outage, and a store that fails every other time is none either. A probe that is
not answered has another one begun beside it: what hangs must not hide what it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.config_recovery import FailureDetection

Fault = Literal["down", "corrupted", "slow"]
Outcome = Literal["ok", "down", "corrupted", "slow"]

LOST = 2
"""Bad probes in a row that make a verdict."""
RECOVERED = 3
"""Good probes in a row after which a verdict no longer stands."""
MOST_FLYING = 4
"""Probes under way at once, those that hang for good among them."""
_KEPT = 5


class Probe(BaseModel):
    """One look at a region's primary.

    Attributes:
        at: when it began; no two probes of a store begin at once.
        seconds: how long its reads took, or for how long there was no answer.
        store: whose answer it is; empty where nothing said so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: Outcome
    at: AwareDatetime
    seconds: float = Field(ge=0)
    why: str = Field(default="", max_length=500)
    store: str = ""


class Verdict(BaseModel):
    """A fault that several probes found, and these.

    Attributes:
        since: when the first of them began.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Fault
    since: AwareDatetime
    evidence: tuple[Probe, ...]

    @property
    def why(self) -> str:
        """In words, for people and receipts."""
        return f"{self.fault}: {self.evidence[-1].why}"[:400]


@dataclass(frozen=True)
class Pace:
    """When probes begin and how long they are waited for, in seconds.

    Attributes:
        interval: from the beginning of a probe that was answered to that of the next.
        beside: after so long without an answer another probe is begun.
        patience: a probe without an answer for so long is lost.
        slow: reads that take longer than this make a probe slow.
    """

    interval: float
    beside: float
    patience: float
    slow: float

    @property
    def worst(self) -> float:
        """The longest from a failure to its verdict: no probe was looking, and then two hang."""
        return self.interval + max(self.interval, self.beside + self.patience)


def pace(config: FailureDetection) -> Pace:
    """How to probe, so that a verdict needs five sixths of ``heartbeat_timeout_seconds`` at most.

    A read slower than the patience that this leaves is taken for one that never ends.
    """
    interval = float(config.heartbeat_interval_seconds)
    beside = 0.4 * interval
    left = config.heartbeat_timeout_seconds * 5 / 6 - interval - beside
    slow = config.read_latency_threshold_ms / 1000
    return Pace(interval, beside, min(slow, left), slow)


def timed(seconds: float, slow: float) -> tuple[Outcome, str]:
    """What a probe that found nothing wrong is by the time that its reads took."""
    if seconds <= slow:
        return "ok", ""
    return "slow", f"a read took {seconds:.1f} s, {slow:g} s are allowed"


def next_begin(pace: Pace, last: float | None, flying: Sequence[float], hung: int) -> float | None:
    """When the next probe begins; None: not before one that is under way has ended.

    Args:
        last: when the newest one began; None: there was none.
        flying: when those began that are not answered and not lost yet.
        hung: how many are lost and still under way.
    """
    if last is None:
        return 0.0
    if len(flying) + hung >= MOST_FLYING or len(flying) >= LOST:
        return None
    return max(flying) + pace.beside if flying else last + pace.interval


class Health(BaseModel):
    """What the probes so far say together.

    Attributes:
        good: the newest good probe.
        run: how many good ones there were since the last bad one.
        bad: those that began after the newest good one, the oldest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    good: Probe | None = None
    run: int = 0
    bad: tuple[Probe, ...] = ()

    def after(self, probe: Probe) -> "Health":
        """With one more probe; one that began before a good one says nothing any more.

        A probe that was lost and is answered after all counts once, as what it was answered.
        """
        others = [each for each in self.bad if each.at != probe.at]
        if probe.outcome == "ok":
            left = tuple(each for each in others if each.at > probe.at)
            newest = self.good if self.good and self.good.at > probe.at else probe
            return Health(good=newest, run=0 if left else self.run + 1, bad=left)
        if self.good is not None and probe.at <= self.good.at:
            return self
        bad = sorted([*others, probe], key=lambda each: each.at)
        return Health(good=self.good, run=0, bad=tuple(bad[-_KEPT:]))

    @property
    def last(self) -> Probe | None:
        """The newest probe."""
        return self.bad[-1] if self.bad else self.good

    @property
    def verdict(self) -> Verdict | None:
        """What stands, if anything does."""
        if len(self.bad) < LOST:
            return None
        outcomes = {each.outcome for each in self.bad[-LOST:]}
        fault: Fault = "slow" if "slow" in outcomes else "down"
        if outcomes == {"corrupted"}:  # the gravest, so that one that was misread does not make it
            fault = "corrupted"
        return Verdict(fault=fault, since=self.bad[0].at, evidence=self.bad)

    @property
    def recovered(self) -> bool:
        """Whether a verdict that stood does not any more."""
        return not self.bad and self.run >= RECOVERED
