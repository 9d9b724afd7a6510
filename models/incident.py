"""Releases that ran with good evidence and do not stand any more: judged again, and what follows.

New vulnerability data, a VEX statement or an exception that ran out can change the verdict on a
release that runs already. ``RejudgeDeployments`` finds it and the shards it is on; ``Incident`` is
what people do about it.
"""

from enum import StrEnum
from hashlib import sha256

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.config_supply import FollowUp
from models.ids import Actor, Digest, RegionCode, short
from models.rollout import DecisionMade


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RejudgeRequest(_Message):
    """Input of ``RejudgeDeployments``; nothing is required."""

    actor: Actor = "chainring"
    reason: str = Field(default="scheduled", max_length=500)


class RejudgeSettings(_Message):
    """The configuration as it holds for one look at all that runs."""

    fleet: str
    regions: list[RegionCode]
    follow_up: FollowUp
    region_down_after_seconds: float


class Deployed(_Message):
    """A release with the shards that run it, or that a rollout is about to bring it to."""

    release: Digest
    name: str
    version: str
    shards: dict[RegionCode, int] = Field(default={}, description="number of shards, by region")
    tenants: int = 0
    rollout: str = Field(default="", description="workflow id of the rollout that brings it now")


class Proposal(_Message):
    """An earlier release that stands, to go back to."""

    release: Digest
    name: str
    version: str


class IncidentRequest(_Message):
    """Input of ``Incident``: a deployed release that was refused, and what was done so far."""

    deployed: Deployed
    cause: str = Field(description="what refused it; the same cause opens one incident")
    why: str
    verdict_seq: int = Field(description="receipt of the verdict in the control ledger")
    stopped: str = Field(default="", description="the rollout that was stopped, if one was")
    proposal: Proposal | None = None


class OpenIncident(_Message):
    """An incident that nobody has closed; ``release`` as `models.ids.short` gives it."""

    id: str
    release: str


class StopRollout(_Message):
    """Abort the rollout that brings a release which was refused."""

    rollout: str
    incident: str
    why: str


class IncidentState(StrEnum):
    """Where an incident is, in the words of the search attribute ``ChainringState``."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    ROLLING_BACK = "rolling back"
    CLOSED = "closed"


class IncidentStatus(BaseModel):
    """Answer of the query ``status``, and the workflow's result."""

    id: str
    request: IncidentRequest
    state: IncidentState = IncidentState.OPEN
    rollback: str = Field(default="", description="workflow id of the rollout that goes back")
    opened: AwareDatetime | None = None
    decisions: list[DecisionMade] = []


class RejudgeReport(BaseModel):
    """Result of ``RejudgeDeployments``."""

    judged: int = 0
    standing: int = 0
    overridden: list[str] = Field(default=[], description="refused, but let through by people")
    incidents: list[str] = Field(default=[], description="workflow ids, new and still open ones")
    resolved: list[str] = Field(default=[], description="incidents whose cause is gone")
    unseen: list[RegionCode] = Field(
        default=[], description="regions that did not answer; judged by their last known catalog"
    )


def incident_id(release: str, cause: str) -> str:
    """One incident a release and cause, however often the release is judged."""
    return f"incident/{short(release)}/{sha256(cause.encode()).hexdigest()[:8]}"


def render_incident(status: IncidentStatus) -> str:
    """The current details for Temporal's web UI, in Markdown."""
    request, deployed = status.request, status.request.deployed
    title = f"{deployed.name} {deployed.version}"
    lines = [f"## {title} does not stand any more: {status.state}", "", request.why, ""]
    where = ", ".join(f"{region} {count}" for region, count in sorted(deployed.shards.items()))
    lines.append(f"- release `{short(deployed.release)}`, {deployed.tenants} tenants")
    lines.append(f"- shards: {where or 'none'}; verdict: receipt {request.verdict_seq}")
    if request.stopped:
        lines.append(f"- stopped: `{request.stopped}`")
    if request.proposal is not None:
        proposed = f"{request.proposal.name} {request.proposal.version}"
        lines.append(f"- update `accept_rollback` rolls out {proposed}, which stands")
    if status.rollback:
        lines.append(f"- going back by `{status.rollback}`")
    lines += [
        f"- {made.at:%H:%M:%S} **{made.what}** by {made.actor}: {made.reason}"
        for made in status.decisions
    ]
    return "\n".join(lines)
