"""Inputs and answers of the recovery workflows: what an operator writes, reads and decides."""

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.ids import ACTOR_PATTERN, RegionCode
from models.probe import Verdict
from models.restore import Goal, RestoreReport
from models.spool import OutageProof


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SnapshotRequest(_Model):
    """Input of ``SnapshotRegion``."""

    reason: str = Field(default="by hand", max_length=500)


class SnapshotReport(_Model):
    """A snapshot that is in the backup, and is what was signed."""

    region: RegionCode
    store: str
    seq: int
    documents: int
    chunks: int
    new_chunks: int = Field(description="the others were there from an earlier snapshot")
    state_root: str
    manifest: str


class RestoreRequest(_Model):
    """Input of ``RestoreRegion``.

    Attributes:
        store: whose backup; the region's primary when left out.
        head: the signed head to reach; the witnessed one when left out.
        dry_run: restore on the side, prove it, and throw it away.
    """

    goal: Goal = Goal()
    store: str | None = Field(default=None, pattern=r"[0-9a-f]{32}")
    head: str | None = Field(default=None, max_length=4096)
    dry_run: bool = False
    actor: str = Field(pattern=ACTOR_PATTERN)
    reason: str = Field(min_length=1, max_length=500)


class GapDecision(_Model):
    """A person's word on a restore that does not reach what was signed."""

    actor: str = Field(pattern=ACTOR_PATTERN)
    reason: str = Field(min_length=1, max_length=500)


class BuildStore(_Model):
    """Restore into a database of its own; the same ``restored`` again continues nothing and starts
    anew."""

    request: RestoreRequest
    restored: str = Field(pattern=r"[0-9a-f]{32}", description="id of the store to make")
    workflow: str


class BuiltStore(_Model):
    """A store that was built and proved, and what it was held against.

    Attributes:
        head: the signed head that was to be reached.
        checkpoint: the newest checkpoint of the region's ledger then; "" when there was none.
        replaces: the primary when it was built.
    """

    report: RestoreReport
    head: str
    checkpoint: str
    replaces: str = ""


class CertifyStore(_Model):
    """Sign what a restore can show."""

    built: BuiltStore
    drill: bool
    started: AwareDatetime
    finished: AwareDatetime
    accepted: GapDecision | None = None


class PublishStore(_Model):
    """Make a restored store the region's primary.

    Attributes:
        latest: everything that the primary ever took is wanted, also what it took while the
            restore ran.
        replaces: the store that must still be the primary; empty: any.
    """

    report: RestoreReport
    restored: str
    actor: str
    reason: str
    accepted: GapDecision | None = None
    workflow: str
    latest: bool = False
    replaces: str = ""


class Published(_Model):
    """The region's primary from now on."""

    region: RegionCode
    store: str
    epoch: int
    database: str = Field(description="without its password")


RestorePhase = Literal[
    "restoring", "waiting", "publishing", "published", "proved", "given up", "failed"
]


class RestoreStatus(BaseModel):
    """Answer of the ``status`` query, and result."""

    model_config = ConfigDict(extra="forbid")

    region: str
    state: RestorePhase
    why: str = ""
    started: AwareDatetime
    ended: AwareDatetime | None = None
    report: RestoreReport | None = None
    accepted: GapDecision | None = None
    published: Published | None = None
    certificate: str = Field(default="", description="path of the signed certificate")
    incident: str = Field(default="", description="workflow id, where an SLA was missed")


class FailOverRequest(_Model):
    """Input of ``FailOver``.

    Attributes:
        verdict: what the watch found; None where a person decides.
        initiate_by: until when writes must be buffered; later the verdict is too old to act on.
    """

    actor: str = Field(pattern=ACTOR_PATTERN)
    reason: str = Field(min_length=1, max_length=500)
    verdict: Verdict | None = None
    initiate_by: AwareDatetime | None = None


class Degraded(_Model):
    """The region takes writes into its buffer from this epoch of its request path on."""

    epoch: int
    why: str


class OpenedSnapshot(_Model):
    """What reads are answered from beneath the buffer: the store as it was then."""

    database: str
    at: AwareDatetime


class CloseSnapshot(_Model):
    """Remove what was made for reading; ``opened`` may be that of a failover before."""

    scratch: str
    opened: OpenedSnapshot | None


class DrainStore(_Model):
    """Bring the buffer into the primary, and serve from that again."""

    actor: str
    reason: str
    workflow: str
    rebuilt: bool = Field(description="whether the primary was restored since the outage began")
    verdict: Verdict | None = None


class Drained(_Model):
    """What was acknowledged during an outage, and where it is now."""

    acknowledged: int
    applied: int
    conflicts: int
    pending: int
    first_conflicts: list[str] = Field(description="the first of them, for people")
    proof: OutageProof


FailOverPhase = Literal["degrading", "restoring", "draining", "normal", "failed"]


class FailOverStatus(BaseModel):
    """Answer of the ``status`` query, and result."""

    model_config = ConfigDict(extra="forbid")

    region: str
    state: FailOverPhase
    why: str = ""
    started: AwareDatetime
    degraded_at: AwareDatetime | None = None
    reads: OpenedSnapshot | None = None
    no_reads: str = Field(default="", description="why reads know only what is in the buffer")
    normal_at: AwareDatetime | None = None
    notices: list[int] = Field(default_factory=list, description="numbers; what tenants were told")
    not_told: str = Field(default="", description="why tenants were not told")
    restore: RestoreStatus | None = None
    drained: Drained | None = None
    incident: str = Field(default="", description="workflow id, where an SLA was missed")
