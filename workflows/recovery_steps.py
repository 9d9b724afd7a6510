"""Steps that the recovery workflows share: activities, receipts, incidents, SLAs."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

from models.receipts import Draft
from models.recovery_incident import (
    JudgeFailOver,
    JudgeRestore,
    RaiseIncident,
    RecoveryIncidentKind,
    RecoveryIncidentRequest,
)
from workflows.regions import plain_words

HEARTBEAT = timedelta(seconds=30)
"""Without one for so long its process is taken for dead, and the step is tried again."""
QUICK = timedelta(minutes=1)
STEP = timedelta(minutes=5)
LONG = timedelta(hours=6)
"""What reads a whole backup."""
JUDGING = timedelta(minutes=10)
PERSISTENT = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1)
)

_Result = TypeVar("_Result")


async def recovery_step(
    name: str,
    argument: Any,
    result: type[_Result],
    summary: str,
    limit: timedelta = STEP,
    within: timedelta | None = None,
) -> _Result:
    """Run one activity; only what it refuses for good is an error.

    Args:
        limit: of one attempt.
        within: of all attempts together; None: it is tried for ever.
    """
    found: _Result = await workflow.execute_activity(
        name,
        argument,
        result_type=result,
        summary=summary,
        start_to_close_timeout=limit,
        schedule_to_close_timeout=within,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=PERSISTENT,
    )
    return found


def source() -> str:
    """This run, as incidents name who saw their cause."""
    info = workflow.info()
    return f"{info.workflow_id} ({info.run_id[:8]})"


async def judged(step: JudgeRestore | JudgeFailOver) -> str:
    """Hold what is done against the SLAs: the incident's id, "" when all were kept.

    What was recovered stays so whatever the judgement: one that cannot be given is said instead.
    """
    name = "judge_restore" if isinstance(step, JudgeRestore) else "judge_failover"
    try:
        found: str = await workflow.execute_activity(
            name,
            step,
            result_type=str,
            summary="hold it against the SLAs",
            start_to_close_timeout=QUICK,
            schedule_to_close_timeout=JUDGING,
            retry_policy=PERSISTENT,
        )
    except ActivityError as error:
        return f"not judged: {plain_words(error)}"
    return found


async def raise_incident(
    kind: RecoveryIncidentKind, cause: str, why: str, certificate: str = ""
) -> str:
    """Open an incident of this region, or add to the one that is open; its workflow id."""
    request = RecoveryIncidentRequest(
        region=workflow.info().namespace,
        kind=kind,
        cause=cause[:500],
        why=why[:2000],
        certificate=certificate,
    )
    found: str = await workflow.execute_activity(
        "raise_recovery_incident",
        RaiseIncident(request=request, source=source()),
        result_type=str,
        summary=f"incident: {kind}",
        start_to_close_timeout=QUICK,
        retry_policy=PERSISTENT,
    )
    return found


async def record(kind: str, actor: str, body: Mapping[str, Any]) -> int:
    """Append this run's receipt of a kind to the region's ledger, once; its number.

    Where the region's store is down this waits for it.
    """
    info = workflow.info()
    draft = Draft(
        kind=kind,
        actor=actor,
        subject=info.namespace,
        body=dict(body),
        workflow_id=info.workflow_id,
        run_id=info.run_id,
        idempotency_key=f"{kind}/{info.workflow_id}/{info.run_id}",
    )
    seq: int = await workflow.execute_activity(
        "record_recovery",
        draft,
        result_type=int,
        summary=f"receipt: {kind}",
        start_to_close_timeout=QUICK,
        retry_policy=PERSISTENT,
    )
    return seq
