"""`FleetRollout` on a real Temporal server: the way forward."""

import pytest
from rollout_harness import Fleet, Plane, decide, end, status_of, until

from models.rollout import RolloutState
from stores.chain_check import check_ledger

pytest_plugins = ["rollout_harness"]
pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_good_release_passes_all_rings_in_order(plane: Plane, fleet: Fleet) -> None:
    fleet.configure(rollout_rings=[40, 70, 100])
    release = fleet.release("1.1.0")

    status = await end(await fleet.start(release, reason="spring release"))

    assert status.state == RolloutState.COMPLETED
    assert [(ring.name, ring.outcome) for ring in status.rings] == [
        ("canary", "pass"),
        ("40%", "pass"),
        ("70%", "pass"),
        ("100%", "pass"),
    ]
    assert fleet.running() == {release}
    assert fleet.kinds(fleet.handles[0]) == [
        "rollout.started",
        *["ring.activated", "gate.verdict"] * 4,
        "rollout.ended",
    ]
