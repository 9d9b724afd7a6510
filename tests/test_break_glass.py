"""Break-glass: two people, a reason, an end; and no way around either."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rollout_harness import CONTROL_QUEUE, Fleet, hurry, look, search_attributes
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError

from models.break_glass import BreakGlassState, BreakGlassStatus, Override, same_person
from models.receipts import Draft
from stores.overrides import OverrideStore

pytest_plugins = ["rollout_fixtures", "databases"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
Handle = WorkflowHandle[Any, BreakGlassStatus]


async def _open(fleet: Fleet, **fields: Any) -> Handle:
    request = {"release": fleet.old, "actor": "ana", "reason": "pager at 3 a.m.", **fields}
    return await fleet.plane.client.start_workflow(
        "BreakGlass",
        request,
        id=f"breakglass/{fleet.name}/1",
        task_queue=CONTROL_QUEUE,
        result_type=BreakGlassStatus,
    )


async def _say(handle: Handle, update: str, actor: str) -> BreakGlassStatus:
    said = {"actor": actor, "reason": f"{actor} says {update}"}
    status: BreakGlassStatus = await handle.execute_update(
        update, said, result_type=BreakGlassStatus
    )
    return status


async def _refused(handle: Handle, update: str, actor: str) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await _say(handle, update, actor)
    return str(refused.value.cause)


def _in_force(fleet: Fleet) -> list[Override]:
    return fleet.plane.overrides.in_force(datetime.now(UTC), fleet.old)


def _kinds(fleet: Fleet, handle: Handle) -> list[str]:
    return [stored.kind for stored in fleet.plane.ledger.read(subject=handle.id)]


async def test_it_is_in_force_from_a_second_persons_approval_until_its_end(fleet: Fleet) -> None:
    handle = await _open(fleet, minutes=30)
    assert _in_force(fleet) == []

    status = await _say(handle, "approve", "ben")

    assert status.state == BreakGlassState.IN_FORCE
    [override] = _in_force(fleet)
    assert (override.opened_by, override.approved_by) == ("ana", "ben")
    assert timedelta(minutes=29) < override.expires - datetime.now(UTC) <= timedelta(minutes=30)
    assert "pager at 3 a.m." in await look(handle)
    assert (await search_attributes(handle))["ChainringState"] == "in force"
    await hurry(fleet, handle)  # type: ignore[arg-type]
    assert (await handle.result()).state == BreakGlassState.EXPIRED
    assert _in_force(fleet) == []
    assert _kinds(fleet, handle) == [
        "breakglass.opened",
        "breakglass.approved",
        "breakglass.expired",
    ]


async def test_who_opened_it_cannot_approve_it(fleet: Fleet) -> None:
    handle = await _open(fleet)

    assert "another person" in await _refused(handle, "approve", "Ana")

    assert _in_force(fleet) == []
    assert (await _say(handle, "revoke", "ana")).state == BreakGlassState.REVOKED


async def test_one_person_is_enough_to_take_it_back(fleet: Fleet) -> None:
    handle = await _open(fleet)
    await _say(handle, "approve", "ben")

    status = await _say(handle, "revoke", "ana")

    assert status.state == BreakGlassState.REVOKED
    assert _in_force(fleet) == []
    assert (await handle.result()).state == BreakGlassState.REVOKED
    assert _kinds(fleet, handle)[-1] == "breakglass.revoked"


async def test_without_a_second_person_it_lapses(fleet: Fleet) -> None:
    handle = await _open(fleet, approve_within_minutes=5)

    await hurry(fleet, handle)  # type: ignore[arg-type]

    assert (await handle.result()).state == BreakGlassState.LAPSED
    assert _in_force(fleet) == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"minutes": 0}, "minutes"), ({"minutes": 1441}, "minutes"), ({"reason": " "}, "reason")],
)
async def test_bad_input_is_refused_at_once_by_its_name(
    fleet: Fleet, fields: dict[str, Any], field: str
) -> None:
    handle = await _open(fleet, **fields)
    with pytest.raises(Exception, match="Workflow execution failed") as failed:
        await handle.result()
    assert field in str(failed.value.__cause__)


def _override(**fields: Any) -> Override:
    values = {
        "id": "breakglass/x/1",
        "release": f"sha256:{'a' * 64}",
        "opened_by": "ana",
        "approved_by": "ben",
        "reason": "because",
        "expires": NOW + timedelta(hours=1),
        **fields,
    }
    return Override(**values)


def _draft(key: str) -> Draft:
    return Draft(kind="breakglass.x", actor="a", subject="s", body={}, idempotency_key=key)


async def test_an_override_ends_by_the_clock_though_nobody_ends_it(
    overrides: OverrideStore,
) -> None:
    overrides.grant(_override(), _draft("1"))

    assert overrides.in_force(NOW + timedelta(minutes=59))
    assert not overrides.in_force(NOW + timedelta(hours=1))


async def test_granting_twice_lengthens_nothing(overrides: OverrideStore) -> None:
    overrides.grant(_override(), _draft("1"))

    later = overrides.grant(_override(expires=NOW + timedelta(hours=9)), _draft("2"))

    assert later.expires == NOW + timedelta(hours=1)
    assert not overrides.in_force(NOW + timedelta(hours=2))


async def test_an_override_is_for_its_release_alone(overrides: OverrideStore) -> None:
    overrides.grant(_override(), _draft("1"))

    assert overrides.in_force(NOW, f"sha256:{'a' * 64}")
    assert not overrides.in_force(NOW, f"sha256:{'b' * 64}")


async def test_case_makes_no_second_person() -> None:
    assert same_person("Ana", "ana ")
    assert not same_person("ana", "ann")


@pytest.fixture
def overrides(engine: Any) -> OverrideStore:
    from stores.ledger import Ledger

    return OverrideStore(engine, Ledger(engine, "control"))
