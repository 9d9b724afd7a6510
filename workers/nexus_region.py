"""A region's end of the Nexus contract: quick answers at once, long work as workflows."""

import asyncio

import nexusrpc.handler
from temporalio import nexus
from temporalio.common import WorkflowIDConflictPolicy

from activities.metrics.base import MetricProvider
from models.contracts import (
    CatalogReply,
    CatalogRequest,
    ObserveRequest,
    Region,
    RetireReply,
    RetireRequest,
    RingReply,
    RingRequest,
    RollbackReply,
    RollbackRequest,
    StageReply,
    StageRequest,
)
from models.observation import RegionObservation
from stores.fleet import FleetStore
from stores.shards import ShardStore
from workflows.region import ActivateRing, RetireReleases, RollBackShards, StageRelease

_SAME = WorkflowIDConflictPolicy.USE_EXISTING


@nexusrpc.handler.service_handler(service=Region)
class RegionService:
    """Workflow ids name the rollout, its epoch and the step: asking twice starts one workflow."""

    def __init__(
        self, region: str, fleet: FleetStore, shards: ShardStore, metrics: MetricProvider
    ) -> None:
        self._region = region
        self._fleet = fleet
        self._shards = shards
        self._metrics = metrics

    @nexusrpc.handler.sync_operation
    async def catalog(
        self, ctx: nexusrpc.handler.StartOperationContext, request: CatalogRequest
    ) -> CatalogReply:
        """Count the region's shards."""
        shards = await asyncio.to_thread(self._fleet.catalog)
        return CatalogReply(region=self._region, shards=shards)

    @nexusrpc.handler.sync_operation
    async def observe(
        self, ctx: nexusrpc.handler.StartOperationContext, request: ObserveRequest
    ) -> RegionObservation:
        """Read the metrics of the candidate and of what runs beside it."""
        active = await asyncio.to_thread(self._shards.active_releases)
        beside = sorted(set(active) - {request.candidate}, key=lambda one: (-active[one], one))
        return await self._metrics.observe(request.candidate, beside)

    @nexus.workflow_run_operation
    async def stage(
        self, ctx: nexus.WorkflowRunOperationContext, request: StageRequest
    ) -> nexus.WorkflowHandle[StageReply]:
        """Start the release without traffic."""
        return await ctx.start_workflow(
            StageRelease.run,
            request,
            id=f"stage/{request.rollout}/e{request.epoch}",
            id_conflict_policy=_SAME,
        )

    @nexus.workflow_run_operation
    async def activate(
        self, ctx: nexus.WorkflowRunOperationContext, request: RingRequest
    ) -> nexus.WorkflowHandle[RingReply]:
        """Switch a ring's shards."""
        return await ctx.start_workflow(
            ActivateRing.run,
            request,
            id=f"ring/{request.rollout}/e{request.epoch}/{request.ring}",
            id_conflict_policy=_SAME,
        )

    @nexus.workflow_run_operation
    async def rollback(
        self, ctx: nexus.WorkflowRunOperationContext, request: RollbackRequest
    ) -> nexus.WorkflowHandle[RollbackReply]:
        """Put shards back."""
        return await ctx.start_workflow(
            RollBackShards.run,
            request,
            id=f"rollback/{request.rollout}/e{request.epoch}",
            id_conflict_policy=_SAME,
        )

    @nexus.workflow_run_operation
    async def retire(
        self, ctx: nexus.WorkflowRunOperationContext, request: RetireRequest
    ) -> nexus.WorkflowHandle[RetireReply]:
        """End the rollout in this region."""
        return await ctx.start_workflow(
            RetireReleases.run,
            request,
            id=f"retire/{request.rollout}/e{request.epoch}",
            id_conflict_policy=_SAME,
        )
