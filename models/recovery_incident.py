"""What is wrong with a region's recovery, and what people say about it.

It concerns the region alone and never leaves it: its workflow runs in the region's namespace and
its receipts are in the region's ledger.
"""

from hashlib import sha256
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.ids import Actor
from models.incident import IncidentState
from models.rollout import DecisionMade

MOST_SIGHTINGS = 50
"""Sightings that are kept in the status; the others are counted."""

RecoveryIncidentKind = Literal["drill-failed", "sla-missed", "backup-damaged", "retention-refused"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecoveryIncidentRequest(_Model):
    """Input of ``RecoveryIncident``.

    Attributes:
        cause: what tells it from another one of its kind; the same cause opens one incident.
        certificate: name of the certificate that shows it, where there is one.
    """

    region: str = Field(min_length=1, max_length=64, description="the namespace")
    kind: RecoveryIncidentKind
    cause: str = Field(min_length=1, max_length=500)
    why: str = Field(max_length=2000)
    certificate: str = ""

    @property
    def id(self) -> str:
        """The workflow id."""
        digest = sha256(self.cause.encode()).hexdigest()[:8]
        return f"incident/{self.region}/{self.kind}/{digest}"


class Sighting(_Model):
    """The cause was seen by a workflow; the same workflow's word counts once."""

    source: str
    why: str = Field(max_length=2000)


class RaiseIncident(_Model):
    """Open an incident, or add to the one that is open."""

    request: RecoveryIncidentRequest
    source: str = Field(description="workflow and run that saw it")


class JudgeFailOver(_Model):
    """The times of a failover that is over, to be held against the SLAs."""

    started: AwareDatetime
    degraded_at: AwareDatetime
    normal_at: AwareDatetime
    source: str


class JudgeRestore(_Model):
    """A restore that was published, by the certificate of its store."""

    restored: str = Field(pattern=r"[0-9a-f]{32}")
    source: str


class RecoveryIncidentStatus(BaseModel):
    """Answer of the query ``status``, and the workflow's result."""

    id: str
    request: RecoveryIncidentRequest
    state: IncidentState = IncidentState.OPEN
    opened: AwareDatetime | None = None
    seen: int = 0
    sightings: list[Sighting] = []
    decisions: list[DecisionMade] = []
    unrecorded: int = Field(default=0, description="receipts that wait for the region's store")


class IncidentOpened(_Model):
    """Body of the receipt ``recovery.incident`` when one is opened, decided on or closed."""

    what: str
    kind: RecoveryIncidentKind
    cause: str
    reason: str
    certificate: str = ""
    actor: Actor = "chainring"


def render_recovery_incident(status: RecoveryIncidentStatus) -> str:
    """The current details for Temporal's web UI, in Markdown."""
    request = status.request
    lines = [f"## {request.region}: {request.kind}: {status.state}", "", request.why, ""]
    if request.certificate:
        lines.append(f"- certificate `{request.certificate}`")
    lines.append(f"- seen {status.seen} times")
    lines += [f"- by `{each.source}`: {each.why}" for each in status.sightings[-5:]]
    lines += [
        f"- {made.at:%Y-%m-%d %H:%M:%S} **{made.what}** by {made.actor}: {made.reason}"
        for made in status.decisions
    ]
    if status.unrecorded:
        lines.append(f"- {status.unrecorded} receipts wait for the region's store")
    return "\n".join(lines)
