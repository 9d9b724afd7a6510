"""What the parts of one rollout share: settings, plan, status, and the way to end."""

from dataclasses import dataclass, field

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from models.deployment import Approval
from models.ids import short
from models.planning import Plan, RingPlan
from models.rollout import (
    RingStatus,
    RolloutRequest,
    RolloutSettings,
    RolloutState,
    RolloutStatus,
    render_details,
)
from workflows.decisions import Decisions
from workflows.regions import RegionCalls

STATE = SearchAttributeKey.for_keyword("ChainringState")
RELEASE = SearchAttributeKey.for_keyword("ChainringRelease")
RING = SearchAttributeKey.for_keyword("ChainringRing")
EPOCH = SearchAttributeKey.for_int("ChainringEpoch")


class Stop(Exception):
    """The way forward has ended.

    Attributes:
        state: the state to end in once everything is done.
        why: in words, for the result, the UI and the receipt.
        rollback: whether the shards that were changed go back.
        condemn: whether the release is known bad from now on.
    """

    def __init__(
        self, state: RolloutState, why: str, *, rollback: bool, condemn: bool = False
    ) -> None:
        super().__init__(why)
        self.state = state
        self.why = why
        self.rollback = rollback
        self.condemn = condemn


@dataclass
class Journey:
    """One rollout under way."""

    request: RolloutRequest
    settings: RolloutSettings
    people: Decisions
    calls: RegionCalls
    plan: Plan | None = None
    waited: bool = False
    """Whether another rollout had the fleet first."""
    upgrades: bool = False
    """Whether any shard runs another release now, so that there is a baseline to compare with."""
    verifies: bool = False
    """Whether releases are judged; a rollout that began before they were goes on without."""
    judgements: int = 0
    """How often the release was judged, so that each judgement is told from the others."""
    approval: Approval | None = None
    """The last verdict that let the release through, for the deploy attestations."""
    came_from: set[str] = field(default_factory=set)
    """Releases that shards ran when the rollout was planned."""
    staged: set[str] = field(default_factory=set)
    changed: list[tuple[str, list[str]]] = field(default_factory=list)
    """(region, shards) in the order in which they were sent to be activated."""

    @property
    def status(self) -> RolloutStatus:
        return self.people.status

    @property
    def epoch(self) -> int:
        return self.status.epoch

    def enter(self, state: RolloutState, why: str = "") -> None:
        """Change the state where people look: query, search attributes, current details."""
        self.status.state = state
        self.status.why = why
        workflow.upsert_search_attributes(
            [
                STATE.value_set(state.value),
                RELEASE.value_set(short(self.settings.release)),
                RING.value_set(self.status.ring),
                EPOCH.value_set(self.status.epoch),
            ]
        )
        self.show()

    def show(self) -> None:
        """Refresh the current details."""
        workflow.set_current_details(render_details(self.status, workflow.now()))

    def ring_status(self, ring: RingPlan) -> RingStatus:
        """The status entry of a planned ring."""
        return next(entry for entry in self.status.rings if entry.name == ring.name)

    def patient(self) -> bool:
        """Whether a region that is down is waited for."""
        return self.settings.rollout.region_down == "wait" and not self.people.stopping

    def stop_if_asked(self) -> None:
        """Raise `Stop` when a person aborted or a newer rollout took over."""
        if self.people.aborted is not None:
            decision = self.people.aborted
            raise Stop(
                RolloutState.ABORTED,
                f"aborted by {decision.actor}: {decision.reason}",
                rollback=decision.rollback,
            )
        if self.people.superseded_by:
            why = f"superseded by {self.people.superseded_by}"
            raise Stop(RolloutState.SUPERSEDED, why, rollback=False)
