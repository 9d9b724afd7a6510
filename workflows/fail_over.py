"""`FailOver`: keep a region's tenants writing while its store is brought back."""

import asyncio
import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

from models.notices import NoticeKind, Posted
from models.recovery import (
    CloseSnapshot,
    Degraded,
    Drained,
    DrainStore,
    FailOverPhase,
    FailOverRequest,
    FailOverStatus,
    OpenedSnapshot,
    RestoreRequest,
    RestoreStatus,
)
from models.recovery_incident import JudgeFailOver
from workflows.journey import STATE
from workflows.recovery_steps import HEARTBEAT, PERSISTENT, QUICK, judged, recovery_step, source
from workflows.regions import plain_words

DRAIN = timedelta(hours=1)


@workflow.defn(name="FailOver")
class FailOver:
    """Buffer the region's writes, restore its store, drain the buffer into it, go on.

    Where the store does not come back, the region stays in buffered mode: nothing that was
    acknowledged is given up, and a second ``FailOver`` goes on from there.
    """

    @workflow.init
    def __init__(self, request: FailOverRequest) -> None:
        self._request = request
        self._scratch = workflow.uuid4().hex
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
        await self._degrade(request)
        self._status.degraded_at = workflow.now()
        self._enter("restoring")
        telling = asyncio.create_task(self._tell("degraded", QUICK))
        await self._restore(request)
        await telling
        self._enter("draining")
        drain = DrainStore(
            actor=request.actor,
            reason=request.reason,
            workflow=workflow.info().workflow_id,
            rebuilt=True,
            verdict=request.verdict,
        )
        self._status.drained = await recovery_step(
            "drain_buffer", drain, Drained, "drain the buffer into the store", DRAIN
        )
        self._status.normal_at = workflow.now()
        self._enter("normal")
        await self._close_snapshot()
        await self._tell("normal", DRAIN)
        step = JudgeFailOver(
            started=self._status.started,
            degraded_at=self._status.degraded_at,
            normal_at=self._status.normal_at,
            source=source(),
        )
        self._status.incident = await judged(step)

    async def _restore(self, request: FailOverRequest) -> None:
        """Restore the store; where that does not come to its end, reads go on from a snapshot."""
        opening = self._open_snapshot()
        try:
            restored: RestoreStatus = await workflow.execute_child_workflow(
                "RestoreRegion",
                RestoreRequest(actor=request.actor, reason=request.reason),
                id=f"{workflow.info().workflow_id}/restore",
                result_type=RestoreStatus,
            )
        except ChildWorkflowError:
            await opening
            raise
        self._status.restore = restored
        if restored.published is None:
            await opening
            self._enter("failed", f"the restore ended {restored.state}: {restored.why}")
            raise ApplicationError(
                f"the region stays in buffered mode: {self._status.why}",
                type="FailOverFailed",
                non_retryable=True,
            )
        opening.cancel()  # a snapshot that comes later than the store itself is of no use
        with contextlib.suppress(asyncio.CancelledError):
            await opening

    def _open_snapshot(self) -> "asyncio.Task[None]":
        """Have reads answered beside the restore; where that fails, they know the buffer alone."""

        async def opened() -> None:
            try:
                self._status.reads = await workflow.execute_activity(
                    "open_snapshot",
                    self._scratch,
                    result_type=OpenedSnapshot,
                    summary="restore the newest snapshot on the side, for reading",
                    start_to_close_timeout=DRAIN,
                    heartbeat_timeout=HEARTBEAT,
                    retry_policy=PERSISTENT,
                    cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                )
            except ActivityError as error:
                self._status.no_reads = (
                    "the store was there before it"
                    if is_cancelled_exception(error)
                    else plain_words(error)
                )
            self._enter(self._status.state, self._status.why)

        return asyncio.create_task(opened())

    async def _tell(self, kind: NoticeKind, within: timedelta) -> None:
        """Tell the tenants; where that cannot be done, nothing waits for it."""
        try:
            posted = await recovery_step(
                "post_notice", kind, Posted, f"tell the tenants: {kind}", QUICK, within=within
            )
        except ActivityError as error:
            self._status.not_told = f"{kind}: {plain_words(error)}"
            return
        if (notice := posted.notice) is None:
            return
        self._status.notices.append(notice.number)
        if posted.deliver:
            with contextlib.suppress(WorkflowAlreadyStartedError):
                await workflow.start_child_workflow(
                    "DeliverNotice",
                    notice,
                    id=f"notice/{notice.region}/{notice.number}-{notice.id[:6]}",
                    parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                )

    async def _close_snapshot(self) -> None:
        step = CloseSnapshot(scratch=self._scratch, opened=self._status.reads)
        await recovery_step("close_snapshot", step, int, "remove the snapshot", QUICK)

    async def _degrade(self, request: FailOverRequest) -> None:
        within = None
        if request.initiate_by is not None:
            within = max(request.initiate_by - workflow.now(), timedelta(seconds=1))
        await recovery_step(
            "degrade_region", request, Degraded, "buffer the tenants' writes", QUICK, within=within
        )

    def _enter(self, state: FailOverPhase, why: str = "") -> None:
        self._status.state, self._status.why = state, why
        workflow.upsert_search_attributes([STATE.value_set(state)])
        lines = [f"**{state}**{': ' + why if why else ''}"]
        if (verdict := self._request.verdict) is not None:
            lines += [f"- found since {verdict.since:%H:%M:%S}: {verdict.why}"]
        if (reads := self._status.reads) is not None:
            lines += [f"- reads are answered as of {reads.at:%Y-%m-%d %H:%M:%S}"]
        elif self._status.no_reads:
            lines += [f"- reads know the buffer alone: {self._status.no_reads}"]
        if (drained := self._status.drained) is not None:
            lines.append(
                f"- {drained.acknowledged} writes acknowledged meanwhile: {drained.applied} "
                f"applied, {drained.conflicts} conflicts, {drained.pending} pending"
            )
            lines += [f"- conflict: {each}" for each in drained.first_conflicts]
        workflow.set_current_details("\n".join(lines))
