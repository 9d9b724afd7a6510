"""A rollout as its people see it: what they ask for, what they may decide, what they are shown."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from models.config_sections import Rollout
from models.gate_policy import GatePolicy
from models.ids import Actor, Digest, Reason, RegionCode, ShardId, short
from models.planning import Plan
from models.verdict import Verdict, render_markdown
from models.verification_status import VerificationStatus

WhenBusy = Literal["wait", "supersede", "refuse"]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RolloutRequest(_Message):
    """Input of the workflow ``FleetRollout``; only ``release`` is required."""

    release: Digest
    actor: Actor = "operator"
    reason: str = Field(default="", max_length=500)
    overrides: dict[str, JsonValue] = Field(
        default={}, description="configuration keys by dotted name, for this rollout alone"
    )
    when_busy: WhenBusy | None = Field(
        default=None, description="what to do while another rollout runs; the configuration's word"
    )
    dry_run: bool = Field(default=False, description="return the plan and change nothing")
    accept_known_bad: Reason | None = Field(
        default=None, description="why a release that failed before is tried again"
    )
    skip_gates: Reason | None = Field(
        default=None,
        description="why no gate judges this rollout: a first installation, an emergency",
    )


class RolloutSettings(_Message):
    """The configuration as it holds for one rollout, resolved once at its start."""

    release: Digest
    name: str
    version: str
    config_digest: str
    fleet: str
    regions: list[RegionCode]
    rollout: Rollout
    when_busy: WhenBusy
    gates: GatePolicy | None = Field(description="none when a person had the gates skipped")
    bake_seconds: list[float] = Field(description="by ring, the canary first")
    hold_seconds: float
    known_bad: list[Digest]


class Claim(_Message):
    """The right to change the fleet, with the fencing epoch that proves it."""

    epoch: int = Field(ge=0, description="0: not granted")
    holder: str = Field(default="", description="workflow id of the rollout that has the fleet")


class Decision(_Message):
    """A human decision: who, and why. The input of every update."""

    actor: Actor
    reason: Reason


class AbortDecision(Decision):
    """Stop the rollout; with ``rollback`` the shards it changed go back."""

    rollback: bool = True


class DecisionAnswer(_Message):
    """What an update answers once its receipt is durable: short enough for a terminal.

    The query ``status`` has the whole of it.
    """

    rollout: str
    decided: str
    actor: str
    ring: str
    state: str = Field(description="when the decision was recorded; it takes effect after that")
    then: str = Field(description="what happens now")


class RolloutState(StrEnum):
    """Where a rollout is, in the words of the search attribute ``ChainringState``."""

    WAITING = "waiting"  # for another rollout
    PLANNING = "planning"
    VERIFYING = "verifying"
    STAGING = "staging"
    FROZEN = "frozen"  # a freeze window forbids the next ring
    PAUSED = "paused"
    ACTIVATING = "activating"
    BAKING = "baking"
    HOLDING = "holding"  # a gate without an answer waits for a person
    ROLLING_BACK = "rolling back"
    SETTLING = "settling"  # the end is decided; regions are tidied up
    COMPLETED = "completed"
    COMPLETED_WITH_DEBT = "completed with debt"
    ROLLED_BACK = "rolled back"
    ROLLED_BACK_UNHEALTHY = "rolled back, not healthy"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"
    REFUSED = "refused"
    PLANNED = "planned"  # the end of a dry run


ENDING_STATES = frozenset({RolloutState.ROLLING_BACK, RolloutState.SETTLING})

FINAL_STATES = frozenset(
    {
        RolloutState.COMPLETED,
        RolloutState.COMPLETED_WITH_DEBT,
        RolloutState.ROLLED_BACK,
        RolloutState.ROLLED_BACK_UNHEALTHY,
        RolloutState.ABORTED,
        RolloutState.SUPERSEDED,
        RolloutState.REFUSED,
        RolloutState.PLANNED,
    }
)


class RingStatus(BaseModel):
    """Progress of one ring."""

    name: str
    shards: int
    tenants: int
    cumulative_percent: float
    activated: int = 0
    outcome: str = ""
    verdict: Verdict | None = None
    started: AwareDatetime | None = None
    ended: AwareDatetime | None = None


class Debt(_Message):
    """Shards that a ring skipped because their region was down."""

    region: RegionCode
    ring: str
    shards: list[ShardId]


class DecisionMade(BaseModel):
    """A decision as it was taken, for the status and the result."""

    what: str
    actor: str
    reason: str
    at: AwareDatetime


class RolloutStatus(BaseModel):
    """Answer of the query ``status``."""

    rollout: str
    release: Digest
    name: str = ""
    version: str = ""
    state: RolloutState = RolloutState.WAITING
    why: str = ""
    epoch: int = 0
    ring: str = ""
    rings: list[RingStatus] = []
    deadline: AwareDatetime | None = None
    waiting_for: list[RegionCode] = []
    debts: list[Debt] = []
    decisions: list[DecisionMade] = []
    stranded: list[ShardId] = []
    verification: VerificationStatus | None = Field(
        default=None, description="the last verdict on the release's evidence"
    )
    warnings: list[str] = Field(default=[], description="what was done for want of a better way")
    started: AwareDatetime | None = None
    ended: AwareDatetime | None = None


class RolloutResult(BaseModel):
    """What ``FleetRollout`` returns: its final status, or in a dry run the plan."""

    status: RolloutStatus
    plan: Plan | None = None


def render_details(status: RolloutStatus, now: datetime) -> str:
    """The rollout's current details for Temporal's web UI, in Markdown."""
    title = f"{status.name} {status.version}".strip() or short(status.release)
    lines = [f"## {title}: {status.state}", ""]
    if status.why:
        lines += [status.why, ""]
    lines += _facts(status, now)
    if status.rings:
        lines += ["", "| ring | tenants | shards | activated | gate |", "|---|---|---|---|---|"]
        lines += [_ring_row(ring) for ring in status.rings]
    for ring in reversed(status.rings):
        if ring.verdict is not None:
            lines += ["", render_markdown(ring.verdict), ""]
            break
    lines += [
        f"- {made.at:%H:%M:%S} **{made.what}** by {made.actor}: {made.reason}"
        for made in status.decisions
    ]
    return "\n".join(lines)


def _facts(status: RolloutStatus, now: datetime) -> list[str]:
    facts = [f"- release `{short(status.release)}`, fencing epoch {status.epoch}"]
    if status.waiting_for:
        facts.append(f"- waiting for region(s): {', '.join(status.waiting_for)}")
    if status.deadline is not None:
        left = max(0, round((status.deadline - now).total_seconds()))
        facts.append(f"- rolls back at {status.deadline:%Y-%m-%d %H:%M:%SZ} (in {left} s)")
    if status.verification is not None:
        facts += status.verification.markdown()
    facts += [f"- **warning:** {warning}" for warning in status.warnings]
    facts += [f"- owed to {debt.region}: {len(debt.shards)} shard(s)" for debt in status.debts]
    return facts


def _ring_row(ring: RingStatus) -> str:
    return (
        f"| {ring.name} | {ring.tenants} ({ring.cumulative_percent:.1f} %) | {ring.shards} "
        f"| {ring.activated} | {ring.outcome or '-'} |"
    )
