"""`FleetRollout` on a real Temporal server: the way forward, and what it refuses to begin."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rollout_harness import (
    Fleet,
    Plane,
    decide,
    end,
    failure_of,
    look,
    reset_to,
    search_attributes,
    status_of,
    until,
)

from models.rollout import RolloutState
from stores.chain_check import check_ledger

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

UNKNOWN = "sha256:" + "0" * 64


async def test_a_good_release_passes_all_rings_in_order(plane: Plane, fleet: Fleet) -> None:
    fleet.configure(rollout_rings=[40, 70, 100])
    release = fleet.release("1.1.0")
    handle = await fleet.start(release, reason="spring release", actor="ana")

    status = await end(handle)

    assert status.state == RolloutState.COMPLETED
    names = ["canary", "40%", "70%", "100%"]
    assert [(ring.name, ring.outcome) for ring in status.rings] == [(n, "pass") for n in names]
    assert [ring.activated for ring in status.rings] == [ring.shards for ring in status.rings]
    assert fleet.running() == {release}
    for code in ("eu", "us-east"):
        rings = [ring for ring, *_ in fleet.regions[code].activated]
        assert rings == sorted(rings, key=names.index)
    receipts = fleet.receipts(handle)
    assert [(receipt.kind, receipt.body.get("ring")) for receipt in receipts] == [
        ("rollout.started", None),
        *[(kind, ring) for ring in names for kind in ("ring.activated", "gate.verdict")],
        ("rollout.ended", None),
    ]
    assert (receipts[0].actor, receipts[0].body["reason"]) == ("ana", "spring release")
    assert receipts[-1].body["state"] == "completed"
    assert fleet.holder() == ""
    check_ledger(plane.ledger, strict=True)


async def test_a_dry_run_returns_the_plan_and_changes_nothing(plane: Plane, fleet: Fleet) -> None:
    size = plane.ledger.head().size
    handle = await fleet.start(fleet.release("1.1.0"), dry_run=True)

    result = await handle.result()

    assert result.status.state == RolloutState.PLANNED
    assert result.plan is not None
    assert [ring.name for ring in result.plan.rings] == ["canary", "100%"]
    assert sum(len(ring.shards) for ring in result.plan.rings) == 10
    assert plane.ledger.head().size == size
    assert plane.store.claim(fleet.name, "another", "run").epoch == 1, "it took the lease"
    assert fleet.running() == {fleet.old}
    assert not any(fleet.regions[code].staged for code in ("eu", "us-east"))


async def test_the_queries_of_a_running_rollout_change_nothing(plane: Plane, fleet: Fleet) -> None:
    fleet.regions["eu"].hold("stage")
    handle = await fleet.start(fleet.release("1.1.0"))
    await until(handle, "staging")
    before = plane.ledger.head().size, await status_of(handle)

    plan = await handle.query("plan")

    assert [ring["name"] for ring in plan["rings"]] == ["canary", "100%"]
    assert (plane.ledger.head().size, await status_of(handle)) == before
    assert fleet.running() == {fleet.old}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"colour": "green"}, "colour"),
        ({"release": "sha256:42"}, "release"),
        ({"release": UNKNOWN}, "release"),
        ({"when_busy": "shove"}, "when_busy"),
        ({"overrides": {"rollout.canary_size": 3}}, "rollout.canary_size"),
        ({"overrides": {"rollout.canary_percentage": "many"}}, "rollout.canary_percentage"),
        ({"overrides": {"tenants.total_tenants": 3}}, "tenants.total_tenants"),
        ({"overrides": {"rollout.max_blast_radius_percent": 90}}, "max_blast_radius_percent"),
        ({"skip_gates": "  "}, "skip_gates"),
    ],
)
async def test_bad_input_fails_at_once_and_names_the_field(
    plane: Plane, fleet: Fleet, fields: dict[str, Any], named: str
) -> None:
    size = plane.ledger.head().size
    handle = await fleet.start_raw({"release": fleet.old, **fields})

    assert named in await failure_of(handle)

    assert plane.ledger.head().size == size
    assert fleet.holder() == ""
    assert not any(fleet.regions[code].staged for code in ("eu", "us-east"))


async def test_a_plan_that_exceeds_the_blast_radius_ends_refused(fleet: Fleet) -> None:
    overrides = {"rollout.canary_percentage": 15, "rollout.max_blast_radius_percent": 15}
    handle = await fleet.start(fleet.release("1.1.0"), overrides=overrides)

    status = await end(handle)

    assert status.state == RolloutState.REFUSED
    assert "max_blast_radius_percent" in status.why
    assert fleet.running() == {fleet.old}
    assert fleet.holder() == ""


async def test_a_release_that_stays_unhealthy_is_refused_before_any_shard_changes(
    plane: Plane, fleet: Fleet
) -> None:
    release = fleet.release("1.1.0")
    fleet.regions["us-east"].unhealthy.add(release)
    handle = await fleet.start(release)

    status = await end(handle)

    assert status.state == RolloutState.REFUSED
    assert "us-east" in status.why and "answers 500 to /healthz" in status.why
    assert plane.store.known_bad()[release] == status.why
    assert fleet.kinds(handle) == ["rollout.started", "release.condemned", "rollout.ended"]
    assert not any(fleet.regions[code].activated for code in ("eu", "us-east"))
    assert not any(fleet.regions[code].staged for code in ("eu", "us-east")), "left running"


async def test_a_known_bad_release_needs_a_reason_to_be_tried_again(
    plane: Plane, fleet: Fleet
) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "errors")
    assert (await end(await fleet.start(release))).state == RolloutState.ROLLED_BACK

    said = await failure_of(await fleet.start(release))
    assert "release" in said and "accept_known_bad" in said

    fleet.traffic(release, "good")
    again = await fleet.start(release, accept_known_bad="the database was to blame")
    assert (await end(again)).state == RolloutState.COMPLETED
    assert fleet.receipts(again)[0].body["accept_known_bad"] == "the database was to blame"


async def test_skipped_gates_are_recorded_with_their_reason(fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "errors")
    handle = await fleet.start(release, skip_gates="emergency fix")

    assert (await end(handle)).state == RolloutState.COMPLETED

    assert fleet.receipts(handle)[0].body["skip_gates"] == "emergency fix"
    assert "gate.verdict" not in fleet.kinds(handle)


def _freeze(hours: float) -> str:
    now = datetime.now(UTC)
    start, until_ = (now - timedelta(hours=1)).isoformat(), (now + timedelta(hours=hours))
    return (
        '[[calendar.freeze]]\nname = "night"\nreason = "nobody is there"\n'
        f"start = {start}\nend = {until_.isoformat()}"
    )


async def test_a_freeze_window_is_sat_out(fleet: Fleet) -> None:
    opens = datetime.now(UTC) + timedelta(hours=4)
    fleet.configure(calendar=_freeze(4))
    handle = await fleet.start(fleet.release("1.1.0"), skip_time=True)

    status = await end(handle)

    assert status.state == RolloutState.COMPLETED
    started = status.rings[0].started
    assert started is not None
    assert opens <= started < opens + timedelta(minutes=5)


async def test_a_person_may_override_the_freeze_ring_by_ring(fleet: Fleet) -> None:
    fleet.configure(calendar=_freeze(4))
    handle = await fleet.start(fleet.release("1.1.0"))
    status = await until(handle, "frozen", ring="canary")
    assert "night: nobody is there" in status.why
    assert fleet.running() == {fleet.old}

    await decide(handle, "override_freeze", reason="security fix")
    await until(handle, "frozen", ring="100%")
    await decide(handle, "override_freeze", reason="security fix")

    assert (await end(handle)).state == RolloutState.COMPLETED
    overridden = [r for r in fleet.receipts(handle) if r.kind == "decision.freeze-overridden"]
    assert [(r.actor, r.body["reason"], r.body["ring"]) for r in overridden] == [
        ("ana", "security fix", "canary"),
        ("ana", "security fix", "100%"),
    ]


async def test_status_attributes_and_details_tell_where_a_rollout_is(fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "quiet")
    handle = await fleet.start(release)
    held = await until(handle, "holding")
    short = release.removeprefix("sha256:")[:12]

    assert held.deadline is not None
    assert (held.name, held.version, held.epoch, held.ring) == (fleet.name, "1.1.0", 1, "canary")
    assert await search_attributes(handle) == {
        "ChainringState": "holding",
        "ChainringRelease": short,
        "ChainringRing": "canary",
        "ChainringEpoch": 1,
    }
    shown = await look(handle)
    assert shown.startswith(f"## {fleet.name} 1.1.0: holding")
    assert f"`{short}`" in shown and "rolls back at" in shown
    assert "| canary | 20 (20.0 %) | 2 | 2 | inconclusive |" in shown
    assert "**Gate of ring canary: INCONCLUSIVE**" in shown

    fleet.traffic(release, "good")
    await decide(handle, "retry_gate", reason="the load test runs now")
    assert (await end(handle)).deadline is None
    assert (await search_attributes(handle))["ChainringState"] == "completed"
    shown = await look(handle)
    assert shown.startswith(f"## {fleet.name} 1.1.0: completed")
    assert "**gate retried** by ana: the load test runs now" in shown


@pytest.mark.parametrize("back_to", ["ring canary", "take fleet"])
async def test_a_reset_rollout_ends_well_and_switches_no_shard_twice(
    fleet: Fleet, back_to: str
) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "quiet")
    handle = await fleet.start(release)
    await until(handle, "holding")
    fleet.traffic(release, "good")

    again = await reset_to(handle, back_to)

    assert (await end(again)).state == RolloutState.COMPLETED
    for code in ("eu", "us-east"):
        assert sorted(fleet.regions[code].changed) == sorted(fleet.regions[code].running)
    assert fleet.holder() == ""
