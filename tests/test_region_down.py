"""Rollouts while a region does not answer: wait, skip or stop, and what becomes of its part."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from rollout_harness import Fleet, Handle, Plane, decide, end, eventually, only_waits_for, until

from models.rollout import RolloutState

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

ALL = ("apac", "eu", "us-east")
QUICK = {"region_down_after_seconds": 3}


@pytest.fixture
def begin(plane: Plane, fleet: Fleet) -> Callable[..., Awaitable[tuple[str, Handle]]]:
    """Start a rollout over three regions, of which apac falls silent before its canary."""

    async def begun(region_down: str, traffic: str = "good") -> tuple[str, Handle]:
        fleet.configure(ALL, region_down=region_down, **QUICK)
        release = fleet.release("1.1.0")
        fleet.traffic(release, traffic)
        fleet.regions["eu"].hold("stage")
        handle = await fleet.start(release)
        await until(handle, "staging")
        await only_waits_for(handle, "eu")
        await plane.down("apac")
        fleet.regions["eu"].let_go()
        return release, handle

    return begun


Begin = Callable[..., Awaitable[tuple[str, Handle]]]


async def test_wait_holds_only_the_ring_and_ends_when_the_region_is_back(
    plane: Plane, fleet: Fleet, begin: Begin
) -> None:
    release, handle = await begin("wait")
    await until(handle, "activating", waiting_for=["apac"])
    await eventually(lambda: len(fleet.regions["eu"].activated) == 1)

    await plane.up("apac")

    status = await end(handle)
    assert (status.state, status.waiting_for) == (RolloutState.COMPLETED, [])
    assert fleet.running() == {release}


async def test_a_wait_for_a_region_can_be_aborted(plane: Plane, fleet: Fleet, begin: Begin) -> None:
    _, handle = await begin("wait")
    await until(handle, "activating", waiting_for=["apac"])
    await decide(handle, "abort")
    # What may have been changed there has to come back too, so the rollback waits for it.
    status = await until(handle, "rolling back", waiting_for=["apac"])
    assert status.epoch == 2
    await eventually(lambda: fleet.running() == {fleet.old})

    await plane.up("apac")

    assert (await end(handle)).state == RolloutState.ABORTED


async def test_cancelling_a_wait_for_a_region_ends_the_wait(
    plane: Plane, fleet: Fleet, begin: Begin
) -> None:
    _, handle = await begin("wait")
    await until(handle, "activating", waiting_for=["apac"])
    await handle.cancel()
    await until(handle, "rolling back", waiting_for=["apac"])

    await plane.up("apac")

    status = await end(handle)
    assert (status.state, status.waiting_for) == (RolloutState.ABORTED, [])
    assert fleet.running() == {fleet.old}


async def test_skip_goes_on_without_the_region_and_its_debt_is_paid_later(
    plane: Plane, fleet: Fleet, begin: Begin
) -> None:
    release, handle = await begin("skip")

    status = await end(handle)

    assert status.state == RolloutState.COMPLETED_WITH_DEBT
    assert [(debt.region, debt.ring) for debt in status.debts] == [
        ("apac", "canary"),
        ("apac", "100%"),
    ]
    assert status.why.startswith("5 shard(s) are owed to regions that were down")
    assert fleet.kinds(handle).count("debt.recorded") == 2
    assert set(fleet.regions["apac"].running.values()) == {fleet.old}
    assert fleet.holder() == ""

    await plane.up("apac")

    debt = plane.client.get_workflow_handle(f"debt/{handle.id}/apac")
    assert await asyncio.wait_for(debt.result(), 20) == "debt.paid"
    assert fleet.running() == {release}
    assert fleet.kinds(handle)[-1] == "debt.paid"


async def test_a_debt_is_void_once_a_newer_rollout_has_covered_it(
    plane: Plane, fleet: Fleet, begin: Begin
) -> None:
    _, handle = await begin("skip")
    assert (await end(handle)).state == RolloutState.COMPLETED_WITH_DEBT
    fleet.regions["apac"].epoch = 2  # as the newer rollout's stage leaves it

    await plane.up("apac")

    debt = plane.client.get_workflow_handle(f"debt/{handle.id}/apac")
    assert await asyncio.wait_for(debt.result(), 20) == "debt.void"
    assert set(fleet.regions["apac"].running.values()) == {fleet.old}
    assert fleet.kinds(handle)[-1] == "debt.void"


async def test_a_skipped_region_that_is_back_for_a_later_ring_is_paid_there(
    plane: Plane, fleet: Fleet, begin: Begin
) -> None:
    release, handle = await begin("skip", traffic="quiet")
    await until(handle, "holding")
    fleet.traffic(release, "good")
    await plane.up("apac")

    await decide(handle, "promote")

    status = await end(handle)
    assert (status.state, status.debts) == (RolloutState.COMPLETED, [])
    assert fleet.running() == {release}
    kinds = fleet.kinds(handle)
    assert kinds.index("debt.recorded") < kinds.index("debt.paid")


async def test_stop_rolls_the_other_regions_back_and_keeps_at_the_one_that_is_down(
    plane: Plane, fleet: Fleet, begin: Begin
) -> None:
    _, handle = await begin("stop")
    status = await until(handle, "rolling back", waiting_for=["apac"])
    assert status.why == "region apac is down in ring canary"
    await eventually(lambda: fleet.running() == {fleet.old})

    await plane.up("apac")

    assert (await end(handle)).state == RolloutState.ROLLED_BACK
    assert fleet.regions["apac"].epoch == 2, "its late activations are not fenced"


async def test_a_rollback_that_waits_for_a_region_gives_way_to_a_newer_rollout(
    plane: Plane, fleet: Fleet, begin: Begin
) -> None:
    _, handle = await begin("stop")
    await until(handle, "rolling back", waiting_for=["apac"])
    release = fleet.release("1.2.0")
    newer = await fleet.start(release, when_busy="supersede")

    assert (await end(handle)).state == RolloutState.SUPERSEDED
    await plane.up("apac")

    assert (await end(newer)).state == RolloutState.COMPLETED
    assert fleet.running() == {release}


async def test_a_region_that_is_down_from_the_start_is_planned_for_from_memory(
    plane: Plane, fleet: Fleet
) -> None:
    fleet.configure(ALL, region_down="skip", **QUICK)
    assert (await end(await fleet.start(fleet.release("1.0.1")))).state == RolloutState.COMPLETED
    await plane.down("apac")

    handle = await fleet.start(fleet.release("1.1.0"), dry_run=True)

    plan = (await handle.result()).plan
    assert plan is not None
    assert sum(len(ring.by_region["apac"]) for ring in plan.rings) == 5
