"""`Incident`: a release that runs does not stand any more, and people decide what to do."""

from collections.abc import Mapping
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError
from temporalio.workflow import ParentClosePolicy

from models.ids import short
from models.incident import IncidentRequest, IncidentState, IncidentStatus, render_incident
from models.receipts import Draft
from models.rollout import Decision, DecisionMade, RolloutRequest
from workflows import steps
from workflows.journey import RELEASE, STATE

OPENED_FIRST = "a decision is recorded after the opening"


@workflow.defn(name="Incident")
class Incident:
    """Open until a person closes it, or the release stands again or runs nowhere any more."""

    @workflow.init
    def __init__(self, request: IncidentRequest) -> None:
        self._numbers = 0
        self._opened = False
        self.status = IncidentStatus(
            id=workflow.info().workflow_id, request=request, opened=workflow.info().start_time
        )

    @workflow.query(name="status")
    def query_status(self) -> IncidentStatus:
        """Where it is, and who decided what."""
        return self.status

    @workflow.run
    async def run(self, request: IncidentRequest) -> IncidentStatus:
        self._enter(IncidentState.OPEN)
        body = request.model_dump(mode="json")
        await steps.record(self._draft("opened", "chainring", body))
        self._opened = True
        await workflow.wait_condition(lambda: self.status.state is IncidentState.CLOSED)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.status

    @workflow.update
    async def acknowledge(self, decision: Decision) -> IncidentStatus:
        """Say that a person is looking at it."""
        await self._decide("acknowledged", decision)
        if self.status.state is IncidentState.OPEN:
            self._enter(IncidentState.ACKNOWLEDGED)
        return self.status

    @acknowledge.validator
    def _may_acknowledge(self, decision: Decision) -> None:
        self._must_be(IncidentState.OPEN)

    @workflow.update
    async def accept_rollback(self, decision: Decision) -> IncidentStatus:
        """Roll the proposed release out; the incident stays open until the bad one runs nowhere."""
        proposal = self.status.request.proposal
        assert proposal is not None
        self._enter(IncidentState.ROLLING_BACK)
        await self._decide("rollback-accepted", decision)
        rollout = f"rollout/{proposal.name}-{proposal.version}/{self.status.id}"
        await workflow.start_child_workflow(
            "FleetRollout",
            RolloutRequest(
                release=proposal.release,
                actor=decision.actor,
                reason=f"{self.status.id}: {decision.reason}",
            ),
            id=rollout,
            parent_close_policy=ParentClosePolicy.ABANDON,
        )
        self.status.rollback = rollout
        self._enter(IncidentState.ROLLING_BACK)
        return self.status

    @accept_rollback.validator
    def _may_accept_rollback(self, decision: Decision) -> None:
        self._must_be(IncidentState.OPEN, IncidentState.ACKNOWLEDGED)
        if self.status.request.proposal is None:
            raise ApplicationError("there is no earlier release that stands to go back to")

    @workflow.update
    async def close(self, decision: Decision) -> IncidentStatus:
        """A person takes the responsibility; the same cause opens no second incident."""
        await self._decide("closed", decision)
        self._enter(IncidentState.CLOSED)
        return self.status

    @close.validator
    def _may_close(self, decision: Decision) -> None:
        self._must_be(*set(IncidentState) - {IncidentState.CLOSED})

    @workflow.signal
    async def resolved(self, why: str) -> None:
        """The cause is gone."""
        if self.status.state is not IncidentState.CLOSED:
            await self._decide("resolved", Decision(actor="chainring", reason=why))
            self._enter(IncidentState.CLOSED)

    async def _decide(self, what: str, decision: Decision) -> None:
        body = {"release": self.status.request.deployed.release, "reason": decision.reason}
        if workflow.patched(OPENED_FIRST):  # or the ledger could tell of a decision before it
            await workflow.wait_condition(lambda: self._opened)
        await steps.record(self._draft(what, decision.actor, body))
        self.status.decisions.append(
            DecisionMade(what=what, actor=decision.actor, reason=decision.reason, at=workflow.now())
        )

    def _must_be(self, *states: IncidentState) -> None:
        if self.status.state not in states:
            raise ApplicationError(f"the incident is {self.status.state}")

    def _enter(self, state: IncidentState) -> None:
        self.status.state = state
        release = short(self.status.request.deployed.release)
        workflow.upsert_search_attributes(
            [STATE.value_set(state.value), RELEASE.value_set(release)]
        )
        workflow.set_current_details(render_incident(self.status))

    def _draft(self, what: str, actor: str, body: Mapping[str, Any]) -> Draft:
        info = workflow.info()
        self._numbers += 1
        return Draft(
            kind=f"incident.{what}",
            actor=actor,
            subject=info.workflow_id,
            body=dict(body),
            workflow_id=info.workflow_id,
            run_id=info.run_id,
            idempotency_key=f"{info.workflow_id}/{info.run_id}/{self._numbers}",
        )
