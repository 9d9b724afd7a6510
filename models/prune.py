"""Inputs and answers of ``PruneBackup``: what is to go, what went, and what was not let go."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.ids import Actor, Reason

PrunePhase = Literal["planning", "planned", "removing", "waiting", "done", "postponed", "refused"]

KINDS = ("snapshots", "changelog", "chunks", "bad")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PruneRequest(_Model):
    """Input of ``PruneBackup``; ``plan_only`` shows what would go."""

    plan_only: bool = False
    give_way_seconds: int = Field(
        default=43_200,
        ge=0,
        le=604_800,
        description="how long to wait for those who read the backup; the next run is soon enough",
    )
    actor: Actor = "chainring"
    reason: Reason = "scheduled"


class PlannedRemoval(_Model):
    """A plan as people see it.

    Attributes:
        base: the oldest snapshot that is kept; "" where nothing is old enough to go.
        age_days: how old that is at least, in whole days.
        counts: objects that go, by kind.
        digest: of all names and generations, in order.
        first: some of the names.
    """

    base: str = ""
    base_seq: int = 0
    store: str = ""
    age_days: int = 0
    counts: dict[str, int] = {}
    bytes: int = 0
    digest: str = ""
    first: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def objects(self) -> int:
        """How many objects go."""
        return sum(self.counts.values())


class PruneStep(_Model):
    """Remove what a plan that was shown has out of its base's way."""

    base: str
    holder: str


class Pruned(_Model):
    """What went.

    Attributes:
        refused: objects that are held, retained, or not what they were; they stay.
        reader: who began to read the backup; "" where all was done.
    """

    counts: dict[str, int] = {}
    bytes: int = 0
    refused: int = Field(default=0, ge=0)
    first_refused: tuple[str, ...] = ()
    reader: str = ""

    def after(self, earlier: "Pruned | None") -> "Pruned":
        """Together with what went before a reader came; what stays is the last one's word."""
        if earlier is None:
            return self
        kinds = {**earlier.counts, **self.counts}
        counts = {k: earlier.counts.get(k, 0) + self.counts.get(k, 0) for k in kinds}
        return self.model_copy(update={"counts": counts, "bytes": earlier.bytes + self.bytes})


class PruneStatus(BaseModel):
    """Answer of the query ``status``, and the workflow's result."""

    region: str
    state: PrunePhase
    why: str = ""
    plan: PlannedRemoval | None = None
    pruned: Pruned | None = None
    receipt: int | None = None
    incident: str = ""


def render_prune(status: PruneStatus) -> str:
    """The current details for Temporal's web UI, in Markdown."""
    lines = [f"**{status.state}**{': ' + status.why if status.why else ''}"]
    if (made := status.plan) is not None and made.base:
        lines += [
            f"- oldest snapshot that is kept: `{made.base}`, {made.age_days} days",
            f"- to go: {made.objects} objects, {made.bytes} bytes: {made.counts}",
            *(f"- `{name}`" for name in made.first),
        ]
    elif made is not None:
        lines.append("- nothing is old enough to go")
    lines += [f"- kept: {note}" for note in (made.notes if made else ())]
    if (done := status.pruned) is not None:
        lines.append(f"- gone: {done.counts}, {done.bytes} bytes; not let go: {done.refused}")
        lines += [f"- not let go: {each}" for each in done.first_refused]
    if status.incident:
        lines.append(f"- incident `{status.incident}`")
    return "\n".join(lines)
