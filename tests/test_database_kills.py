"""Databases killed at any transaction of a release's way: each effect is there once in the end.

Those that each story names, and one in ``CHAINRING_FAULT_EVERY`` of all others, by
``CHAINRING_FAULT_SEED``. With 1 it is all of them, which takes a quarter of an hour.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from database_realm import REGIONS, Realm, Servers, running_realm, running_servers, running_temporal
from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from models.incident import IncidentState, IncidentStatus, RejudgeReport
from models.production import ProductionState, ProductionStatus
from models.receipts import Receipt
from models.release_verdict import ReleaseVerdict
from models.rollout import RolloutResult, RolloutState
from models.statement import Statement
from stores.shards import ACTIVATED

SEED = int(os.environ.get("CHAINRING_FAULT_SEED", "1"))
EVERY = int(os.environ.get("CHAINRING_FAULT_EVERY", "80"))
PATIENCE = 120 + 900 // EVERY

pytestmark = [
    pytest.mark.fault,
    pytest.mark.postgres,
    pytest.mark.timeout(4 * PATIENCE),
    pytest.mark.asyncio(loop_scope="module"),
]
Told = dict[str, Counter[str]]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with running_servers() as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with running_temporal() as found:
        yield found


def told(control: dict[str, int], eu: dict[str, int]) -> Told:
    """How often each kind of receipt is in each ledger; both regions do the same."""
    region = Counter({"fleet.seeded": 1, **eu})
    return {"control": Counter(control)} | dict.fromkeys(REGIONS, region)


async def roll_out(realm: Realm, release: str, number: int) -> RolloutState:
    rollout = f"rollout/{realm.run}/{number}"
    request = {"release": release, "actor": "ana"}
    if number == 1:
        request["skip_gates"] = "first installation"
    return (
        await ended(await realm.start("FleetRollout", request, rollout, RolloutResult))
    ).status.state


async def ended(handle: WorkflowHandle[Any, Any]) -> Any:
    return await asyncio.wait_for(handle.result(), PATIENCE)


async def a_commit_arrives_on_the_fleet(realm: Realm) -> Told:
    realm.killer.arm(
        "control: build/.* record .* after",
        "control: production/N judge_release .* after",
        "eu: ring/.* activate_shard .* after",
    )
    handle = await realm.start(
        "ReleaseToProduction",
        {
            "build": {
                "repository": str(realm.yard.repository.path),
                "commit": realm.yard.commit("2.0.0"),
            },
            "rollout": {"skip_gates": "no gate matters here"},
            "actor": "ana",
            "reason": "weekly",
        },
        f"production/{realm.run}",
        ProductionStatus,
    )
    status = await ended(handle)
    assert status.state == ProductionState.COMPLETED, status.why
    assert [step.attempt for step in status.steps] == [1, 1, 1]
    assert realm.running() == {status.release}
    assert realm.layout.resolve("web:2.0.0") == status.release
    assert len(realm.layout.referrers(status.release)) == 4
    return told(
        control={
            "production.started": 1,
            "release.built": 1,
            "release.judged": 4,
            "rollout.started": 1,
            "ring.activated": 2,
            "rollout.ended": 1,
            "production.ended": 1,
        },
        eu={"release.staged": 1, "shard.activated": 5},
    )


async def a_release_is_refused_midway(realm: Realm) -> Told:
    old, new = realm.release("1.0.0"), realm.release("1.1.0")
    assert await roll_out(realm, old, 1) == RolloutState.COMPLETED
    realm.verifier.say(new, "fail", "ring 100%")
    realm.killer.arm("condemn_release .* after", "eu: rollback/.* activate_shard .* before")
    assert await roll_out(realm, new, 2) == RolloutState.ROLLED_BACK
    assert realm.running() == {old}
    return told(
        control={
            "release.judged": 7,  # five forward and one back, and the first rollout's three
            "rollout.started": 2,
            "ring.activated": 3,
            "gate.verdict": 1,
            "release.condemned": 1,
            "rollback.started": 1,
            "rollback.completed": 1,
            "rollout.ended": 2,
        },
        eu={"release.staged": 3, "release.drained": 1, "shard.activated": 7},
    )


async def what_runs_does_not_stand_any_more(realm: Realm) -> Told:
    good, bad = realm.release("1.0.0"), realm.release("1.1.0")
    assert await roll_out(realm, good, 1) == RolloutState.COMPLETED
    assert await roll_out(realm, bad, 2) == RolloutState.COMPLETED
    realm.killer.arm("verify/N judge_release .* after", "incident/.* record .* after")
    assert (await verdict(realm, "web:1.1.0")).outcome == "pass"
    realm.verifier.say(bad, "fail")
    [found] = (await rejudge(realm, 1)).incidents
    incident = realm.client.get_workflow_handle(found, result_type=IncidentStatus)
    await say(incident, "acknowledge")
    status = await say(incident, "accept_rollback")
    back = realm.client.get_workflow_handle(status.rollback, result_type=RolloutResult)
    assert (await ended(back)).status.state == RolloutState.COMPLETED
    assert realm.running() == {good}
    assert (await rejudge(realm, 2)).resolved == [found]
    assert (await ended(incident)).state == IncidentState.CLOSED
    return told(
        control={
            "release.judged": 13,
            "rollout.started": 3,
            "ring.activated": 6,
            "gate.verdict": 4,
            "rollout.ended": 3,
            "incident.opened": 1,
            "incident.acknowledged": 1,
            "incident.rollback-accepted": 1,
            "incident.resolved": 1,
        },
        eu={"release.staged": 3, "release.drained": 2, "shard.activated": 15},
    )


async def verdict(realm: Realm, reference: str) -> ReleaseVerdict:
    request, name = {"release": reference}, f"verify/{realm.run}"
    return await ended(await realm.start("VerifyRelease", request, name, ReleaseVerdict))


async def rejudge(realm: Realm, number: int) -> RejudgeReport:
    name = f"rejudge/{realm.run}/{number}"
    return await ended(await realm.start("RejudgeDeployments", {}, name, RejudgeReport))


async def say(handle: WorkflowHandle[Any, Any], update: str) -> IncidentStatus:
    said = {"actor": "ana", "reason": f"to {update}"}
    made = handle.execute_update(update, said, result_type=IncidentStatus)
    return await asyncio.wait_for(made, PATIENCE)


STORIES = [
    a_commit_arrives_on_the_fleet,
    a_release_is_refused_midway,
    what_runs_does_not_stand_any_more,
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_a_database_killed_anywhere_has_each_effect_once(
    story: Callable[[Realm], Awaitable[Told]],
    temporal: WorkflowEnvironment,
    servers: Servers,
    tmp_path: Path,
) -> None:
    async with running_realm(tmp_path, temporal, servers, every=EVERY, seed=SEED) as realm:
        expected = await story(realm)
        receipts = realm.receipts()
    killer = realm.killer
    print(f"{len(killer.kills())} of {len(killer.points)} points")
    assert killer.missed() == []
    found = {name: Counter(each.kind for each in some) for name, some in receipts.items()}
    assert found == expected, killer.kills()
    for region in REGIONS:
        assert twice(receipts[region]) == [], killer.kills()


def twice(receipts: list[Receipt]) -> list[str]:
    """Deployments that are attested more than once, or for another release than the receipt's."""
    seen: Counter[tuple[str, ...]] = Counter()
    for each in receipts:
        if each.kind == ACTIVATED:
            attested = Statement.model_validate(each.body["deployment"])
            assert attested.is_about(str(each.body["release"]))
            seen[
                attested.predicate["rollout"], each.body["epoch"], attested.predicate["shard"]
            ] += 1
    return [f"{deployment}: {count}" for deployment, count in seen.items() if count > 1]
