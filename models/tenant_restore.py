"""One tenant restored alone: what is asked for, what was found, and what was written."""

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.ids import ACTOR_PATTERN, RegionCode, TenantId
from models.recovery import GapDecision
from models.restore import Finding, Gap, Goal

SHOWN = 20
"""Keys that are named to people; the counts are of all."""

COPY_TYPE = "urn:chainring:tenant-copy:v1"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TenantRequest(_Model):
    """Input of ``RestoreTenant``.

    Attributes:
        store: whose backup; the region's primary when left out.
        head: the signed head to reach; the witnessed one when left out.
        in_place: compare with the live tenant, and write what differs once a person says so.
        dry_run: only compare; nothing is kept.
    """

    tenant: TenantId
    goal: Goal = Goal()
    store: str | None = Field(default=None, pattern=r"[0-9a-f]{32}")
    head: str | None = Field(default=None, max_length=4096)
    in_place: bool = False
    dry_run: bool = False
    actor: str = Field(pattern=ACTOR_PATTERN)
    reason: str = Field(min_length=1, max_length=500)


class CopyReport(_Model):
    """A tenant's documents out of a backup, and what they were held against.

    Attributes:
        state_root: of all of the store's documents at `reached_seq`, by digests.
        root_note: the signed head for exactly this change; empty when it follows by the chain.
        erased: the tenant's key is destroyed: there is nothing to read for ever.
        digest: of all keys and values, see `stores.tenant_copy.entries_digest`.
        bytes: of keys and values.
    """

    region: RegionCode
    tenant: TenantId
    source_store: str
    goal: Goal
    target_seq: int
    reached_seq: int
    expected_seq: int
    base_seq: int
    base_manifest: str
    segments: tuple[str, ...]
    state_root: str
    root_note: str
    chain: str
    last_change_at: AwareDatetime | None
    erased: bool
    keys: int
    bytes: int
    digest: str
    gap: Gap | None
    findings: tuple[Finding, ...]


class CopyTenant(_Model):
    """Bring a tenant out of the backup; ``copy_id`` names the copy, and again gives the same."""

    request: TenantRequest
    copy_id: str = Field(pattern=r"[0-9a-f]{32}")
    workflow: str


class TenantCopy(_Model):
    """A copy in quarantine; ``directory`` is empty where nothing was kept."""

    report: CopyReport
    directory: str


class CompareTenant(_Model):
    """Hold a copy against the live tenant."""

    tenant: TenantId
    copy_id: str = Field(pattern=r"[0-9a-f]{32}")


class Comparison(_Model):
    """What restoring in place would do to the live tenant as it was at this look.

    Attributes:
        store: the region's primary then.
        plan: SHA-256 of the plan's file, which names each key and its version at this look.
        before: digest of the live tenant then, as in `CopyReport`.
        first: some of the keys, for people.
    """

    store: str
    plan: str
    before: str
    put: int
    remove: int
    same: int
    first: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.put or self.remove)


class ApplyTenant(_Model):
    """Write a plan, once a person has said so."""

    tenant: TenantId
    copy_id: str = Field(pattern=r"[0-9a-f]{32}")
    report: CopyReport
    comparison: Comparison
    decision: GapDecision
    workflow: str


class AppliedTenant(_Model):
    """What was written in place.

    Attributes:
        conflicts: keys that were written by somebody else since the comparison; they stay.
        after: digest of the live tenant afterwards.
    """

    put: int
    removed: int
    conflicts: int
    first_conflicts: tuple[str, ...]
    before: str
    after: str


TenantPhase = Literal[
    "copying",
    "comparing",
    "waiting",
    "writing",
    "in quarantine",
    "compared",
    "restored",
    "erased",
    "given up",
    "failed",
]


class TenantStatus(BaseModel):
    """Answer of the ``status`` query, and result."""

    model_config = ConfigDict(extra="forbid")

    region: str
    tenant: str
    state: TenantPhase
    why: str = ""
    started: AwareDatetime
    ended: AwareDatetime | None = None
    copied: TenantCopy | None = None
    comparison: Comparison | None = None
    decision: GapDecision | None = None
    applied: AppliedTenant | None = None
