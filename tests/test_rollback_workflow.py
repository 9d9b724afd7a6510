"""The way back on a real Temporal server: to where, in what order, under which epoch, and why."""

import pytest
from rollout_harness import Fleet, Plane, decide, end, eventually, hurry, until

from models.receipts import Draft
from models.rollout import RolloutState
from stores.chain_check import check_ledger

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

REGIONS = ("eu", "us-east")


async def test_a_failing_gate_condemns_and_rolls_back_newest_first_under_a_higher_epoch(
    plane: Plane, fleet: Fleet
) -> None:
    fleet.configure(rollout_rings=[60, 100])
    release = fleet.release("1.1.0")
    handle = await fleet.start(release, overrides={"rollout.bake_seconds": [0, 2, 0]})
    await until(handle, "baking", ring="60%")
    fleet.traffic(release, "errors")
    await hurry(fleet, handle)

    status = await end(handle)

    assert (status.state, status.epoch) == (RolloutState.ROLLED_BACK, 2)
    assert fleet.running() == {fleet.old}
    for code in REGIONS:
        region = fleet.regions[code]
        there = [shard for ring, shard, *_ in region.activated if ring != "rollback"]
        back = [(shard, epoch) for ring, shard, _, epoch in region.activated if ring == "rollback"]
        assert back == [(shard, 2) for shard in reversed(there)]
        assert region.epoch == 2
    assert "gate of ring 60% failed: 20.00% of" in status.why
    assert plane.store.known_bad()[release] == status.why
    receipts = fleet.receipts(handle)
    assert [receipt.kind for receipt in receipts] == [
        "rollout.started",
        *["ring.activated", "gate.verdict"] * 2,
        "release.condemned",
        "rollback.started",
        "rollback.completed",
        "rollout.ended",
    ]
    for receipt in receipts[-4:-2]:
        assert receipt.body["why"] == status.why
    assert receipts[-2].body["releases"] == [fleet.old]
    assert receipts[-1].body["state"] == "rolled back"
    assert fleet.holder() == ""
    check_ledger(plane.ledger, strict=True)


async def test_it_goes_back_past_releases_that_are_known_bad(plane: Plane, fleet: Fleet) -> None:
    bad = fleet.release("1.1.0")
    first = await fleet.start(bad, skip_gates="first installation")
    assert (await end(first)).state == RolloutState.COMPLETED
    draft = Draft(
        kind="release.condemned", actor="ana", subject=bad, body={}, idempotency_key=f"bad/{bad}"
    )
    plane.store.condemn(bad, first.id, "leaks", draft)
    worse = fleet.release("1.2.0")
    fleet.traffic(worse, "errors")

    handle = await fleet.start(worse)

    assert (await end(handle)).state == RolloutState.ROLLED_BACK
    for code in REGIONS:
        canary = [
            shard for *_, shard, release, _ in fleet.regions[code].activated if release == worse
        ]
        assert canary and {fleet.regions[code].running[shard] for shard in canary} == {fleet.old}


async def test_shards_with_nothing_to_go_back_to_are_told_as_stranded(fleet: Fleet) -> None:
    for code in REGIONS:
        fleet.regions[code].reset(shards=5, release=None)
    release = fleet.release("1.1.0")
    fleet.traffic(release, "errors")
    handle = await fleet.start(release)

    status = await end(handle)

    assert status.state == RolloutState.ROLLED_BACK_UNHEALTHY
    assert sorted(status.stranded) == sorted(
        shard for code in REGIONS for _, shard, *_ in fleet.regions[code].activated
    )
    completed = next(r for r in fleet.receipts(handle) if r.kind == "rollback.completed")
    assert completed.body["stranded"] == status.stranded


async def test_a_rollback_to_a_release_that_fails_too_is_not_called_healthy(fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "errors")
    fleet.traffic(fleet.old, "errors")
    handle = await fleet.start(release)

    assert (await end(handle)).state == RolloutState.ROLLED_BACK_UNHEALTHY
    completed = next(r for r in fleet.receipts(handle) if r.kind == "rollback.completed")
    (verdict,) = completed.body["verdicts"]  # type: ignore[misc]
    assert (verdict["candidate"], verdict["outcome"]) == (fleet.old, "fail")  # type: ignore[index]


async def test_cancelling_does_not_cut_a_rollback_short(fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "errors")
    fleet.regions["us-east"].hold("rollback")
    handle = await fleet.start(release)
    await until(handle, "rolling back")
    await eventually(fleet.regions["us-east"].reached.is_set)

    await handle.cancel()
    fleet.regions["us-east"].let_go()

    assert (await end(handle)).state == RolloutState.ROLLED_BACK
    assert fleet.running() == {fleet.old}
    assert fleet.kinds(handle)[-1] == "rollout.ended"
    assert fleet.holder() == ""


async def test_a_rollout_that_lost_the_fleet_leaves_the_way_back_to_the_new_holder(
    plane: Plane, fleet: Fleet
) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "quiet")
    handle = await fleet.start(release)
    await until(handle, "holding")
    assert plane.store.claim(fleet.name, "rival", "run", instead_of=handle.id).epoch == 2

    await decide(handle, "abort")

    status = await end(handle)
    assert status.state == RolloutState.SUPERSEDED
    assert "rollback.started" not in fleet.kinds(handle)
    assert fleet.holder() == "rival"


async def test_a_region_that_obeys_a_newer_epoch_ends_the_rollout(fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "quiet")
    handle = await fleet.start(release)
    await until(handle, "holding")
    fleet.regions["eu"].epoch = 7

    await decide(handle, "promote")

    status = await end(handle)
    assert status.state == RolloutState.SUPERSEDED
    assert "epoch 1 is stale" in status.why
    assert "rollback.started" not in fleet.kinds(handle)
