"""The decisions a person takes about a running rollout: updates, each with actor and reason.

An update answers when its receipt is durable. What it asks for is tied to the ring it was said in,
so that a late "promote" never skips the bake of a ring that nobody looked at.
"""

from collections.abc import Mapping
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from models.receipts import Draft
from models.rollout import (
    ENDING_STATES,
    FINAL_STATES,
    AbortDecision,
    Decision,
    DecisionAnswer,
    DecisionMade,
    RolloutState,
    RolloutStatus,
)
from workflows import steps


class Decisions:
    """Base of a workflow that people steer; the subclass keeps ``status`` true."""

    status: RolloutStatus

    def __init__(self) -> None:
        self.paused = False
        self.aborted: AbortDecision | None = None
        self.superseded_by = ""
        self.unverified = False
        """Whether the rollout holds because verification gave no answer."""
        self._promoted_ring: str | None = None
        self._retried_ring: str | None = None
        self._freeze_overridden_ring: str | None = None
        self._decided = 0
        self._being_recorded = 0

    @property
    def promoted(self) -> bool:
        """Whether a person let the present ring pass."""
        return self._promoted_ring == self.status.ring

    @property
    def retried(self) -> bool:
        """Whether a person asked for the present ring's gate again."""
        return self._retried_ring == self.status.ring

    @property
    def freeze_overridden(self) -> bool:
        """Whether a person let the present ring start in a freeze window."""
        return self._freeze_overridden_ring == self.status.ring

    @property
    def stopping(self) -> bool:
        """Whether the way forward has ended: by a person, or by a newer rollout."""
        return self.aborted is not None or bool(self.superseded_by)

    @property
    def deciding(self) -> bool:
        """Whether a decision was taken whose receipt is still being written."""
        return self._being_recorded > 0

    def forget_retry(self) -> None:
        """A retry counts once."""
        self._retried_ring = None

    @workflow.signal
    def supersede(self, by: str) -> None:
        """A newer rollout wants the fleet: stop at the next safe point, shards left in place."""
        self.superseded_by = by

    @workflow.update
    async def pause(self, decision: Decision) -> DecisionAnswer:
        """Start no further ring; a gate that fails still rolls back."""
        await self._record("paused", decision)
        self.paused = True
        then = "no further ring starts until resumed; a gate that fails still rolls back"
        return self._answer("paused", decision, then)

    @pause.validator
    def _may_pause(self, decision: Decision) -> None:
        self._must_run()
        if self.paused:
            raise ApplicationError("the rollout is paused already")

    @workflow.update
    async def resume(self, decision: Decision) -> DecisionAnswer:
        """Go on after a pause."""
        await self._record("resumed", decision)
        self.paused = False
        return self._answer("resumed", decision, "the next ring may start")

    @resume.validator
    def _may_resume(self, decision: Decision) -> None:
        self._must_run()
        if not self.paused:
            raise ApplicationError("the rollout is not paused")

    @workflow.update
    async def promote(self, decision: Decision) -> DecisionAnswer:
        """Skip the rest of this ring's bake, or let a held gate pass."""
        ring = self.status.ring
        await self._record("promoted", decision)
        self._promoted_ring = ring
        return self._answer("promoted", decision, "the rest of this ring's bake is skipped")

    @promote.validator
    def _may_promote(self, decision: Decision) -> None:
        self._must_be(RolloutState.BAKING, RolloutState.HOLDING)
        if self.unverified:
            raise ApplicationError(
                "verification gave no answer, and nobody can give one for it: retry_gate asks "
                "again, and a break-glass by two people lets the release through"
            )

    @workflow.update
    async def retry_gate(self, decision: Decision) -> DecisionAnswer:
        """Ask again what gave no answer: the gate, with a new bake, or the verification."""
        ring = self.status.ring
        await self._record("gate retried", decision)
        self._retried_ring = ring
        then = "the ring bakes again from the start"
        return self._answer(
            "gate retried", decision, "it is verified again" if self.unverified else then
        )

    @retry_gate.validator
    def _may_retry_gate(self, decision: Decision) -> None:
        self._must_be(RolloutState.HOLDING)

    @workflow.update
    async def override_freeze(self, decision: Decision) -> DecisionAnswer:
        """Let this ring start although the calendar forbids it."""
        ring = self.status.ring
        await self._record("freeze overridden", decision)
        self._freeze_overridden_ring = ring
        then = "this ring may start in the freeze window"
        return self._answer("freeze overridden", decision, then)

    @override_freeze.validator
    def _may_override_freeze(self, decision: Decision) -> None:
        self._must_be(RolloutState.FROZEN)

    @workflow.update
    async def abort(self, decision: AbortDecision) -> DecisionAnswer:
        """Stop for good, with or without rollback."""
        await self._record("aborted", decision)
        self.aborted = decision
        then = "changed shards go back" if decision.rollback else "changed shards stay as they are"
        return self._answer("aborted", decision, then)

    @abort.validator
    def _may_abort(self, decision: AbortDecision) -> None:
        self._must_run()

    def _answer(self, what: str, decision: Decision, then: str) -> DecisionAnswer:
        return DecisionAnswer(
            rollout=self.status.rollout,
            decided=what,
            actor=decision.actor,
            ring=self.status.ring,
            state=self.status.state,
            then=then,
        )

    async def _record(self, what: str, decision: Decision) -> None:
        self._being_recorded += 1
        try:
            await self._write_receipt(what, decision)
        finally:
            self._being_recorded -= 1

    async def _write_receipt(self, what: str, decision: Decision) -> None:
        self._decided += 1
        number = self._decided
        body = decision.model_dump(mode="json", exclude={"actor"})
        body |= {"ring": self.status.ring, "state": self.status.state, "epoch": self.status.epoch}
        await steps.record(
            self.draft(
                f"decision.{what.replace(' ', '-')}", f"decision/{number}", body, decision.actor
            )
        )
        self.status.decisions.append(
            DecisionMade(what=what, actor=decision.actor, reason=decision.reason, at=workflow.now())
        )

    def draft(self, kind: str, step: str, body: Mapping[str, Any], actor: str = "") -> Draft:
        """A receipt about this rollout; ``step`` is unique within the run."""
        info = workflow.info()
        return Draft(
            kind=kind,
            actor=actor or "chainring",
            subject=info.workflow_id,
            body=dict(body),
            workflow_id=info.workflow_id,
            run_id=info.run_id,
            idempotency_key=f"{info.workflow_id}/{info.run_id}/{step}",
        )

    def _must_run(self) -> None:
        if self.status.state in FINAL_STATES:
            raise ApplicationError(f"the rollout has ended: {self.status.state}")
        if self.stopping or self.status.state in ENDING_STATES:
            raise ApplicationError(f"the rollout is ending already ({self.status.state})")

    def _must_be(self, *states: RolloutState) -> None:
        self._must_run()
        if self.status.state not in states:
            wanted = " or ".join(states)
            raise ApplicationError(
                f"only a rollout that is {wanted} takes this; it is {self.status.state}"
            )
