"""`FleetRollout`: one release through the rings, gated, and back if it does not hold."""

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    is_cancelled_exception,
)

from models.contracts import CatalogReply, CatalogRequest, Region, RetireRequest
from models.gate_policy import GatePolicy
from models.planning import Plan
from models.rollout import (
    Claim,
    RingStatus,
    RolloutRequest,
    RolloutResult,
    RolloutState,
    RolloutStatus,
    render_details,
)
from models.steps import ClaimFleet, Condemn, FreeFleet
from workflows import steps
from workflows.bake import bake
from workflows.debt import settle_debts
from workflows.decisions import Decisions
from workflows.journey import Journey, Stop
from workflows.regions import RegionCalls, RegionUnreachable, error_type, plain_words
from workflows.rings import activate, may_start, stage_everywhere
from workflows.rollback import roll_back
from workflows.verification import VERIFIED, verify

_T = TypeVar("_T")

FENCED = frozenset({"StaleEpoch", "NotTheHolder", "FencedError"})
RETIRE_LIMIT = timedelta(minutes=2)


@workflow.defn(name="FleetRollout")
class FleetRollout(Decisions):
    """Canary, rings and gates over the whole fleet; see `models.rollout` for input and result."""

    @workflow.init
    def __init__(self, request: RolloutRequest) -> None:
        super().__init__()
        self.status = RolloutStatus(
            rollout=workflow.info().workflow_id,
            release=request.release,
            started=workflow.info().start_time,
        )
        self._plan: Plan | None = None

    @workflow.query(name="status")
    def query_status(self) -> RolloutStatus:
        """Where the rollout is, ring by ring."""
        return self.status

    @workflow.query(name="plan")
    def query_plan(self) -> Plan | None:
        """The rings, once planned."""
        return self._plan

    @workflow.run
    async def run(self, request: RolloutRequest) -> RolloutResult:
        settings = await _in_plain_words(steps.prepare_rollout(request))
        down_after = timedelta(seconds=settings.rollout.region_down_after_seconds)
        calls = RegionCalls(self.status.waiting_for, down_after, self._show)
        journey = Journey(request, settings, self, calls)
        self.status.name, self.status.version = settings.name, settings.version
        if request.dry_run:
            await _in_plain_words(self._plan_rings(journey))
            journey.enter(RolloutState.PLANNED)
            return RolloutResult(status=self.status, plan=self._plan)
        if await self._take_fleet(journey):
            await self._travel(journey)
        self.status.ended = workflow.now()
        journey.show()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return RolloutResult(status=self.status)

    def _show(self) -> None:
        workflow.set_current_details(render_details(self.status, workflow.now()))

    async def _take_fleet(self, journey: Journey) -> bool:
        """Whether the rollout got the fleet; it may be aborted while it waits."""
        info, settings = workflow.info(), journey.settings
        step = ClaimFleet(fleet=settings.fleet, rollout=info.workflow_id, run=info.run_id)
        claim = await steps.claim_fleet(step)
        if not claim.epoch:
            claim = await self._wait_for_fleet(journey, step, claim.holder)
            journey.waited = True
        self.status.epoch = claim.epoch
        if not claim.epoch:
            journey.enter(RolloutState.ABORTED, "aborted before it had the fleet")
        return bool(claim.epoch)

    async def _wait_for_fleet(self, journey: Journey, step: ClaimFleet, holder: str) -> Claim:
        when_busy = journey.settings.when_busy
        if when_busy == "refuse":
            raise ApplicationError(
                f"fleet {step.fleet} is taken by {holder}", type="FleetBusy", non_retryable=True
            )
        journey.enter(RolloutState.WAITING, f"{holder} has the fleet")
        if when_busy == "supersede":
            await _tell_superseded(holder, step.rollout)
        waiting = asyncio.create_task(steps.wait_for_fleet(step, holder))
        await workflow.wait_condition(lambda: waiting.done() or self.stopping)
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        return Claim(epoch=0)

    async def _travel(self, journey: Journey) -> None:
        """Forward, and back where it must; the fleet is given back at the end of either."""
        try:
            await self._forward(journey)
            owed = sum(len(debt.shards) for debt in self.status.debts)
            end = RolloutState.COMPLETED_WITH_DEBT if owed else RolloutState.COMPLETED
            why = f"{owed} shard(s) are owed to regions that were down" if owed else ""
        except (Stop, FailureError, asyncio.CancelledError) as error:
            stop = _as_stop(error, journey)
            end, why = await _to_its_end(self._back(journey, stop)), stop.why
        await _to_its_end(self._settle(journey, end, why))

    async def _forward(self, journey: Journey) -> None:
        journey.verifies = workflow.patched(VERIFIED)
        if journey.waited:  # what was true before may not be: a release may be known bad by now
            journey.settings = await steps.prepare_rollout(journey.request)
        await verify(journey, "start")
        plan = await self._plan_rings(journey)
        await steps.record(
            self.draft(
                "rollout.started", "started", _start_body(journey, plan), journey.request.actor
            )
        )
        await stage_everywhere(journey)
        for index, ring in enumerate(plan.rings):
            if not ring.shards:  # the rings before it cover its share already
                journey.ring_status(ring).outcome = "covered"
                continue
            # Together, or who asks now is told that this ring bakes.
            self.status.ring, self.status.state = ring.name, RolloutState.ACTIVATING
            await may_start(journey, ring)
            while await verify(journey, f"ring {ring.name}"):  # it was held: what may have changed?
                await may_start(journey, ring)
            await activate(journey, ring)
            if journey.settings.gates is not None:
                # The last ring leaves nobody on the old release to compare with.
                beside = journey.upgrades and index < len(plan.rings) - 1
                await bake(journey, ring, self._policy(journey, index), expects_baseline=beside)
        await workflow.wait_condition(lambda: not self.deciding)
        journey.stop_if_asked()

    def _policy(self, journey: Journey, index: int) -> GatePolicy:
        """The gate policy of a ring, with the bake time that is its own."""
        assert journey.settings.gates is not None
        seconds = journey.settings.bake_seconds[index]
        return journey.settings.gates.model_copy(update={"bake_seconds": seconds})

    async def _plan_rings(self, journey: Journey) -> Plan:
        journey.enter(RolloutState.PLANNING)
        await asyncio.gather(*(_learn(journey, region) for region in journey.settings.regions))
        plan = await steps.plan_rings(journey.settings)
        journey.plan = self._plan = plan
        self.status.rings = [
            RingStatus(
                name=ring.name,
                shards=len(ring.shards),
                tenants=ring.tenants,
                cumulative_percent=ring.cumulative_percent,
            )
            for ring in plan.rings
        ]
        return plan

    async def _back(self, journey: Journey, stop: Stop) -> RolloutState:
        if stop.condemn:
            await self._condemn(journey, stop)
        if not (stop.rollback and journey.changed):
            return stop.state
        try:
            return await roll_back(journey, stop)
        except FailureError as error:
            if error_type(error) not in FENCED:
                raise
            return RolloutState.SUPERSEDED

    async def _condemn(self, journey: Journey, stop: Stop) -> None:
        release = journey.settings.release
        draft = self.draft("release.condemned", "condemned", {"release": release, "why": stop.why})
        await steps.condemn_release(
            Condemn(release=release, rollout=draft.workflow_id, why=stop.why, draft=draft)
        )

    async def _settle(self, journey: Journey, end: RolloutState, why: str) -> None:
        """Leave every region tidy, receipt the end, and give the fleet back."""
        journey.enter(RolloutState.SETTLING, why)
        if end is not RolloutState.SUPERSEDED:
            untidy = await _retire(journey)
            why = "; ".join(part for part in (why, *untidy) if part)
        body = {"state": end.value, "why": why, "release": journey.settings.release}
        await steps.record(self.draft("rollout.ended", "ended", body | {"epoch": journey.epoch}))
        if end is RolloutState.COMPLETED_WITH_DEBT:
            await settle_debts(journey)
        await steps.free_fleet(
            FreeFleet(fleet=journey.settings.fleet, rollout=workflow.info().workflow_id)
        )
        journey.enter(end, why)


async def _in_plain_words(work: Awaitable[_T]) -> _T:
    """Fail the workflow with what was wrong, not with the activity that found it."""
    try:
        return await work
    except ActivityError as error:
        raise ApplicationError(
            plain_words(error), type=error_type(error), non_retryable=True
        ) from error


async def _to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Finish ``work`` although the workflow is cancelled meanwhile.

    A way back that is cut short would leave the fleet between two versions, and taken.
    """
    task = asyncio.create_task(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


async def _tell_superseded(holder: str, by: str) -> None:
    # Not found means that it has ended meanwhile, and the wait will see that.
    with contextlib.suppress(FailureError):
        await workflow.get_external_workflow_handle(holder).signal("supersede", by)


async def _learn(journey: Journey, region: str) -> None:
    """Fetch a region's catalog; a region that is down is planned for by its last known one."""
    try:
        catalog: CatalogReply = await journey.calls.ask(
            region, Region.catalog, CatalogRequest(), summary=f"catalog of {region}"
        )
    except RegionUnreachable:
        return
    release = journey.settings.release
    journey.came_from |= {shard.release for shard in catalog.shards if shard.release}
    journey.upgrades |= any(shard.release not in (None, release) for shard in catalog.shards)
    await steps.keep_catalog(catalog)


async def _retire(journey: Journey) -> list[str]:
    """Tidy up every region that answers; what could not be done is said, and done next time."""

    async def one(region: str) -> str:
        request = RetireRequest(rollout=workflow.info().workflow_id, epoch=journey.epoch, keep=[])
        try:
            await journey.calls.ask(
                region, Region.retire, request, summary=f"tidy up {region}", limit=RETIRE_LIMIT
            )
        except (RegionUnreachable, ApplicationError) as error:
            return f"not tidied up: {error}"
        return ""

    regions = journey.settings.regions
    return [said for said in await asyncio.gather(*(one(region) for region in regions)) if said]


def _as_stop(error: BaseException, journey: Journey) -> Stop:
    if isinstance(error, Stop):
        return error
    if is_cancelled_exception(error):
        return Stop(RolloutState.ABORTED, "the workflow was cancelled", rollback=True)
    if error_type(error) in FENCED:
        return Stop(RolloutState.SUPERSEDED, plain_words(error), rollback=False)
    state = RolloutState.ROLLED_BACK if journey.changed else RolloutState.REFUSED
    return Stop(state, plain_words(error), rollback=True)


def _start_body(journey: Journey, plan: Plan) -> dict[str, object]:
    settings, request = journey.settings, journey.request
    return {
        "release": settings.release,
        "name": settings.name,
        "version": settings.version,
        "reason": request.reason,
        "accept_known_bad": request.accept_known_bad,
        "skip_gates": request.skip_gates,
        "config": settings.config_digest,
        "epoch": journey.epoch,
        **({"verdict": journey.approval.verdict(settings.release)} if journey.approval else {}),
        "blast_radius_percent": plan.blast_radius_percent,
        "rings": [
            {"ring": ring.name, "shards": len(ring.shards), "tenants": ring.tenants}
            for ring in plan.rings
        ],
    }
