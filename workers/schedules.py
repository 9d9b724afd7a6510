"""The operations calendar as code: which workflows Temporal starts by itself, and how often.

Applying it twice changes nothing; a schedule that was paused by a person stays paused.
"""

from datetime import timedelta

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
from temporalio.service import RPCError, RPCStatusCode

from models.config import Config
from workers.planned import Planned
from workers.temporal_setup import RECOVERY_QUEUE
from workers.upkeep_calendar import upkeep_calendar


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
        *upkeep_calendar(region, config),
    ]


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
            intervals=_intervals(planned),
            calendars=[planned.at] if planned.at else [],
        ),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=planned.catch_up),
        state=state,
    )


def _intervals(planned: Planned) -> list[ScheduleIntervalSpec]:
    if planned.every is None:
        return []
    return [ScheduleIntervalSpec(every=planned.every, offset=planned.offset)]
