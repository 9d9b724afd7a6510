"""kill -9, SIGSTOP and rivals during real rollouts on a real stack; afterwards always the same
questions (`Fleet.violations`). `scripts/faults.py` asks them for as many seeds as there is time."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded import running_stack, start, until
from faults_harness import (
    BESIDE_THE_REQUESTS,
    BROKEN,
    QUICK,
    SHARDS,
    Fleet,
    Moment,
    ended,
    hurt,
    lost,
)

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
