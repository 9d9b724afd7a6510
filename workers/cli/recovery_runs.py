"""What the commands of recovery do alike: start a region's workflow, follow it, decide in it."""

import asyncio
import contextlib
from collections.abc import Collection
from typing import Protocol, TypeVar

from pydantic import BaseModel
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle

from workers.cli.temporal import next_id, region_client
from workers.temporal_setup import RECOVERY_QUEUE

POLL_SECONDS = 0.5
WAITING = "waiting"
"""The state of a workflow that goes on when a person has decided."""


class HasState(Protocol):
    """What every status says."""

    @property
    def state(self) -> str:
        """A word."""


Result = TypeVar("Result")
Status = TypeVar("Status", bound=HasState)
Run = tuple[str, Status]
"""A workflow's id, and how it stands."""


async def begin(
    region: str, workflow: str, prefix: str, request: BaseModel, result: type[Result]
) -> "WorkflowHandle[object, Result]":
    """Start a workflow of a region under the next free id of its kind."""
    client = await region_client(region)
    handle: WorkflowHandle[object, Result] = await client.start_workflow(
        workflow,
        request,
        id=await next_id(client, workflow, prefix),
        task_queue=RECOVERY_QUEUE,
        result_type=result,
    )
    return handle


async def ended(handle: "WorkflowHandle[object, Status]", status: type[Status]) -> Run[Status]:
    """How a workflow stands at its end, a bad one included."""
    with contextlib.suppress(WorkflowFailureError):  # its status says why
        await handle.result()
    return handle.id, await handle.query("status", result_type=status)


async def settled(
    handle: "WorkflowHandle[object, Status]", status: type[Status], over: Collection[str]
) -> Run[Status]:
    """How a workflow stands at its end, or as soon as a person must decide."""
    while True:
        described = await handle.describe()
        found: Status = await handle.query("status", result_type=status)
        gone = described.status is not WorkflowExecutionStatus.RUNNING  # terminated, say
        if gone or found.state in (*over, WAITING):
            return handle.id, found
        await asyncio.sleep(POLL_SECONDS)


async def standing(region: str, workflow: str, status: type[Status]) -> Run[Status]:
    """How a workflow stands now."""
    client = await region_client(region)
    found: Status = await client.get_workflow_handle(workflow).query("status", result_type=status)
    return workflow, found


async def decided(
    region: str,
    workflow: str,
    update: str,
    decision: BaseModel,
    status: type[Status],
    over: Collection[str],
) -> Run[Status]:
    """Have a decision taken, and follow what comes of it."""
    client = await region_client(region)
    handle: WorkflowHandle[object, Status] = client.get_workflow_handle(workflow)
    await handle.execute_update(update, decision, result_type=status)
    return await settled(handle, status, over)
