"""Looking after a backup: which objects are read when, and what is wrong with those that are bad.

Objects are dealt into shares by their names. Each run reads the next share, and as many more as the
clock says were missed: whatever the clock says, a run reads at least one and at most all, and every
share has its turn.
"""

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.ids import Actor, Reason

SHARES = 24
MOST_BAD = 300
"""Bad objects that one run reports; the others are found in their next turn."""

INTERVAL = timedelta(hours=1)
"""How often a run is due: all shares have their turn in a day."""

ValidationKind = Literal["rotation", "sample"]
ValidationPhase = Literal["reading", "mending", "sound", "damaged", "failed"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rotation(_Model):
    """How far the reading is: shares read since the first one, and when the last run was."""

    read: int = Field(default=0, ge=0)
    at: AwareDatetime | None = None

    def due(self, now: datetime) -> list[int]:
        """The shares to read now."""
        missed = 1 if self.at is None else (now - self.at + INTERVAL / 2) // INTERVAL
        return [(self.read + n) % SHARES for n in range(min(max(missed, 1), SHARES))]

    def after(self, shares: int, now: datetime) -> "Rotation":
        """The state when so many more were read."""
        return Rotation(read=self.read + shares, at=now)


class BadObject(_Model):
    """Something in the backup that is not what it must be.

    Attributes:
        name: the object, or the name that a missing one would have.
    """

    name: str = Field(max_length=512)
    what: str = Field(max_length=500)

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


class ValidateRequest(_Model):
    """Input of ``ValidateBackup``: the next shares of all objects, or a random sample."""

    kind: ValidationKind = "rotation"
    everything: bool = Field(default=False, description="all shares at once")
    actor: Actor = "chainring"
    reason: Reason = "scheduled"


class ValidationReport(_Model):
    """What one run read.

    Attributes:
        bad: found for the first time; ``more`` were found that are not named.
        known: bad objects that an earlier run found.
        documents: that were restored from a sample; ``erased`` have no key any more.
        seed: what chose the sample; the same one chooses it again.
        then: the rotation after this run.
    """

    objects: int = 0
    bytes: int = 0
    bad: tuple[BadObject, ...] = ()
    more: int = 0
    known: int = 0
    documents: int = 0
    erased: int = 0
    of_documents: int = 0
    seed: str = ""
    manifest: str = ""
    then: Rotation | None = None


class ValidationStatus(BaseModel):
    """Answer of the query ``status``, and the workflow's result."""

    region: str
    kind: ValidationKind
    state: ValidationPhase
    why: str = ""
    report: ValidationReport | None = None
    incident: str = ""
    snapshot: str = Field(default="", description="manifest of the fresh snapshot")
    receipt: int | None = None


def share_of(name: str) -> int:
    """The share that an object belongs to."""
    return int.from_bytes(sha256(name.encode()).digest()[:4], "big") % SHARES


def render_validation(status: ValidationStatus) -> str:
    """The current details for Temporal's web UI, in Markdown."""
    lines = [f"**{status.state}**{': ' + status.why if status.why else ''}"]
    if (report := status.report) is not None:
        lines.append(f"- {report.objects} objects read, {report.bytes} bytes")
        if report.of_documents:
            lines.append(
                f"- {report.documents} of {report.of_documents} documents restored and compared, "
                f"{report.erased} erased"
            )
        if report.known:
            lines.append(f"- {report.known} bad objects are known from before")
        lines += [f"- **bad**: {each}" for each in report.bad[:20]]
    if status.incident:
        lines.append(f"- incident `{status.incident}`")
    if status.snapshot:
        lines.append(f"- fresh snapshot `{status.snapshot}`")
    return "\n".join(lines)
