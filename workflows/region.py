"""What a region does for a rollout: its side of the Nexus contract, as workflows.

Each is idempotent as a whole, so that the control plane may ask again after any doubt: the shards'
own epochs and idempotency keys decide what still has to happen.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from temporalio import workflow

from models.contracts import (
    RetireReply,
    RetireRequest,
    RingReply,
    RingRequest,
    RollbackReply,
    RollbackRequest,
    ShardActivation,
    StageReply,
    StageRequest,
)
from models.ids import short
from models.steps import ActivateShard, DrainRelease, ShardMove
from workflows import steps

ROLLBACK_CONCURRENCY = 50  # a rollback is in a hurry; its releases still run

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


async def at_most(
    limit: int, items: Sequence[_Item], work: Callable[[_Item], Awaitable[_Result]]
) -> list[_Result]:
    """Run ``work`` over ``items``, started in order, at most ``limit`` at once."""
    slots = asyncio.Semaphore(limit)

    async def one(item: _Item) -> _Result:
        async with slots:
            return await work(item)

    return list(await asyncio.gather(*(one(item) for item in items)))


@workflow.defn(name="StageRelease")
class StageRelease:
    """Bring a release to this region and start it, without traffic."""

    @workflow.run
    async def run(self, request: StageRequest) -> StageReply:
        return await steps.stage_release(request)


@workflow.defn(name="ActivateRing")
class ActivateRing:
    """Switch the ring's shards in this region."""

    @workflow.run
    async def run(self, request: RingRequest) -> RingReply:
        async def activate(shard: str) -> ShardActivation:
            return await steps.activate_shard(
                ActivateShard(
                    rollout=request.rollout,
                    epoch=request.epoch,
                    ring=request.ring,
                    release=request.release,
                    shard=shard,
                    approval=request.approval,
                )
            )

        activations = await at_most(request.max_concurrent, request.shards, activate)
        workflow.set_current_details(
            f"ring {request.ring}: {len(activations)} shard(s) now run `{short(request.release)}`"
        )
        return RingReply(activations=activations)


@workflow.defn(name="RollBackShards")
class RollBackShards:
    """Put shards back to their last release that is not known bad."""

    @workflow.run
    async def run(self, request: RollbackRequest) -> RollbackReply:
        moves = await steps.plan_rollback(request)

        async def go_back(move: ShardMove) -> ShardActivation:
            assert move.release is not None
            return await steps.activate_shard(
                ActivateShard(
                    rollout=request.rollout,
                    epoch=request.epoch,
                    ring="rollback",
                    release=move.release,
                    shard=move.shard,
                    approval=request.approval,
                )
            )

        possible = [move for move in moves if move.release is not None]
        await self._start_again({move.release for move in possible if move.release}, request)
        activations = await at_most(ROLLBACK_CONCURRENCY, possible, go_back)
        return RollbackReply(
            activations=activations,
            stranded=[move.shard for move in moves if move.release is None],
        )

    async def _start_again(self, releases: set[str], request: RollbackRequest) -> None:
        """The way back must be standing before anything is sent there."""
        for release in sorted(releases):
            stage = StageRequest(rollout=request.rollout, epoch=request.epoch, release=release)
            await steps.stage_release(stage)


@workflow.defn(name="RetireReleases")
class RetireReleases:
    """End a rollout in this region: drain what no shard runs, and sign the ledger's head."""

    @workflow.run
    async def run(self, request: RetireRequest) -> RetireReply:
        idle = await steps.idle_releases(request)
        for release in idle:
            await steps.drain_release(
                DrainRelease(rollout=request.rollout, epoch=request.epoch, release=release)
            )
        await steps.settle_region(request)
        return RetireReply(stopped=idle)


REGION_WORKFLOWS = [StageRelease, ActivateRing, RollBackShards, RetireReleases]
