"""Talking to Temporal from a command: errors in words, and one exit code for each kind of no."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from temporalio.client import Client, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode

from workers.cli.output import NEGATIVE, UNREACHABLE, USAGE, fail
from workers.process import connect
from workers.settings import load_control, load_region

_T = TypeVar("_T")


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run ``work``; what Temporal or a workflow refuses ends the command with its words."""
    try:
        return asyncio.run(work)
    except WorkflowFailureError as error:
        fail(str(getattr(error.cause, "message", error.cause)), USAGE)
    except WorkflowUpdateFailedError as error:
        fail(str(getattr(error.cause, "message", error.cause)), NEGATIVE)
    except RPCError as error:
        wrong = error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT)
        fail(f"Temporal: {error.message}", USAGE if wrong else UNREACHABLE)
    except RuntimeError as error:
        fail(f"Temporal does not answer: {error}", UNREACHABLE)


async def control_client() -> Client:
    """A client of the control plane's namespace."""
    return await connect(load_control().temporal)


async def region_client(region: str) -> Client:
    """A client of a region's namespace."""
    return await connect(load_region(region).temporal)


async def next_id(client: Client, workflow: str, prefix: str) -> str:
    """The next free workflow id of the form ``prefix/n``."""
    query = f'WorkflowType = "{workflow}" AND WorkflowId STARTS_WITH "{prefix}/"'
    taken = (await client.count_workflows(query)).count
    while True:
        taken += 1
        try:
            await client.get_workflow_handle(f"{prefix}/{taken}").describe()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return f"{prefix}/{taken}"
