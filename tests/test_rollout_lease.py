"""Several rollouts at once on a real Temporal server: one at a time has the fleet."""

import pytest
from rollout_harness import Fleet, Handle, decide, end, eventually, failure_of, status_of, until

from models.rollout import RolloutState

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = {"gates.bake_seconds": 600}


async def _waits_for(handle: Handle, holder: Handle) -> None:
    await until(handle, "waiting", why=f"{holder.id} has the fleet")


async def test_a_second_rollout_waits_for_the_first(fleet: Fleet) -> None:
    fleet.regions["eu"].hold("stage")
    first = await fleet.start(fleet.release("1.1.0"))
    await until(first, "staging")
    release = fleet.release("1.2.0")
    second = await fleet.start(release)
    await _waits_for(second, first)
    fleet.regions["eu"].let_go()

    one, two = await end(first), await end(second)

    assert (one.state, two.state) == (RolloutState.COMPLETED, RolloutState.COMPLETED)
    assert two.epoch > one.epoch
    assert fleet.running() == {release}


async def test_a_second_rollout_may_be_refused_instead(fleet: Fleet) -> None:
    fleet.regions["eu"].hold("stage")
    first = await fleet.start(fleet.release("1.1.0"))
    await until(first, "staging")

    second = await fleet.start(fleet.release("1.2.0"), when_busy="refuse")

    assert await failure_of(second) == f"fleet {fleet.name} is taken by {first.id}"
    assert fleet.receipts(second) == []


async def test_a_second_rollout_may_supersede_the_first(fleet: Fleet) -> None:
    old = fleet.release("1.1.0")
    first = await fleet.start(old, overrides=LONG)
    await until(first, "baking", ring="canary")
    release = fleet.release("1.2.0")
    second = await fleet.start(release, when_busy="supersede")

    one, two = await end(first), await end(second)

    assert (one.state, one.why) == (RolloutState.SUPERSEDED, f"superseded by {second.id}")
    assert "rollback.started" not in fleet.kinds(first)
    assert (two.state, two.epoch) == (RolloutState.COMPLETED, 2)
    assert fleet.running() == {release}
    canary = [shard for _, shard, released, _ in fleet.regions["eu"].activated if released == old]
    assert fleet.regions["eu"].changed.count(canary[0]) == 2, "the canary went by way of the old"


@pytest.mark.parametrize("when_busy", ["wait", "refuse"])
async def test_a_terminated_holder_is_taken_over_under_a_higher_epoch(
    fleet: Fleet, when_busy: str
) -> None:
    first = await fleet.start(fleet.release("1.1.0"), overrides=LONG)
    await until(first, "baking")
    await first.terminate("by mistake")
    assert fleet.holder() == first.id

    release = fleet.release("1.2.0")
    status = await end(await fleet.start(release, when_busy=when_busy))

    assert (status.state, status.epoch) == (RolloutState.COMPLETED, 2)
    assert fleet.running() == {release}


async def test_a_waiting_rollout_takes_over_when_the_holder_is_terminated(fleet: Fleet) -> None:
    first = await fleet.start(fleet.release("1.1.0"), overrides=LONG)
    await until(first, "baking")
    second = await fleet.start(fleet.release("1.2.0"))
    await _waits_for(second, first)

    await first.terminate("by mistake")

    status = await end(second)
    assert (status.state, status.epoch) == (RolloutState.COMPLETED, 2)


async def test_a_waiting_rollout_can_be_aborted(fleet: Fleet) -> None:
    first = await fleet.start(fleet.release("1.1.0"), overrides=LONG)
    await until(first, "baking")
    second = await fleet.start(fleet.release("1.2.0"))
    await _waits_for(second, first)

    await decide(second, "abort")

    status = await end(second)
    assert (status.state, status.epoch) == (RolloutState.ABORTED, 0)
    assert fleet.kinds(second) == ["decision.aborted"]
    assert fleet.holder() == first.id
    assert (await status_of(first)).state == RolloutState.BAKING


async def test_a_late_activation_of_a_terminated_rollout_is_fenced(fleet: Fleet) -> None:
    fleet.regions["eu"].hold("activate")
    lost = await fleet.start(fleet.release("1.1.0"))
    await eventually(fleet.regions["eu"].reached.is_set)
    await lost.terminate("by mistake")
    # Its region goes on without it, until the newer rollout's fence.
    release = fleet.release("1.2.0")
    newer = await fleet.start(release)
    await eventually(lambda: fleet.regions["eu"].epoch == 2)
    fleet.regions["eu"].let_go()

    status = await end(newer)

    assert (status.state, status.epoch) == (RolloutState.COMPLETED, 2)
    assert fleet.running() == {release}
    assert {epoch for *_, epoch in fleet.regions["eu"].activated} == {2}
