"""Break-glass: a release that verification refuses is let through by two people, for a while.

It opens nothing for good: an override names one release, needs a second person, ends by itself,
and is a receipt from its first word to its last.
"""

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.ids import Actor, Digest, Reason, short
from models.rollout import DecisionMade

MAX_MINUTES = 24 * 60


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BreakGlassRequest(_Message):
    """Input of the workflow ``BreakGlass``: who asks to let which release through, and why."""

    release: Digest
    actor: Actor
    reason: Reason
    minutes: int = Field(default=60, ge=1, le=MAX_MINUTES, description="in force after approval")
    approve_within_minutes: int = Field(
        default=60, ge=1, le=MAX_MINUTES, description="without a second person by then, it lapses"
    )


class Override(_Message):
    """A release that may be rolled out although verification refuses it, until ``expires``."""

    id: str = Field(description="workflow id of the break-glass that granted it")
    release: Digest
    opened_by: Actor
    approved_by: Actor
    reason: Reason
    expires: AwareDatetime

    def words(self) -> str:
        """One line for wherever the release is shown."""
        return (
            f"BREAK-GLASS until {self.expires:%Y-%m-%d %H:%M:%SZ}: {self.reason} "
            f"(opened by {self.opened_by}, approved by {self.approved_by}, {self.id})"
        )


class BreakGlassState(StrEnum):
    """Where a break-glass is, in the words of the search attribute ``ChainringState``."""

    WAITING = "waiting for approval"
    IN_FORCE = "in force"
    EXPIRED = "expired"
    REVOKED = "revoked"
    LAPSED = "lapsed"  # nobody approved it in time


class BreakGlassStatus(BaseModel):
    """Answer of the query ``status``, and the workflow's result."""

    id: str
    release: Digest
    state: BreakGlassState = BreakGlassState.WAITING
    opened_by: Actor
    reason: Reason
    deadline: AwareDatetime | None = Field(
        default=None, description="end of the wait for approval, or of the override"
    )
    decisions: list[DecisionMade] = []


class EndOverride(_Message):
    """Take an override back before its time, or write down that its time is over."""

    id: str
    release: Digest
    state: BreakGlassState
    actor: Actor
    reason: str


def same_person(one: str, other: str) -> bool:
    """Whether two actors' names are one person's: case and surrounding space make no second one."""
    return one.strip().casefold() == other.strip().casefold()


def short_state(state: BreakGlassState) -> str:
    """The state as the last word of a receipt's kind."""
    return state.value.replace(" ", "-")


def expiry(approved: datetime, minutes: int) -> datetime:
    """When an override ends that was approved at ``approved``."""
    return approved + timedelta(minutes=minutes)


def render_break_glass(status: BreakGlassStatus) -> str:
    """The current details for Temporal's web UI, in Markdown."""
    lines = [f"## Break-glass for `{short(status.release)}`: {status.state}", ""]
    lines.append(f"{status.opened_by}: {status.reason}")
    if status.deadline is not None:
        lines.append(f"- until {status.deadline:%Y-%m-%d %H:%M:%SZ}")
    if status.state is BreakGlassState.WAITING:
        lines.append("- needs the update `approve` by another person than the one above")
    lines += [
        f"- {made.at:%H:%M:%S} **{made.what}** by {made.actor}: {made.reason}"
        for made in status.decisions
    ]
    return "\n".join(lines)
