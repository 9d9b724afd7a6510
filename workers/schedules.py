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
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from models.config_recovery import Backup
from workers.temporal_setup import CONTROL_QUEUE, RECOVERY_QUEUE

CATCH_UP = timedelta(hours=1)
"""A start that was missed while Temporal was down is made up for when it is not older."""


@dataclass(frozen=True)
class Planned:
    """One line of the calendar."""

    id: str
    workflow: str
    every: timedelta
    note: str
    input: dict[str, Any] = field(default_factory=dict)
    queue: str = CONTROL_QUEUE


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


def region_calendar(region: str, backup: Backup) -> list[Planned]:
    """What a region does regularly, in a namespace of its own."""
    return [
        Planned(
            id=f"snapshot/{region}",
            workflow="SnapshotRegion",
            every=timedelta(hours=backup.snapshot_interval_hours),
            note="a restore begins with the newest snapshot and replays what came after it",
            input={"reason": "scheduled"},
            queue=RECOVERY_QUEUE,
        )
    ]


async def apply(client: Client, planned: Planned) -> str:
    """Create or update a schedule; says which."""
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


def _schedule(planned: Planned, state: ScheduleState) -> Schedule:
    state.note = state.note or planned.note
    return Schedule(
        action=ScheduleActionStartWorkflow(
            planned.workflow, planned.input, id=planned.id, task_queue=planned.queue
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=planned.every)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
        state=state,
    )
