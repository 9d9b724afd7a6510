"""What the commands of recovery do alike: start a region's workflow, follow it, decide in it."""

import asyncio
from collections.abc import Collection
from typing import Protocol, TypeVar

from pydantic import BaseModel
from temporalio.api.failure.v1 import Failure
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowHandle,
)

from workers.cli.output import NEGATIVE, report
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


async def ended(
    region: str, handle: "WorkflowHandle[object, Status]", status: type[Status]
) -> Run[Status]:
    """How a workflow stands at its end, a bad one included.

    Says meanwhile what holds it up, or the one that it waits for, each thing once.
    """
    client, told = await region_client(region), set[str]()
    while True:
        if await _tell_of(client, handle, told) is not WorkflowExecutionStatus.RUNNING:
            return handle.id, await handle.query("status", result_type=status)
        await asyncio.sleep(POLL_SECONDS)


async def settled(
    handle: "WorkflowHandle[object, Status]", status: type[Status], over: Collection[str]
) -> Run[Status]:
    """How a workflow stands at its end, or as soon as a person must decide.

    Says meanwhile what holds it up, each thing once.
    """
    told: set[str] = set()
    while True:
        described = await handle.describe()
        _tell(described, told)
        found: Status = await handle.query("status", result_type=status)
        gone = described.status is not WorkflowExecutionStatus.RUNNING  # terminated, say
        if gone or found.state in (*over, WAITING):
            return handle.id, found
        await asyncio.sleep(POLL_SECONDS)


async def standing(region: str, workflow: str, status: type[Status]) -> Run[Status]:
    """How a workflow stands now; says what holds it up, or the one that it waits for."""
    client = await region_client(region)
    handle = client.get_workflow_handle(workflow)
    await _tell_of(client, handle, set())
    found: Status = await handle.query("status", result_type=status)
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


async def _tell_of(
    client: Client, handle: "WorkflowHandle[object, Status]", told: set[str]
) -> WorkflowExecutionStatus | None:
    """Say what holds a workflow up, or those that it has started; its own status."""
    described = await handle.describe()
    _tell(described, told)
    for child in described.raw_description.pending_children:
        _tell(await client.get_workflow_handle(child.workflow_id).describe(), told)
    return described.status


def _tell(described: WorkflowExecutionDescription, told: set[str]) -> None:
    """Say on standard error what each step that is tried again has failed on last."""
    for each in described.raw_description.pending_activities:
        why = _words(each.last_failure)
        if why and why not in told:
            told.add(why)
            step = f"{each.activity_type.name}, attempt {each.attempt}"
            report(f"{described.id} waits: {step}: {why}", NEGATIVE)


def _words(failure: Failure) -> str:
    """What a step said; of what is too long for it the server keeps the beginning."""
    return (failure.cause if failure.HasField("server_failure_info") else failure).message
