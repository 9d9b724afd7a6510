"""Freeze windows: when no ring of a rollout may start.

One-off windows have a start and an end in RFC 3339; weekly windows have days and wall-clock times
in an IANA time zone. A window without ``regions`` freezes the whole fleet. Everything here is a
pure function of the calendar and the instant asked about; the clock belongs to the caller.

A weekly window keeps to the wall clock over changes of daylight saving time: it starts at the first
instant at which the clock shows ``from`` or has jumped over it, and ends at the last such instant
for ``to``. A repeated hour therefore lengthens a freeze and never interrupts it.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from models.ids import RegionCode

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HORIZON = timedelta(days=400)
"""Longer than a year, so that every change of daylight saving time is seen once."""


_WALL_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?\Z")


class CalendarError(Exception):
    """The calendar never opens: no instant within `HORIZON` is outside its windows."""


class FreezeWindow(BaseModel):
    """One occurrence of a window, in UTC: frozen from ``start`` until just before ``end``."""

    model_config = ConfigDict(frozen=True)

    name: str
    reason: str
    start: AwareDatetime
    end: AwareDatetime


def _wall_time(value: object) -> time:
    """``HH:MM`` and nothing looser: a bare number or an offset would mean something else."""
    if isinstance(value, time) and value.tzinfo is None:
        return value
    if not isinstance(value, str) or not _WALL_TIME.match(value):
        raise ValueError("must be a time of day as HH:MM or HH:MM:SS, from 00:00 to 23:59:59")
    return time.fromisoformat(value)


WallTime = Annotated[time, BeforeValidator(_wall_time)]


class _Window(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    reason: str = Field(default="", max_length=500)
    regions: list[RegionCode] = Field(default=[], description="empty: the whole fleet")

    def concerns(self, regions: Collection[str] | None) -> bool:
        """Whether the window freezes any of ``regions`` (``None``: the whole fleet)."""
        return regions is None or not self.regions or not set(self.regions).isdisjoint(regions)


class OneOffWindow(_Window):
    """A freeze that happens once."""

    start: AwareDatetime
    end: AwareDatetime

    @field_validator("end")
    @classmethod
    def _after_start(cls, end: datetime, info: ValidationInfo) -> datetime:
        start = info.data.get("start")
        if start is not None and end <= start:
            raise ValueError(f"must be after start, {start.isoformat()}")
        return end

    def at(self, instant: datetime) -> FreezeWindow | None:
        """The window as an occurrence, when ``instant`` lies in it."""
        if not self.start <= instant < self.end:
            return None
        return _occurrence(self, self.start, self.end)


class WeeklyWindow(_Window):
    """A freeze of every week.

    It starts at ``from`` on each of ``days`` and ends at the next ``to``: on the following day when
    ``to`` is not later than ``from``, so that equal times freeze 24 hours of the wall clock.
    """

    days: list[Weekday] = Field(min_length=1)
    from_: WallTime = Field(alias="from")
    to: WallTime
    zone: str = Field(description="IANA name, as Europe/Berlin")

    @field_validator("zone")
    @classmethod
    def _exists(cls, zone: str) -> str:
        zone_of(zone)
        return zone

    def at(self, instant: datetime) -> FreezeWindow | None:
        """The occurrence that ``instant`` lies in, if any."""
        zone = zone_of(self.zone)
        today = instant.astimezone(zone).date()
        for day in (today - timedelta(days=1), today):
            if WEEKDAYS[day.weekday()] in self.days:
                start, end = self._bounds(day, zone)
                if start <= instant < end:
                    return _occurrence(self, start, end)
        return None

    def _bounds(self, day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
        last_day = day if self.to > self.from_ else day + timedelta(days=1)
        first = _instants(datetime.combine(day, self.from_), zone)[0]
        last = _instants(datetime.combine(last_day, self.to), zone)[-1]
        return first, last


class Calendar(BaseModel):
    """All freeze windows of the fleet; the configuration's section ``[calendar]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    freeze: list[OneOffWindow] = []
    weekly: list[WeeklyWindow] = []

    def blocked(self, at: datetime, regions: Collection[str] | None = None) -> FreezeWindow | None:
        """The window that forbids a ring to start at ``at``: of several, the one that ends last.

        Args:
            at: an instant with an offset.
            regions: the regions that the ring changes; ``None`` stands for all of them.
        """
        return max(self._around(at, regions), key=lambda window: window.end, default=None)

    def next_open(self, at: datetime, regions: Collection[str] | None = None) -> datetime:
        """The first instant from ``at`` on that no window forbids, in UTC.

        Raises:
            CalendarError: there is none within `HORIZON` after the last one-off window.
        """
        opens = at.astimezone(UTC)
        limit = self._limit(opens)
        while window := self.blocked(opens, regions):
            if window.end >= limit:
                raise CalendarError(
                    f"no instant between {at.isoformat()} and {limit.isoformat()} "
                    f"is outside the freeze windows; {window.name!r} is the last of them"
                )
            opens = window.end
        return opens

    def _around(self, at: datetime, regions: Collection[str] | None) -> Iterator[FreezeWindow]:
        windows: list[OneOffWindow | WeeklyWindow] = [*self.freeze, *self.weekly]
        for window in windows:
            if window.concerns(regions) and (occurrence := window.at(at)):
                yield occurrence

    def _limit(self, at: datetime) -> datetime:
        latest = max([at, *(window.end for window in self.freeze)])
        try:
            return latest.astimezone(UTC) + HORIZON
        except OverflowError:
            return datetime(9999, 1, 1, tzinfo=UTC)  # no local time of it overflows


def zone_of(name: str) -> ZoneInfo:
    """The time zone of an IANA name.

    Raises:
        ValueError: there is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name!r}: use an IANA name as Europe/Berlin") from None


def _occurrence(window: _Window, start: datetime, end: datetime) -> FreezeWindow:
    return FreezeWindow(
        name=window.name,
        reason=window.reason,
        start=start.astimezone(UTC),
        end=end.astimezone(UTC),
    )


def _instants(wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """The instants, in UTC, at which a zone's clocks show ``wall``: one, or two when repeated.

    A time that the clocks jump over gives the instant of the jump.
    """
    both = [wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    if both[0] > both[1]:  # PEP 495: the fold inverts the order only in a gap
        return [_jump(both[1], both[0], zone)]
    return sorted(set(both))


def _jump(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The instant between two at which a zone's clocks go forward, to the second."""
    seconds = range(int(before.timestamp()), int(after.timestamp()) + 1)
    target = after.astimezone(zone).utcoffset()
    assert target is not None
    found = bisect_left(
        seconds,
        target,
        key=lambda second: datetime.fromtimestamp(second, zone).utcoffset() or timedelta(),
    )
    return datetime.fromtimestamp(seconds[found], UTC)
