"""`RecoveryIncident`: a region's recovery is not what was promised, until a person says otherwise.

The region's store may be what is broken: people decide at once, and their receipts follow when the
store takes them.
"""

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from models.incident import IncidentState
from models.receipts import Draft
from models.recovery_incident import (
    MOST_SIGHTINGS,
    IncidentOpened,
    RecoveryIncidentRequest,
    RecoveryIncidentStatus,
    Sighting,
    render_recovery_incident,
)
from models.rollout import Decision, DecisionMade
from workflows.journey import STATE
from workflows.recovery_steps import PERSISTENT, QUICK


@workflow.defn(name="RecoveryIncident")
class RecoveryIncident:
    """Open until a person resolves it; nothing closes it by itself."""

    @workflow.init
    def __init__(self, request: RecoveryIncidentRequest) -> None:
        self._unrecorded: list[Draft] = []
        self._numbers = 0
        self._sources: set[str] = set()
        self._status = RecoveryIncidentStatus(
            id=workflow.info().workflow_id, request=request, opened=workflow.info().start_time
        )

    @workflow.query
    def status(self) -> RecoveryIncidentStatus:
        """Where it is, who saw it, and who decided what."""
        return self._status

    @workflow.run
    async def run(self, request: RecoveryIncidentRequest) -> RecoveryIncidentStatus:
        self._note("opened", "chainring", request.why)
        self._show()
        while self._unrecorded or self._status.state is not IncidentState.CLOSED:
            await workflow.wait_condition(
                lambda: bool(self._unrecorded) or self._status.state is IncidentState.CLOSED
            )
            while self._unrecorded:
                await self._record(self._unrecorded[0])
                self._unrecorded.pop(0)
                self._show()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._status

    @workflow.signal
    def seen(self, sighting: Sighting) -> None:
        """The cause was seen, for the first time or again."""
        if sighting.source in self._sources:
            return
        self._sources.add(sighting.source)
        self._status.seen += 1
        self._status.sightings = [*self._status.sightings, sighting][-MOST_SIGHTINGS:]
        self._show()

    @workflow.update
    def acknowledge(self, decision: Decision) -> RecoveryIncidentStatus:
        """Say that a person is looking at it."""
        self._decide("acknowledged", decision, IncidentState.ACKNOWLEDGED)
        return self._status

    @acknowledge.validator
    def _may_acknowledge(self, decision: Decision) -> None:
        self._must_be(IncidentState.OPEN)

    @workflow.update
    def resolve(self, decision: Decision) -> RecoveryIncidentStatus:
        """A person takes the responsibility for its end; seen again, it is a new one."""
        self._decide("resolved", decision, IncidentState.CLOSED)
        return self._status

    @resolve.validator
    def _may_resolve(self, decision: Decision) -> None:
        self._must_be(IncidentState.OPEN, IncidentState.ACKNOWLEDGED)

    def _must_be(self, *states: IncidentState) -> None:
        if self._status.state not in states:
            raise ApplicationError(f"the incident is {self._status.state}")

    def _decide(self, what: str, decision: Decision, state: IncidentState) -> None:
        self._status.state = state
        self._status.decisions.append(
            DecisionMade(what=what, actor=decision.actor, reason=decision.reason, at=workflow.now())
        )
        self._note(what, decision.actor, decision.reason)
        self._show()

    def _note(self, what: str, actor: str, reason: str) -> None:
        info, request = workflow.info(), self._status.request
        self._numbers += 1
        body = IncidentOpened(
            what=what,
            kind=request.kind,
            cause=request.cause,
            reason=reason,
            certificate=request.certificate,
            actor=actor,
        )
        self._unrecorded.append(
            Draft(
                kind="recovery.incident",
                actor=actor,
                subject=info.workflow_id,
                body=body.model_dump(mode="json"),
                workflow_id=info.workflow_id,
                run_id=info.run_id,
                idempotency_key=f"{info.workflow_id}/{info.run_id}/{self._numbers}",
            )
        )

    def _show(self) -> None:
        self._status.unrecorded = len(self._unrecorded)
        workflow.upsert_search_attributes([STATE.value_set(self._status.state.value)])
        workflow.set_current_details(render_recovery_incident(self._status))

    async def _record(self, draft: Draft) -> None:
        await workflow.execute_activity(
            "record_recovery",
            draft,
            result_type=int,
            summary=f"receipt: {draft.body['what']}",
            start_to_close_timeout=QUICK,
            retry_policy=PERSISTENT,
        )
