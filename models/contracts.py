"""The Nexus contract between the control plane and a region: the only way across the border.

What these types cannot carry cannot cross: ids, digests, counts, histograms and verdicts, never
tenant data. Every request that changes something carries the rollout's fencing epoch, and the
region's store refuses an epoch lower than one it has seen.
"""

import nexusrpc
from pydantic import BaseModel, ConfigDict, Field

from models.deployment import Approval
from models.ids import Digest, RegionCode, ShardId
from models.observation import RegionObservation


class Contract(BaseModel):
    """Base of every message: immutable, and an unknown field is an error, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardSummary(Contract):
    """A shard as the control plane may know it: counts, no tenants."""

    shard: ShardId
    region: RegionCode
    tenants: int = Field(ge=0)
    weight: int = Field(ge=0, description="sum of the tenants' sizes")
    release: Digest | None = Field(default=None, description="what the shard runs now")


class CatalogRequest(Contract):
    """Ask a region for its catalog shard."""


class CatalogReply(Contract):
    """Every shard of the region, with counts in place of tenants."""

    region: RegionCode
    shards: list[ShardSummary]


class StageRequest(Contract):
    """Bring a release to the region and start it, without sending it any traffic."""

    rollout: str
    epoch: int = Field(ge=1)
    release: Digest


class StageReply(Contract):
    """How staging ended; ``detail`` says why where the release is not healthy."""

    region: RegionCode
    release: Digest
    healthy: bool
    detail: str = ""


class RingRequest(Contract):
    """Activate ``release`` on ``shards``, at most ``max_concurrent`` at once."""

    rollout: str
    epoch: int = Field(ge=1)
    ring: str
    release: Digest
    shards: list[ShardId]
    max_concurrent: int = Field(ge=1)
    approval: Approval | None = Field(
        default=None, description="absent from rollouts that began before releases were verified"
    )


class ShardActivation(Contract):
    """One shard's switch, as the region's ledger recorded it."""

    shard: ShardId
    previous: Digest | None
    release: Digest
    seq: int = Field(ge=0, description="sequence number of the receipt in the region's ledger")


class RingReply(Contract):
    """One entry a shard of the request, also for those that an earlier attempt had switched."""

    activations: list[ShardActivation]


class ObserveRequest(Contract):
    """Read the metrics of the candidate and of the releases that still run beside it."""

    candidate: Digest


class RollbackRequest(Contract):
    """Put ``shards``, in the order given, back to their last release not in ``known_bad``."""

    rollout: str
    epoch: int = Field(ge=1)
    shards: list[ShardId]
    known_bad: list[Digest]
    approval: Approval | None = None


class RollbackReply(Contract):
    """Where the shards came back to."""

    activations: list[ShardActivation]
    stranded: list[ShardId] = Field(
        default=[], description="shards with no earlier release that is not known bad"
    )


class RetireRequest(Contract):
    """Drain and stop every release process that no shard uses, except ``keep``."""

    rollout: str
    epoch: int = Field(ge=1)
    keep: list[Digest]


class RetireReply(Contract):
    """Releases whose processes were drained and stopped: no shard ran them any more."""

    stopped: list[Digest]


@nexusrpc.service
class Region:
    """What a region does for the control plane."""

    catalog: nexusrpc.Operation[CatalogRequest, CatalogReply]
    stage: nexusrpc.Operation[StageRequest, StageReply]
    activate: nexusrpc.Operation[RingRequest, RingReply]
    observe: nexusrpc.Operation[ObserveRequest, RegionObservation]
    rollback: nexusrpc.Operation[RollbackRequest, RollbackReply]
    retire: nexusrpc.Operation[RetireRequest, RetireReply]


def endpoint(region: str) -> str:
    """Name of the Nexus endpoint that leads to a region."""
    return f"region-{region}"
