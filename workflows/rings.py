"""Moving one ring forward: wait until it may start, then switch its shards in every region."""

import asyncio
import contextlib
from datetime import datetime, timedelta

from temporalio import workflow

from models.contracts import Region, RingReply, RingRequest, StageRequest
from models.ids import short
from models.planning import RingPlan
from models.rollout import Debt, RolloutState
from models.steps import AskCalendar
from workflows import steps
from workflows.journey import Journey, Stop
from workflows.regions import RegionUnreachable


async def stage_everywhere(journey: Journey) -> None:
    """Start the release in every region, without traffic.

    Raises:
        Stop: the release does not become healthy somewhere; no shard was touched.
    """
    journey.enter(RolloutState.STAGING)
    await asyncio.gather(*(_stage(journey, region) for region in journey.settings.regions))
    journey.stop_if_asked()


async def _stage(journey: Journey, region: str) -> None:
    settings = journey.settings
    request = StageRequest(
        rollout=workflow.info().workflow_id, epoch=journey.epoch, release=settings.release
    )
    summary = f"stage {short(settings.release)} in {region}"
    try:
        reply = await journey.calls.insist(
            region, Region.stage, request, summary=summary, patient=journey.patient
        )
    except RegionUnreachable:
        return  # its rings decide what that means for them
    if not reply.healthy:
        why = f"{short(settings.release)} does not become healthy in {region}: {reply.detail}"
        raise Stop(RolloutState.REFUSED, why, rollback=True, condemn=True)
    journey.staged.add(region)


async def may_start(journey: Journey, ring: RingPlan) -> None:
    """Return when nothing forbids the ring: no pause, no freeze window, no word to stop."""
    while True:
        journey.stop_if_asked()
        if journey.people.paused:
            journey.enter(RolloutState.PAUSED, f"before ring {ring.name}")
            await workflow.wait_condition(
                lambda: not journey.people.paused or journey.people.stopping
            )
            continue
        if journey.people.freeze_overridden:
            return
        answer = await steps.check_calendar(ring.name, AskCalendar(regions=sorted(ring.by_region)))
        if not answer.blocked_by:
            return
        await _sit_out(journey, answer.blocked_by, answer.next_open)


async def _sit_out(journey: Journey, window: str, until: datetime | None) -> None:
    journey.status.deadline = None
    why = f"freeze window {window}"
    if until is not None:
        why += f", until {until:%Y-%m-%d %H:%M:%SZ}"
    journey.enter(RolloutState.FROZEN, why)
    # Asked again at least every hour: the calendar may be changed meanwhile.
    left = timedelta(hours=1)
    if until is not None:
        left = min(left, max(timedelta(seconds=1), until - workflow.now()))
    people = journey.people
    with contextlib.suppress(TimeoutError):
        await workflow.wait_condition(
            lambda: people.stopping or people.paused or people.freeze_overridden, timeout=left
        )


async def activate(journey: Journey, ring: RingPlan) -> None:
    """Switch the ring's shards, every region on its own; one that is down delays only itself.

    Raises:
        Stop: aborted or superseded meanwhile, or a region is down and the configuration says stop.
    """
    entry = journey.ring_status(ring)
    entry.started = workflow.now()
    journey.enter(RolloutState.ACTIVATING)
    tasks = [
        asyncio.create_task(_activate_region(journey, ring, region))
        for region in sorted(ring.by_region)
    ]
    try:
        await workflow.wait_condition(
            lambda: journey.people.stopping or all(task.done() for task in tasks)
        )
    finally:
        for task in tasks:
            task.cancel()  # of no effect on one that is done; the epoch fences whatever comes late
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    journey.stop_if_asked()
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    journey.show()
    await _record_ring(journey, ring)


async def _record_ring(journey: Journey, ring: RingPlan) -> None:
    body = {
        "ring": ring.name,
        "release": journey.settings.release,
        "epoch": journey.epoch,
        "shards": {region: len(shards) for region, shards in sorted(ring.by_region.items())},
        "activated": journey.ring_status(ring).activated,
        "tenants": ring.tenants,
    }
    await steps.record(journey.people.draft("ring.activated", f"ring/{ring.name}", body))


async def _activate_region(journey: Journey, ring: RingPlan, region: str) -> None:
    debts = [debt for debt in journey.status.debts if debt.region == region]
    shards = [shard for debt in debts for shard in debt.shards] + ring.by_region[region]
    journey.changed.append((region, shards))
    try:
        if region not in journey.staged:
            await _stage(journey, region)
        reply = await _switch(journey, ring, region, shards)
    except RegionUnreachable:
        if journey.settings.rollout.region_down == "stop":
            why = f"region {region} is down in ring {ring.name}"
            raise Stop(RolloutState.ROLLED_BACK, why, rollback=True) from None
        await _owe(journey, ring, region)
        return
    if debts:
        await _paid(journey, ring, region, debts)
    journey.ring_status(ring).activated += len(reply.activations)
    journey.show()


async def _switch(journey: Journey, ring: RingPlan, region: str, shards: list[str]) -> RingReply:
    settings = journey.settings
    request = RingRequest(
        rollout=workflow.info().workflow_id,
        epoch=journey.epoch,
        ring=ring.name,
        release=settings.release,
        shards=shards,
        max_concurrent=settings.rollout.concurrent_shards(len(shards)),
        approval=journey.approval,
    )
    summary = f"ring {ring.name} in {region}: {len(shards)} shard(s)"
    return await journey.calls.insist(
        region, Region.activate, request, summary=summary, patient=journey.patient
    )


async def _owe(journey: Journey, ring: RingPlan, region: str) -> None:
    debt = Debt(region=region, ring=ring.name, shards=ring.by_region[region])
    journey.status.debts.append(debt)
    journey.show()
    body = debt.model_dump(mode="json") | {"epoch": journey.epoch}
    await steps.record(journey.people.draft("debt.recorded", f"debt/{ring.name}/{region}", body))


async def _paid(journey: Journey, ring: RingPlan, region: str, debts: list[Debt]) -> None:
    for debt in debts:
        journey.status.debts.remove(debt)
    body = {"region": region, "rings": [debt.ring for debt in debts], "epoch": journey.epoch}
    await steps.record(journey.people.draft("debt.paid", f"paid/{ring.name}/{region}", body))
