"""From a commit to the whole fleet, as its people see it: request, steps, status."""

from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from models.build import BuildRequest
from models.ids import Actor, Digest, Reason, short
from models.rollout import DecisionMade, RolloutState, WhenBusy


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RolloutOptions(_Message):
    """How the release is rolled out; see `models.rollout.RolloutRequest`."""

    overrides: dict[str, JsonValue] = {}
    when_busy: WhenBusy | None = None
    skip_gates: Reason | None = None


class ProductionRequest(_Message):
    """Input of ``ReleaseToProduction``: what to build, and how to roll it out."""

    build: BuildRequest
    rollout: RolloutOptions = RolloutOptions()
    actor: Actor = "operator"
    reason: str = Field(default="", max_length=500)
    hold_minutes: int = Field(
        default=24 * 60, ge=1, le=30 * 24 * 60, description="wait for a person at a failed step"
    )


class ProductionState(StrEnum):
    """Where it is, in the words of the search attribute ``ChainringState``."""

    BUILDING = "building"
    VERIFYING = "verifying"
    ROLLING_OUT = "rolling out"
    HOLDING = "holding"  # a step failed: retry it, or give up
    COMPLETED = "completed"
    FAILED = "failed"
    GIVEN_UP = "given up"


class StepTaken(BaseModel):
    """One attempt at a step."""

    step: ProductionState
    attempt: int
    workflow: str = Field(default="", description="workflow id that did it; empty: an activity")
    outcome: str = ""
    started: AwareDatetime
    ended: AwareDatetime | None = None


class ProductionStatus(BaseModel):
    """Answer of the query ``status``, and the workflow's result."""

    id: str
    state: ProductionState = ProductionState.BUILDING
    why: str = ""
    release: Digest | None = None
    name: str = ""
    version: str = ""
    rollout_state: RolloutState | None = None
    deadline: AwareDatetime | None = None
    steps: list[StepTaken] = []
    decisions: list[DecisionMade] = []


def render_production(status: ProductionStatus) -> str:
    """The current details for Temporal's web UI, in Markdown."""
    title = f"{status.name} {status.version}".strip() or status.id
    lines = [f"## {title}: {status.state}", ""]
    if status.why:
        lines += [status.why, ""]
    if status.release is not None:
        lines.append(f"- release `{short(status.release)}`")
    if status.deadline is not None:
        lines.append(
            f"- `retry` or `give_up` by {status.deadline:%Y-%m-%d %H:%M:%SZ}, or it fails then"
        )
    lines += ["", "| step | attempt | by | outcome |", "|---|---|---|---|"]
    lines += [
        f"| {each.step} | {each.attempt} | {each.workflow or '-'} | {each.outcome or '...'} |"
        for each in status.steps
    ]
    lines += [
        f"- {made.at:%H:%M:%S} **{made.what}** by {made.actor}: {made.reason}"
        for made in status.decisions
    ]
    return "\n".join(lines)
