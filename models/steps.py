"""Arguments and answers of activities: what a workflow says to the code that has effects."""

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.contracts import CatalogReply
from models.deployment import Approval
from models.ids import Digest, RegionCode, ShardId
from models.receipts import Draft
from models.rollout import Debt, RolloutSettings


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClaimFleet(_Step):
    """Take the fleet for a rollout."""

    fleet: str
    rollout: str
    run: str


class AdvanceEpoch(_Step):
    """Fence what the rollout did so far and go on in a new phase."""

    fleet: str
    rollout: str
    phase: str


class FreeFleet(_Step):
    """Give the fleet back at the end of a rollout; of no effect when another one has it."""

    fleet: str
    rollout: str


class KeepCatalog(_Step):
    """Remember a region's shards, so that a plan can be made while the region is down."""

    catalog: CatalogReply


class PlanRings(_Step):
    """Plan over the catalogs kept last; too large to travel as an argument for a big fleet."""

    settings: RolloutSettings


class Condemn(_Step):
    """Remember a release as known bad, with its receipt."""

    release: Digest
    rollout: str
    why: str
    draft: Draft


class CalendarAnswer(_Step):
    """Whether a ring may start now."""

    blocked_by: str = Field(default="", description="name and reason of the freeze window")
    next_open: AwareDatetime | None = None


class AskCalendar(_Step):
    """May a ring that touches these regions start now? A freeze may hold for some regions only."""

    regions: list[RegionCode]


class ActivateShard(_Step):
    """Switch one shard."""

    rollout: str
    epoch: int
    ring: str = Field(description="'rollback' on the way back")
    release: Digest
    shard: ShardId
    approval: Approval | None = None


class JudgeRelease(_Step):
    """Judge a release's evidence as it is now."""

    release: Digest
    phase: str = Field(
        min_length=1, max_length=200, description="why: verify, start, ring <name>, running, ..."
    )
    attempt: int = Field(
        default=1, ge=1, description="counts on when the same phase is judged again"
    )


class ResolveRelease(_Step):
    """Find the digest that a person's reference stands for now."""

    reference: str = Field(min_length=1, max_length=512)


class ResolvedRelease(_Step):
    """A release by its digest, and what it calls itself."""

    release: Digest
    name: str
    version: str


class ShardMove(_Step):
    """Where a rollback takes a shard; no release: there is none to go back to."""

    shard: ShardId
    release: Digest | None


class DrainRelease(_Step):
    """Stop the process of a release that no shard of the region runs any more."""

    rollout: str
    epoch: int
    release: Digest


class DebtOrder(_Step):
    """What the workflow ``SettleDebt`` has to pay, and as whom."""

    rollout: str
    epoch: int
    release: Digest
    region: RegionCode
    debts: list[Debt]
    ask_every_seconds: float
    approval: Approval | None = Field(
        default=None, description="absent from rollouts that began before releases were verified"
    )
