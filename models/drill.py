"""Rehearsals of recovery: which there are, which regions take part, and what one found."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.ids import Actor, Reason, RegionCode
from models.restore import RestoreReport

DrillKind = Literal["weekly", "monthly", "yearly"]
DrillPhase = Literal["resting", "restoring", "recording", "proved", "failed"]

WHAT: dict[DrillKind, str] = {
    "weekly": "from the newest snapshot to the signed head",
    "monthly": "from the oldest snapshot to the signed head, replaying everything",
    "yearly": "the whole region from its backup alone, the tenants' keys included",
}

_WEEK = timedelta(weeks=1)
_EPOCH = datetime.fromisoformat("1970-01-05T00:00:00+00:00")
"""A Monday."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rotation(_Model):
    """A rehearsal takes ``sample`` of the regions, others each week; ``region`` is this one."""

    region: RegionCode
    regions: list[RegionCode] = Field(min_length=1)
    sample: int = Field(ge=1)

    def takes_part(self, at: datetime) -> bool:
        """Whether it is the region's turn in the week of ``at``; always, if it is none of them."""
        turns = turn(self.regions, self.sample, (at - _EPOCH) // _WEEK)
        return self.region in turns or self.region not in self.regions


class DrillRequest(_Model):
    """Input of ``RecoveryDrill``.

    Attributes:
        rotation: without it the region always takes part.
    """

    kind: DrillKind = "weekly"
    actor: Actor = "chainring"
    reason: Reason = "scheduled"
    rotation: Rotation | None = None


class DrillStep(_Model):
    """Restore on the side and compare; ``holder`` is whose the scratch database is."""

    kind: DrillKind
    holder: str


class Comparison(_Model):
    """The live store's documents against the restored ones, after the same change.

    Attributes:
        same: None where the live store could not be read; ``why`` says why.
    """

    same: bool | None
    seq: int = 0
    live_root: str = ""
    why: str = ""


class DrillResult(_Model):
    """What a drill restored, by what, and what it is worth.

    Attributes:
        report: without its segments, whose names are in the certificate.
        certificate: name of its object in the backup; "" where nothing could be certified.
        used: what the restore was made of; nothing else was read.
        faults: why the drill is not passed; empty when it is.
        misses: SLAs that were not kept.
    """

    report: RestoreReport
    segments: int = Field(ge=0)
    certificate: str
    path: str
    used: tuple[str, ...]
    compared: Comparison
    seconds: float = Field(ge=0)
    faults: tuple[str, ...]
    misses: tuple[str, ...]


class DrillStatus(BaseModel):
    """Answer of the query ``status``, and the workflow's result."""

    region: str
    kind: DrillKind
    state: DrillPhase
    why: str = ""
    started: AwareDatetime
    ended: AwareDatetime | None = None
    result: DrillResult | None = None
    receipt: int | None = None
    incidents: list[str] = []
    swept: list[str] = Field(default=[], description="left by drills that were killed")


def turn(regions: Sequence[str], sample: int, week: int) -> set[str]:
    """The regions that a rehearsal takes in a week: each one's turn comes as often as another's."""
    ordered = sorted(set(regions))
    count = len(ordered)
    if sample >= count:
        return set(ordered)
    return {ordered[(week * sample + number) % count] for number in range(sample)}


def faults_of(report: RestoreReport, compared: Comparison) -> list[str]:
    """Why a drill is not passed, in words."""
    found = []
    if report.gap is not None:
        gap = report.gap
        found.append(f"changes {gap.first} to {gap.last} are missing: {gap.why}")
    elif not report.complete:
        lost = report.receipts_expected - report.receipts
        found.append(f"{lost} receipts that were signed are missing")
    if compared.same is False:
        found.append(compared.why or "the live store is not what was restored")
    found += [f"{each.where}: {each.what}" for each in report.findings]
    return found


def render_drill(status: DrillStatus) -> str:
    """The current details for Temporal's web UI, in Markdown."""
    lines = [f"**{status.state}**{': ' + status.why if status.why else ''}", "", WHAT[status.kind]]
    if (result := status.result) is not None:
        report, compared = result.report, result.compared
        why = f": {compared.why}" if compared.why else ""
        lines += [
            "",
            f"- {report.documents} documents, {report.changes_applied} changes in "
            f"{result.segments} segments after snapshot {report.base_seq}",
            f"- reached {report.reached_seq} of {report.target_seq} in {result.seconds:.1f} s",
            *(f"- {phase.name}: {phase.seconds:.2f} s" for phase in report.phases),
            f"- live store: {_COMPARED[compared.same]}{why}",
            *(f"- made of: {each}" for each in result.used),
            *(f"- **fault**: {each}" for each in result.faults),
            *(f"- **SLA missed**: {each}" for each in result.misses),
        ]
        if result.certificate:
            lines.append(f"- certificate `{result.certificate}`")
    lines += [f"- incident `{each}`" for each in status.incidents]
    lines += [f"- thrown away: {each}" for each in status.swept]
    return "\n".join(lines)


_COMPARED = {True: "the same state root", False: "**differs**", None: "not compared"}
