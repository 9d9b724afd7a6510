"""Effects of the watch: probing a region's primary, and starting the failover that follows."""

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from models.probe import Health, Pace, Probe, Verdict
from models.recovery import FailOverRequest, FailOverStatus
from models.watch import (
    FailOverEnd,
    StartedFailOver,
    WatchReport,
    WatchSettings,
    WatchStep,
    reported,
)
from stores.probe import Prober
from stores.probing import Probing

BEAT_S = 1.0
REPORT_S = 600.0
"""After so long the state is shown where people look, although nothing has changed."""


class Gauges(Protocol):
    """Where the watch is measured."""

    def probed(self, probe: Probe) -> None:
        """One more probe."""

    def standing(self, verdict: Verdict | None) -> None:
        """What stands against the store now."""

    def failed_over(self, *, normal: bool) -> None:
        """A failover that the watch followed has ended."""


class WatchActivities:
    """What the recovery worker does to watch one region's primary.

    Args:
        rules: how to probe, by the configuration as it is now.
        settings: the same, as far as the workflow goes by it.
        degraded: whether the region serves from its buffer now.
    """

    def __init__(
        self,
        prober: Prober,
        *,
        rules: Callable[[], Pace],
        settings: Callable[[], WatchSettings],
        degraded: Callable[[], bool],
        gauges: Gauges,
    ) -> None:
        self._prober = prober
        self._rules = rules
        self._settings = settings
        self._degraded = degraded
        self._gauges = gauges
        self._probing = Probing(prober.probe)
        self._alone = threading.Lock()

    @activity.defn
    def watch_settings(self) -> WatchSettings:
        """What the configuration says now."""
        return self._settings()

    @activity.defn
    def watch_store(self, step: WatchStep) -> WatchReport:
        """Probe the primary until there is something to say; the newest probe is the heartbeat.

        Begun again, as by another worker after this one is gone, it begins with no suspicion.
        """
        self._take_turn()
        try:
            return self._watch(step)
        finally:
            self._alone.release()

    @activity.defn
    async def start_failover(self, request: FailOverRequest) -> StartedFailOver:
        """Start a failover, unless one is under way: that one then counts."""
        return await start_failover(activity.client(), activity.info().task_queue, request)

    @activity.defn
    async def follow_failover(self, workflow: str) -> FailOverEnd:
        """Wait until a failover has ended, and say how."""
        handle = activity.client().get_workflow_handle(workflow, result_type=FailOverStatus)
        ending = asyncio.ensure_future(handle.result())
        try:
            while not ending.done():
                activity.heartbeat()
                await asyncio.wait({ending}, timeout=BEAT_S)
            status = await ending
            end = FailOverEnd(normal=status.state == "normal", why=status.why)
        except WorkflowFailureError as error:
            end = FailOverEnd(normal=False, why=str(getattr(error.cause, "message", error.cause)))
        finally:
            ending.cancel()
        self._gauges.failed_over(normal=end.normal)
        return end

    def _take_turn(self) -> None:
        """Wait until an earlier call has noticed that it is over."""
        while not self._alone.acquire(timeout=BEAT_S):
            activity.heartbeat()

    def _watch(self, step: WatchStep) -> WatchReport:
        rules = self._rules()
        self._prober.slow = rules.slow
        self._probing.drop()
        self._gauges.standing(step.standing)
        health, ends = Health(), time.monotonic() + REPORT_S
        while True:
            if activity.is_worker_shutdown():
                raise ApplicationError("the worker ends; another one goes on", type="WorkerEnds")
            for probe in self._probing.step(rules, BEAT_S):
                self._gauges.probed(probe)
                health = health.after(probe)
            activity.heartbeat(health.last)
            report = reported(
                step,
                health,
                degraded=self._degraded(),
                over=time.monotonic() >= ends,
                now=datetime.now(UTC),
            )
            if report is not None:
                if report.verdict is not None or report.recovered:
                    self._gauges.standing(report.verdict)
                return report


async def start_failover(client: Client, queue: str, request: FailOverRequest) -> StartedFailOver:
    """Start a region's failover under the next free id; one that is under way is found instead.

    Two that ask at once take the same id, and the server gives it to one of them.
    """
    running = 'WorkflowType = "FailOver" AND ExecutionStatus = "Running"'
    async for found in client.list_workflows(running):
        if await _runs(client, found.id):  # the list may be behind
            return StartedFailOver(workflow=found.id, found=True)
    prefix = f"failover/{client.namespace}"
    number = 1 + (await client.count_workflows(_ALL)).count
    while (state := await _state(client, f"{prefix}/{number}")) is not None:
        if state is WorkflowExecutionStatus.RUNNING:
            return StartedFailOver(workflow=f"{prefix}/{number}", found=True)
        number += 1
    before = f"{prefix}/{number - 1}"
    if await _runs(client, before):  # it is so new that no list has it
        return StartedFailOver(workflow=before, found=True)
    workflow = f"{prefix}/{number}"
    try:
        await client.start_workflow("FailOver", request, id=workflow, task_queue=queue)
    except WorkflowAlreadyStartedError:
        return StartedFailOver(workflow=workflow, found=True)
    return StartedFailOver(workflow=workflow, found=False)


_ALL = 'WorkflowType = "FailOver"'


async def _runs(client: Client, workflow: str) -> bool:
    return await _state(client, workflow) is WorkflowExecutionStatus.RUNNING


async def _state(client: Client, workflow: str) -> WorkflowExecutionStatus | None:
    """How a workflow is; None: there is none."""
    try:
        return (await client.get_workflow_handle(workflow).describe()).status
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None
