"""What keeps a region's backup good, by the calendar: drills, reading, pruning."""

from datetime import timedelta
from typing import Any

from temporalio.client import ScheduleCalendarSpec, ScheduleRange

from models.config import Config
from models.drill import WHAT, DrillKind
from models.validation import INTERVAL
from workers.planned import Planned
from workers.temporal_setup import RECOVERY_QUEUE


def upkeep_calendar(region: str, config: Config) -> list[Planned]:
    """A region's own times for all of it."""
    return [
        _pruning(region, config),
        *_validation(region, config),
        *_drills(region, config),
    ]


def _validation(region: str, config: Config) -> list[Planned]:
    """The reading of a region's backup: all of it in a day, and a sample restored each week."""
    _place, hour, minute = _spread(region, config)
    return [
        Planned(
            id=f"validate/{region}",
            workflow="ValidateBackup",
            every=INTERVAL,
            offset=timedelta(minutes=(60 * hour + minute) % 60),
            note="hash and check the next share of the backup; all of it in a day",
            input={"kind": "rotation", "reason": "scheduled"},
            queue=RECOVERY_QUEUE,
        ),
        Planned(
            id=f"sample/{region}",
            workflow="ValidateBackup",
            at=_calendar(f"Saturdays at {1 + hour}:{minute:02d}", 1 + hour, minute, day_of_week=6),
            note=f"restore {config.backup.backup_validation_sampling_percent} % of the documents "
            "at random, and compare them with what was signed",
            input={"kind": "sample", "reason": "scheduled"},
            queue=RECOVERY_QUEUE,
            catch_up=timedelta(days=1),
        ),
    ]


def _pruning(region: str, config: Config) -> Planned:
    _place, hour, minute = _spread(region, config)
    return Planned(
        id=f"prune/{region}",
        workflow="PruneBackup",
        at=_calendar(f"each day at {21 + hour}:{minute:02d}", 21 + hour, minute),
        note=f"remove what no moment of the last {config.backup.retention_days} days needs",
        input={"reason": "scheduled"},
        queue=RECOVERY_QUEUE,
    )


def _spread(region: str, config: Config) -> tuple[int, int, int]:
    """A region's place among all, and hours and minutes that no other region has."""
    regions = sorted(config.regions)
    place = regions.index(region) if region in regions else 0
    minutes = place * 180 // len(regions)
    return place, minutes // 60, minutes % 60


def _drills(region: str, config: Config) -> list[Planned]:
    """A region's rehearsals; no two regions begin one at the same time."""
    regions, testing = sorted(config.regions), config.testing
    place, hour, minute = _spread(region, config)
    rotation = {"region": region, "regions": regions, "sample": testing.backup_restore_test_sample}
    month = 1 + place * 12 // len(regions)
    return [
        _drill(
            region,
            "weekly",
            _calendar(f"Sundays at {1 + hour}:{minute:02d}", 1 + hour, minute, day_of_week=0),
            timedelta(days=1),
            input={"rotation": rotation},
        ),
        _drill(
            region,
            "monthly",
            _calendar(f"each 2nd at {5 + hour}:{minute:02d}", 5 + hour, minute, day_of_month=2),
            timedelta(days=3),
            wanted=testing.monthly_backup_validation,
        ),
        _drill(
            region,
            "yearly",
            _calendar(
                f"each 15th of month {month} at 9:00",
                9,
                0,
                day_of_month=15,
                month=month,
            ),
            timedelta(days=7),
            wanted=testing.annual_disaster_recovery_drill,
        ),
    ]


def _drill(
    region: str,
    kind: DrillKind,
    at: ScheduleCalendarSpec,
    catch_up: timedelta,
    *,
    input: dict[str, Any] | None = None,
    wanted: bool = True,
) -> Planned:
    return Planned(
        id=f"drill/{region}/{kind}",
        workflow="RecoveryDrill",
        at=at,
        note=WHAT[kind],
        input={"kind": kind, "reason": "scheduled", **(input or {})},
        queue=RECOVERY_QUEUE,
        catch_up=catch_up,
        wanted=wanted,
    )


def _calendar(words: str, hour: int, minute: int, **days: int) -> ScheduleCalendarSpec:
    return ScheduleCalendarSpec(
        minute=[ScheduleRange(minute)],
        hour=[ScheduleRange(hour)],
        **{name: [ScheduleRange(value)] for name, value in days.items()},
        comment=words,
    )
