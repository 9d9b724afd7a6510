"""`BreakGlass`: two people let a release through that verification refuses, for a while."""

import contextlib
from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from models.break_glass import (
    BreakGlassRequest,
    BreakGlassState,
    BreakGlassStatus,
    EndOverride,
    Override,
    expiry,
    render_break_glass,
    same_person,
)
from models.ids import short
from models.receipts import Draft
from models.rollout import Decision, DecisionMade
from workflows import safety_steps, steps
from workflows.journey import RELEASE, STATE

_OVER = frozenset({BreakGlassState.EXPIRED, BreakGlassState.REVOKED, BreakGlassState.LAPSED})


@workflow.defn(name="BreakGlass")
class BreakGlass:
    """Opened by one person, in force once another approves, over by itself; all of it receipts."""

    @workflow.init
    def __init__(self, request: BreakGlassRequest) -> None:
        self._request = request
        self._approved: Decision | None = None
        self._revoked: Decision | None = None
        self.status = BreakGlassStatus(
            id=workflow.info().workflow_id,
            release=request.release,
            opened_by=request.actor,
            reason=request.reason,
        )

    @workflow.query(name="status")
    def query_status(self) -> BreakGlassStatus:
        """Where it is, and who decided what."""
        return self.status

    @workflow.run
    async def run(self, request: BreakGlassRequest) -> BreakGlassStatus:
        self._enter(BreakGlassState.WAITING, timedelta(minutes=request.approve_within_minutes))
        await steps.record(self._opened())
        await self._until(lambda: self._approved is not None)
        if self._approved is not None and self._revoked is None:
            await self._in_force(self._approved)
            end = BreakGlassState.EXPIRED
        else:
            end = BreakGlassState.LAPSED
        await self._end(BreakGlassState.REVOKED if self._revoked else end)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.status

    @workflow.update
    async def approve(self, decision: Decision) -> BreakGlassStatus:
        """The second person's word; answers when the override is in force."""
        self._decided("approved", decision)
        self._approved = decision
        await workflow.wait_condition(
            lambda: self.status.state is not BreakGlassState.WAITING or self._revoked is not None
        )
        return self.status

    @approve.validator
    def _may_approve(self, decision: Decision) -> None:
        if self.status.state is not BreakGlassState.WAITING or self._approved is not None:
            raise ApplicationError(f"it is {self.status.state} and takes no approval")
        if same_person(decision.actor, self._request.actor):
            raise ApplicationError(
                f"actor: {decision.actor} opened it; another person must approve it"
            )

    @workflow.update
    async def revoke(self, decision: Decision) -> BreakGlassStatus:
        """End it at once; one person is enough to close what two opened."""
        self._decided("revoked", decision)
        self._revoked = decision
        await workflow.wait_condition(lambda: self.status.state in _OVER)
        return self.status

    @revoke.validator
    def _may_revoke(self, decision: Decision) -> None:
        if self.status.state in _OVER or self._revoked is not None:
            raise ApplicationError(f"it is {self.status.state} already")

    async def _in_force(self, approval: Decision) -> None:
        request, info = self._request, workflow.info()
        override = Override(
            id=info.workflow_id,
            release=request.release,
            opened_by=request.actor,
            approved_by=approval.actor,
            reason=request.reason,
            expires=expiry(workflow.now(), request.minutes),
        )
        granted = await safety_steps.grant_override(override)
        self._enter(BreakGlassState.IN_FORCE, granted.expires - workflow.now())
        await self._until(lambda: False)

    async def _until(self, done: Callable[[], bool]) -> None:
        """Wait for the state's deadline, a revocation, or ``done``."""
        assert self.status.deadline is not None
        left = max(timedelta(0), self.status.deadline - workflow.now())
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: done() or self._revoked is not None, timeout=left)

    async def _end(self, state: BreakGlassState) -> None:
        said = self._revoked
        await safety_steps.end_override(
            EndOverride(
                id=self.status.id,
                release=self._request.release,
                state=state,
                actor=said.actor if said else "chainring",
                reason=said.reason if said else self._request.reason,
            )
        )
        self._enter(state, None)

    def _decided(self, what: str, decision: Decision) -> None:
        made = DecisionMade(
            what=what, actor=decision.actor, reason=decision.reason, at=workflow.now()
        )
        self.status.decisions.append(made)

    def _enter(self, state: BreakGlassState, left: timedelta | None) -> None:
        self.status.state = state
        self.status.deadline = None if left is None else workflow.now() + left
        workflow.upsert_search_attributes(
            [STATE.value_set(state.value), RELEASE.value_set(short(self._request.release))]
        )
        workflow.set_current_details(render_break_glass(self.status))

    def _opened(self) -> Draft:
        info, request = workflow.info(), self._request
        return Draft(
            kind="breakglass.opened",
            actor=request.actor,
            subject=info.workflow_id,
            body=request.model_dump(mode="json", exclude={"actor"}),
            workflow_id=info.workflow_id,
            run_id=info.run_id,
            idempotency_key=f"{info.workflow_id}/{info.run_id}/opened",
        )
