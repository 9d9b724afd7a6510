"""`RestoreTenant`: one tenant out of the backup, into quarantine or back in its place."""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from models.recovery import GapDecision
from models.tenant_restore import (
    AppliedTenant,
    ApplyTenant,
    CompareTenant,
    Comparison,
    CopyTenant,
    TenantCopy,
    TenantPhase,
    TenantRequest,
    TenantStatus,
)
from workflows.journey import STATE
from workflows.recovery_steps import LONG, recovery_step
from workflows.regions import plain_words

PATIENCE = timedelta(days=1)
"""How long a person has to decide: the comparison grows old."""


@workflow.defn(name="RestoreTenant")
class RestoreTenant:
    """One tenant's restore. The live one is not touched before a person has seen what differs."""

    @workflow.init
    def __init__(self, request: TenantRequest) -> None:
        self._request = request
        self._given_up: GapDecision | None = None
        self._status = TenantStatus(
            region=workflow.info().namespace,
            tenant=request.tenant,
            state="copying",
            started=workflow.now(),
        )

    @workflow.run
    async def run(self, request: TenantRequest) -> TenantStatus:
        copy_id = workflow.uuid4().hex
        try:
            await self._restore(request, copy_id)
        except ActivityError as error:
            self._enter("failed", plain_words(error))
            await workflow.wait_condition(workflow.all_handlers_finished)
            raise ApplicationError(
                self._status.why, self._status, type="RestoreFailed", non_retryable=True
            ) from error
        self._status.ended = workflow.now()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._status

    @workflow.query
    def status(self) -> TenantStatus:
        """How far it is."""
        return self._status

    @workflow.update
    async def apply(self, decision: GapDecision) -> TenantStatus:
        """Write what differs into the live tenant; keys written since are left, and named."""
        self._status.decision = decision
        await workflow.wait_condition(lambda: self._status.state not in ("waiting", "writing"))
        return self._status

    @workflow.update
    async def give_up(self, decision: GapDecision) -> TenantStatus:
        """Write nothing; the copy is thrown away."""
        self._given_up = decision
        await workflow.wait_condition(lambda: self._status.state != "waiting")
        return self._status

    @apply.validator
    def _may_apply(self, decision: GapDecision) -> None:
        self._must_wait()

    @give_up.validator
    def _may_give_up(self, decision: GapDecision) -> None:
        self._must_wait()

    def _must_wait(self) -> None:
        decided = self._status.decision is not None or self._given_up is not None
        if self._status.state != "waiting" or decided:
            raise ApplicationError(f"the restore is {self._status.state}: nothing is to decide")

    async def _restore(self, request: TenantRequest, copy_id: str) -> None:
        self._enter("copying")
        step = CopyTenant(request=request, copy_id=copy_id, workflow=workflow.info().workflow_id)
        self._status.copied = copied = await recovery_step(
            "copy_tenant", step, TenantCopy, "bring the tenant out of the backup", LONG
        )
        report = copied.report
        if report.erased:
            self._enter("erased", "the tenant's key is destroyed: nothing of it can be read")
            return
        if report.gap is not None:
            gap = report.gap
            self._enter("failed", f"changes {gap.first} to {gap.last} are missing: {gap.why}")
            return
        if not (request.in_place or request.dry_run):
            self._enter("in quarantine")
            return
        await self._compare_and_write(request, copy_id)

    async def _compare_and_write(self, request: TenantRequest, copy_id: str) -> None:
        self._enter("comparing")
        look = CompareTenant(tenant=request.tenant, copy_id=copy_id)
        self._status.comparison = comparison = await recovery_step(
            "compare_tenant", look, Comparison, "compare with the live tenant", LONG
        )
        if request.dry_run:
            await self._discard(look)
            self._enter("compared")
            return
        if comparison.differs and not await self._somebody_says_so():
            await self._discard(look)
            self._enter("given up")
            return
        await self._write(request, copy_id, comparison)
        await self._discard(look)
        self._enter("restored", self._conflicts())

    async def _somebody_says_so(self) -> bool:
        self._enter("waiting", "`apply` writes what differs, `give_up` does not")
        try:
            await workflow.wait_condition(
                lambda: self._status.decision is not None or self._given_up is not None,
                timeout=PATIENCE,
            )
        except TimeoutError:
            return False
        return self._given_up is None

    async def _write(self, request: TenantRequest, copy_id: str, comparison: Comparison) -> None:
        self._enter("writing")
        assert self._status.copied is not None
        decision = self._status.decision or GapDecision(actor=request.actor, reason=request.reason)
        step = ApplyTenant(
            tenant=request.tenant,
            copy_id=copy_id,
            report=self._status.copied.report,
            comparison=comparison,
            decision=decision,
            workflow=workflow.info().workflow_id,
        )
        self._status.applied = await recovery_step(
            "apply_tenant", step, AppliedTenant, "write what differs", LONG
        )

    async def _discard(self, look: CompareTenant) -> None:
        await recovery_step("discard_copy", look, type(None), "throw the copy away")
        assert self._status.copied is not None
        self._status.copied = self._status.copied.model_copy(update={"directory": ""})

    def _conflicts(self) -> str:
        applied = self._status.applied
        if applied is None or not applied.conflicts:
            return ""
        return f"{applied.conflicts} keys were written by somebody else meanwhile, and stay"

    def _enter(self, state: TenantPhase, why: str = "") -> None:
        self._status.state, self._status.why = state, why
        workflow.upsert_search_attributes([STATE.value_set(state)])
        lines = [f"**{state}**{': ' + why if why else ''}"]
        if (copied := self._status.copied) is not None:
            report = copied.report
            lines.append(
                f"- {report.keys} keys, {report.bytes} bytes after change {report.reached_seq}"
            )
        if (comparison := self._status.comparison) is not None:
            lines.append(
                f"- {comparison.put} to put, {comparison.remove} to remove, "
                f"{comparison.same} the same"
            )
            lines += [f"- {each}" for each in comparison.first]
        if (applied := self._status.applied) is not None:
            lines.append(
                f"- {applied.put} put, {applied.removed} removed, {applied.conflicts} conflicts"
            )
            lines += [f"- conflict: {each}" for each in applied.first_conflicts]
        workflow.set_current_details("\n".join(lines))
