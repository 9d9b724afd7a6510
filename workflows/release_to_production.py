"""`ReleaseToProduction`: a commit is built, attested, verified and rolled out, as one process."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

from models.build import BuildResult
from models.ids import short
from models.production import (
    ProductionRequest,
    ProductionState,
    ProductionStatus,
    StepTaken,
    render_production,
)
from models.receipts import Draft
from models.rollout import (
    Decision,
    DecisionMade,
    RolloutRequest,
    RolloutResult,
    RolloutState,
)
from models.steps import JudgeRelease
from workflows import steps
from workflows.journey import RELEASE, STATE
from workflows.regions import plain_words

_THERE = frozenset({RolloutState.COMPLETED, RolloutState.COMPLETED_WITH_DEBT})


class StepFailed(Exception):
    """A step did not do what it should; a person may have it tried again."""


@workflow.defn(name="ReleaseToProduction")
class ReleaseToProduction:
    """Each step is durable by itself; one that fails holds for a person, and goes on from there."""

    @workflow.init
    def __init__(self, request: ProductionRequest) -> None:
        self._request = request
        self._retry = False
        self._given_up: Decision | None = None
        self._numbers = 0
        self.status = ProductionStatus(id=workflow.info().workflow_id)

    @workflow.query(name="status")
    def query_status(self) -> ProductionStatus:
        """Which step it is at, and how the ones before it went."""
        return self.status

    @workflow.run
    async def run(self, request: ProductionRequest) -> ProductionStatus:
        build = request.build.model_dump(mode="json")
        await self._record("started", request.actor, {"build": build, "reason": request.reason})
        for state, step in (
            (ProductionState.BUILDING, self._build),
            (ProductionState.VERIFYING, self._verify),
            (ProductionState.ROLLING_OUT, self._roll_out),
        ):
            if not await self._do(state, step):
                break
        else:
            self._enter(ProductionState.COMPLETED)
        body = {"state": self.status.state, "why": self.status.why, "release": self.status.release}
        await self._record("ended", "chainring", body)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.status

    @workflow.update
    async def retry(self, decision: Decision) -> ProductionStatus:
        """Try the failed step again: what it needs has been mended."""
        await self._decide("retried", decision)
        self._retry = True
        return self.status

    @retry.validator
    def _may_retry(self, decision: Decision) -> None:
        self._must_hold()

    @workflow.update
    async def give_up(self, decision: Decision) -> ProductionStatus:
        """End it here; what was built stays, what was rolled out is as the rollout left it."""
        await self._decide("given up", decision)
        self._given_up = decision
        return self.status

    @give_up.validator
    def _may_give_up(self, decision: Decision) -> None:
        self._must_hold()

    async def _do(
        self, state: ProductionState, step: Callable[[StepTaken], Awaitable[str]]
    ) -> bool:
        """Do a step, as often as people ask for it; whether it succeeded in the end."""
        attempt = 0
        while True:
            attempt += 1
            taken = StepTaken(step=state, attempt=attempt, started=workflow.now())
            self.status.steps.append(taken)
            self._enter(state)
            try:
                taken.outcome = await step(taken)
            except (StepFailed, FailureError) as error:
                if is_cancelled_exception(error):
                    raise
                taken.outcome = plain_words(error)
                taken.ended = workflow.now()
                if await self._held(state, taken.outcome):
                    continue
                return False
            taken.ended = workflow.now()
            return True

    async def _build(self, taken: StepTaken) -> str:
        taken.workflow = f"build/{self.status.id}/{taken.attempt}"
        result: BuildResult = await workflow.execute_child_workflow(
            "BuildRelease", self._request.build, id=taken.workflow, result_type=BuildResult
        )
        self.status.release = result.release
        self.status.name, self.status.version = result.name, result.version
        return f"built {short(result.release)}"

    async def _verify(self, taken: StepTaken) -> str:
        assert self.status.release is not None
        step = JudgeRelease(release=self.status.release, phase="production", attempt=taken.attempt)
        judged = await steps.judge_release(step)
        if not judged.may_go_on:
            raise StepFailed(f"{judged.verdict.outcome}: {judged.verdict.why}")
        return judged.override.words() if judged.override else judged.verdict.why

    async def _roll_out(self, taken: StepTaken) -> str:
        assert self.status.release is not None
        taken.workflow = f"rollout/{self.status.id}/{taken.attempt}"
        options = self._request.rollout
        result: RolloutResult = await workflow.execute_child_workflow(
            "FleetRollout",
            RolloutRequest(
                release=self.status.release,
                actor=self._request.actor,
                reason=self._request.reason,
                overrides=options.overrides,
                when_busy=options.when_busy,
                skip_gates=options.skip_gates,
            ),
            id=taken.workflow,
            result_type=RolloutResult,
        )
        ended = result.status
        self.status.rollout_state = ended.state
        if ended.state not in _THERE:
            raise StepFailed(f"{ended.state}: {ended.why}")
        return ended.state.value

    async def _held(self, state: ProductionState, why: str) -> bool:
        """Wait for a person; whether the step is to be tried again."""
        self._retry = False
        hold = timedelta(minutes=self._request.hold_minutes)
        self.status.deadline = workflow.now() + hold
        self._enter(ProductionState.HOLDING, f"{state} failed: {why}")
        try:
            await workflow.wait_condition(lambda: self._retry or bool(self._given_up), timeout=hold)
        except TimeoutError:
            self.status.deadline = None
            self._enter(ProductionState.FAILED, f"{state} failed and nobody decided: {why}")
            return False
        self.status.deadline = None
        if self._given_up is not None:
            said = self._given_up
            self._enter(ProductionState.GIVEN_UP, f"given up by {said.actor}: {said.reason}")
            return False
        return True

    def _must_hold(self) -> None:
        if self.status.state is not ProductionState.HOLDING or self._retry or self._given_up:
            raise ApplicationError(
                f"only while it is holding takes it this; it is {self.status.state}"
            )

    async def _decide(self, what: str, decision: Decision) -> None:
        body = {"reason": decision.reason, "why": self.status.why}
        await self._record(what.replace(" ", "-"), decision.actor, body)
        self.status.decisions.append(
            DecisionMade(what=what, actor=decision.actor, reason=decision.reason, at=workflow.now())
        )

    def _enter(self, state: ProductionState, why: str = "") -> None:
        self.status.state, self.status.why = state, why
        release = short(self.status.release) if self.status.release else ""
        workflow.upsert_search_attributes(
            [STATE.value_set(state.value), RELEASE.value_set(release)]
        )
        workflow.set_current_details(render_production(self.status))

    async def _record(self, what: str, actor: str, body: Mapping[str, Any]) -> None:
        info = workflow.info()
        self._numbers += 1
        draft = Draft(
            kind=f"production.{what}",
            actor=actor,
            subject=info.workflow_id,
            body=dict(body),
            workflow_id=info.workflow_id,
            run_id=info.run_id,
            idempotency_key=f"{info.workflow_id}/{info.run_id}/{self._numbers}",
        )
        await steps.record(draft)
