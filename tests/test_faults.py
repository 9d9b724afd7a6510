"""kill -9, SIGSTOP and rivals during real rollouts on a real stack; afterwards always the same
questions (`Fleet.violations`). `scripts/faults.py` asks them for as many seeds as there is time."""

import asyncio
import random
from collections.abc import Iterator

import psutil
import pytest
from embedded import running_stack, start, until
from faults_harness import (
    BESIDE_THE_REQUESTS,
    BROKEN,
    QUICK,
    SHARDS,
    Change,
    Fleet,
    Moment,
    ended,
    freeze,
    hurt,
    lost,
    stack_processes,
    wrong_receipts,
)

from models.rollout import AbortDecision, RolloutResult

pytestmark = pytest.mark.fault

INSTALL = {"skip_gates": "first installation", "overrides": QUICK}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_stack(tmp_path_factory.mktemp("faults") / "home") as stack:
        fleet = Fleet(stack)
        asyncio.run(_install(fleet))
        yield fleet


async def _install(fleet: Fleet) -> None:
    client = await fleet.stack.client()
    handle = await start(client, "install", release=fleet.digests["1.0.0"], **INSTALL)
    assert (await ended(handle)).state == "completed"


@pytest.mark.parametrize(
    ("victim", "seed"),
    [
        ("control", 1),
        ("region-eu", 2),
        ("temporal", 3),
        ("envoy-eu", 4),
        ("release", 5),
        ("host", 6),
        ("gateway", 7),
    ],
)
async def test_a_killed_process_costs_a_rollout_nothing(fleet: Fleet, victim: str, seed: int):
    chance = random.Random(seed)
    moment = Moment.drawn(chance)
    client, release, since = await fleet.stack.client(), fleet.other(), fleet.mark()
    with fleet.traffic() as answers:
        handle = await start(client, f"kill/{victim}", release=release, **INSTALL)
        await moment.come(fleet, since, handle)
        await hurt(fleet, victim, chance)
        assert (await ended(handle)).state == "completed"
        await fleet.recovered()
    assert fleet.switched(since) == SHARDS
    assert fleet.violations(release) == []
    assert await fleet.left_open() == []
    if victim in BESIDE_THE_REQUESTS:
        assert lost(answers) == []


async def test_a_bad_release_goes_back_though_the_worker_is_killed_on_the_way(fleet: Fleet):
    before, since, chance = fleet.present(), fleet.mark(), random.Random(8)
    assert before is not None
    client = await fleet.stack.client()
    with fleet.traffic():
        handle = await start(
            client, "bad", release=fleet.digests[BROKEN], overrides={"gates.min_samples": 10}
        )
        await until(handle, "rolling back", "rolled back")
        [hurt_region] = [name for name in since if fleet.regions[name].changes(since[name])]
        await hurt(fleet, f"region-{hurt_region}", chance)
        status = await ended(handle)
        await fleet.recovered()
    assert status.state == "rolled back", status.why
    assert "gate of ring canary failed" in status.why
    assert fleet.switched(since) == 2  # the canary's shard, there and back
    assert fleet.violations(before) == []
    assert await fleet.left_open() == []


async def test_two_operators_start_at_once_and_go_one_after_the_other(fleet: Fleet):
    client, since = await fleet.stack.client(), fleet.mark()
    present = fleet.present()
    releases = [fleet.digests[one] for one in ("1.0.0", "1.1.0", "1.2.0")]
    ours, theirs = (one for one in releases if one != present)
    with fleet.traffic() as answers:
        handles = await asyncio.gather(
            start(client, "operator/ana", release=ours, **INSTALL),
            start(client, "operator/ben", release=theirs, **INSTALL),
        )
        ends = await asyncio.gather(*(ended(handle) for handle in handles))
    assert {status.state for status in ends} == {"completed"}
    last = max(ends, key=lambda status: status.epoch)
    assert len({status.epoch for status in ends}) == 2
    assert fleet.switched(since) == 2 * SHARDS
    assert fleet.violations(last.release) == []
    assert lost(answers) == []


async def test_an_older_epoch_gets_nothing_in_after_it_was_fenced(fleet: Fleet):
    """A region's worker sleeps in the middle of a ring while the rollout is rolled back."""
    before, since, eu = fleet.present(), fleet.mark(), fleet.regions["eu"]
    assert before is not None
    client = await fleet.stack.client()
    with fleet.traffic() as answers:
        handle = await start(client, "zombie", release=fleet.other(), **INSTALL)
        await Moment(4, 0.0).come(fleet, since, handle)
        await freeze(fleet, "region-eu")
        try:
            decision = AbortDecision(actor="ana", reason="the region sleeps")
            await handle.execute_update("abort", decision)
            newer = (await until(handle, "rolling back")).epoch
            eu.shards.raise_epoch(newer)  # as another worker of the region would
            fenced = eu.ledger.head().size
        finally:
            fleet.stack.thaw("region-eu")
        status = await ended(handle)
    assert status.state == "aborted"
    assert {change.epoch for change in eu.changes(fenced)} <= {newer}
    assert fleet.violations(before) == []
    assert await fleet.left_open() == []
    assert lost(answers) == []


async def test_a_killed_supervisor_leaves_nothing_and_the_rollout_goes_on(fleet: Fleet):
    stack, since, release = fleet.stack, fleet.mark(), fleet.other()
    handle = await start(await stack.client(), "power-cut", release=release, **INSTALL)
    await Moment(3, 0.0).come(fleet, since, handle)
    family = stack_processes(stack)
    assert len(family) > len(fleet.regions) * 3
    family[0].kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    with running_stack(stack.home) as again:
        handle = (await again.client()).get_workflow_handle("power-cut", result_type=RolloutResult)
        assert (await ended(handle)).state == "completed"
        await fleet.recovered()
        assert fleet.switched(since) == SHARDS
        assert fleet.violations(release) == []
        assert await fleet.left_open() == []


def test_the_questions_have_a_no_for_each_thing_that_must_not_be():
    def change(seq: int, epoch: int, release: str, before: str | None, generation: int) -> Change:
        return Change(seq, "rollout/1", epoch, "eu-1", before, release, generation)

    good = [change(1, 1, "a", None, 1), change(2, 2, "b", "a", 2)]
    wrong = {
        "activated 2 times": [*good, change(3, 2, "c", "b", 3)],
        "epoch 1 after 2": [*good, change(3, 1, "c", "b", 3)],
        "ran another release before": [*good, change(3, 3, "c", "a", 3)],
        "generation 2 again": [*good, change(3, 3, "c", "b", 2)],
        "receipts say": good[:1],
    }
    assert wrong_receipts("eu", {"eu-1": "b"}, good) == []
    for word, changes in wrong.items():
        last = "b" if word == "receipts say" else "c"
        assert any(word in said for said in wrong_receipts("eu", {"eu-1": last}, changes)), word
