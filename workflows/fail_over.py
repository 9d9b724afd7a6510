"""`FailOver`: keep a region's tenants writing while its store is brought back."""

from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

from models.recovery import (
    Degraded,
    Drained,
    DrainStore,
    FailOverPhase,
    FailOverRequest,
    FailOverStatus,
    RestoreRequest,
    RestoreStatus,
)
from models.recovery_incident import JudgeFailOver
from workflows.journey import STATE
from workflows.recovery_steps import judged, source
from workflows.regions import plain_words

QUICK = timedelta(minutes=1)
DRAIN = timedelta(hours=1)
PERSISTENT = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(seconds=30)
)

_Result = TypeVar("_Result")


@workflow.defn(name="FailOver")
class FailOver:
    """Buffer the region's writes, restore its store, drain the buffer into it, go on.

    Where the store does not come back, the region stays in buffered mode: nothing that was
    acknowledged is given up, and a second ``FailOver`` goes on from there.
    """

    @workflow.init
    def __init__(self, request: FailOverRequest) -> None:
        self._request = request
        self._status = FailOverStatus(
            region=workflow.info().namespace, state="degrading", started=workflow.now()
        )

    @workflow.run
    async def run(self, request: FailOverRequest) -> FailOverStatus:
        try:
            await self._fail_over(request)
        except (ActivityError, ChildWorkflowError) as error:
            self._enter("failed", plain_words(error))
            raise ApplicationError(
                f"the region stays in buffered mode: {self._status.why}",
                self._status,
                type="FailOverFailed",
                non_retryable=True,
            ) from error
        return self._status

    @workflow.query
    def status(self) -> FailOverStatus:
        """How far it is."""
        return self._status

    async def _fail_over(self, request: FailOverRequest) -> None:
        self._enter("degrading")
        await _activity("degrade_region", request, Degraded, "buffer the tenants' writes", QUICK)
        self._status.degraded_at = workflow.now()
        self._enter("restoring")
        restored: RestoreStatus = await workflow.execute_child_workflow(
            "RestoreRegion",
            RestoreRequest(actor=request.actor, reason=request.reason),
            id=f"{workflow.info().workflow_id}/restore",
            result_type=RestoreStatus,
        )
        self._status.restore = restored
        if restored.published is None:
            self._enter("failed", f"the restore ended {restored.state}: {restored.why}")
            raise ApplicationError(
                f"the region stays in buffered mode: {self._status.why}",
                type="FailOverFailed",
                non_retryable=True,
            )
        self._enter("draining")
        drain = DrainStore(
            actor=request.actor,
            reason=request.reason,
            workflow=workflow.info().workflow_id,
            rebuilt=True,
        )
        self._status.drained = await _activity(
            "drain_buffer", drain, Drained, "drain the buffer into the store", DRAIN
        )
        self._status.normal_at = workflow.now()
        self._enter("normal")
        if workflow.patched("sla-incidents"):
            step = JudgeFailOver(
                started=self._status.started,
                degraded_at=self._status.degraded_at,
                normal_at=self._status.normal_at,
                source=source(),
            )
            self._status.incident = await judged(step)

    def _enter(self, state: FailOverPhase, why: str = "") -> None:
        self._status.state, self._status.why = state, why
        workflow.upsert_search_attributes([STATE.value_set(state)])
        lines = [f"**{state}**{': ' + why if why else ''}"]
        if (drained := self._status.drained) is not None:
            lines.append(
                f"- {drained.acknowledged} writes acknowledged meanwhile: {drained.applied} "
                f"applied, {drained.conflicts} conflicts, {drained.pending} pending"
            )
            lines += [f"- conflict: {each}" for each in drained.first_conflicts]
        workflow.set_current_details("\n".join(lines))


async def _activity(
    name: str, argument: Any, result: type[_Result], summary: str, limit: timedelta
) -> _Result:
    found: _Result = await workflow.execute_activity(
        name,
        argument,
        result_type=result,
        summary=summary,
        start_to_close_timeout=limit,
        retry_policy=PERSISTENT,
    )
    return found
