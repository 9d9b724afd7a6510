"""The operations calendar as code: which workflows Temporal starts by itself, and how often.

Applying it twice changes nothing; a schedule that was paused by a person stays paused.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from models.config import Config
from models.drill import WHAT, DrillKind
from models.validation import INTERVAL
from workers.temporal_setup import CONTROL_QUEUE, RECOVERY_QUEUE

CATCH_UP = timedelta(hours=1)
"""A start that was missed while Temporal was down is made up for when it is not older."""


@dataclass(frozen=True)
class Planned:
    """One line of the calendar."""

    id: str
    workflow: str
    note: str
    every: timedelta | None = None
    at: ScheduleCalendarSpec | None = None
    input: dict[str, Any] = field(default_factory=dict)
    queue: str = CONTROL_QUEUE
    catch_up: timedelta = CATCH_UP
    wanted: bool = True
    """Whether the configuration has it; else it is taken out of the calendar."""

    @property
    def rhythm(self) -> str:
        """How often, for people."""
        return str(self.every) if self.every is not None else str(self.at and self.at.comment)


def calendar() -> list[Planned]:
    """What the control plane does regularly."""
    return [
        Planned(
            id="vulnerabilities/refresh",
            workflow="RefreshVulnerabilities",
            every=timedelta(hours=6),
            note="load the feeds of [sbom.feeds]; what they say anew has the fleet judged again",
        ),
        Planned(
            id="releases/rejudge",
            workflow="RejudgeDeployments",
            every=timedelta(hours=1),
            note="judge what runs by today's data: an exception may have run out",
            input={"reason": "scheduled"},
        ),
        Planned(
            id="evidence/check",
            workflow="CheckEvidence",
            every=timedelta(days=1),
            note="read back all that verdicts were given on; a run that fails names what is lost",
        ),
    ]


def region_calendar(region: str, config: Config) -> list[Planned]:
    """What a region does regularly, in a namespace of its own."""
    hours = config.backup.snapshot_interval_hours
    snapshot = Planned(
        id=f"snapshot/{region}",
        workflow="SnapshotRegion",
        every=timedelta(hours=hours),
        note="a restore begins with the newest snapshot and replays what came after it",
        input={"reason": "scheduled"},
        queue=RECOVERY_QUEUE,
    )
    return [
        snapshot,
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


async def apply(client: Client, planned: Planned) -> str:
    """Create or update a schedule, or take it out; says which."""
    if not planned.wanted:
        return await _take_out(client, planned)
    try:
        await client.create_schedule(planned.id, _schedule(planned, ScheduleState()))
    except ScheduleAlreadyRunningError:
        pass
    else:
        return "created"
    handle = client.get_schedule_handle(planned.id)

    def update(found: ScheduleUpdateInput) -> ScheduleUpdate:
        return ScheduleUpdate(_schedule(planned, found.description.schedule.state))

    await handle.update(update)
    return "updated"


async def _take_out(client: Client, planned: Planned) -> str:
    try:
        await client.get_schedule_handle(planned.id).delete()
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
    return "not wanted"


def _schedule(planned: Planned, state: ScheduleState) -> Schedule:
    state.note = state.note or planned.note
    return Schedule(
        action=ScheduleActionStartWorkflow(
            planned.workflow, planned.input, id=planned.id, task_queue=planned.queue
        ),
        spec=ScheduleSpec(
            intervals=[ScheduleIntervalSpec(every=planned.every)] if planned.every else [],
            calendars=[planned.at] if planned.at else [],
        ),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=planned.catch_up),
        state=state,
    )
