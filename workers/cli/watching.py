"""Following a rollout on a terminal: one line a change, quiet in between."""

import asyncio

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from models.rollout import FINAL_STATES, RolloutStatus
from workers.cli.output import console

POLL_SECONDS = 0.5


async def watch_rollout(client: Client, rollout: str) -> RolloutStatus:
    """Print what changes until the rollout ends, and return its final status.

    A worker or server that restarts meanwhile is waited for.

    Raises:
        WorkflowFailureError: the workflow failed, was terminated or timed out.
    """
    handle = client.get_workflow_handle(rollout)
    said = ""
    while True:
        try:
            status: RolloutStatus = await handle.query("status", result_type=RolloutStatus)
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                raise
            await asyncio.sleep(POLL_SECONDS)
            continue
        line = _line(status)
        if line != said:
            console.print(line, highlight=False)
            said = line
        if status.state in FINAL_STATES and status.ended is not None:
            return status
        if (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
            await handle.result()  # it failed or was terminated: this raises, and says why
        await asyncio.sleep(POLL_SECONDS)


def _line(status: RolloutStatus) -> str:
    ring = next((ring for ring in status.rings if ring.name == status.ring), None)
    parts = [f"[bold]{status.state}[/bold]"]
    if ring is not None:
        parts.append(f"ring {ring.name}: {ring.activated}/{ring.shards} shards")
        if ring.verdict is not None:
            parts.append(f"look {ring.verdict.look}/{ring.verdict.looks}: {ring.verdict.outcome}")
    if status.waiting_for:
        parts.append(f"waiting for {', '.join(status.waiting_for)}")
    if status.why:
        parts.append(status.why)
    return "  ".join(parts)
