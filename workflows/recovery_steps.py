"""Activities of recovery as its workflows call them: tried until they answer or refuse."""

from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy

HEARTBEAT = timedelta(seconds=60)
QUICK = timedelta(minutes=5)
LONG = timedelta(hours=6)
"""What reads a whole backup; such a step heartbeats."""

PERSISTENT = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1)
)

_Result = TypeVar("_Result")


async def recovery_step(
    name: str,
    argument: Any,
    result: type[_Result],
    summary: str,
    limit: timedelta = QUICK,
    heartbeat: timedelta | None = None,
) -> _Result:
    """Run one activity; only what it refuses for good is an error."""
    found: _Result = await workflow.execute_activity(
        name,
        argument,
        result_type=result,
        summary=summary,
        start_to_close_timeout=limit,
        heartbeat_timeout=heartbeat,
        retry_policy=PERSISTENT,
    )
    return found
