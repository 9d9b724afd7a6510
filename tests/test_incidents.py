"""Releases that run are judged again; one that does not stand any more becomes an incident."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from rollout_harness import CONTROL_QUEUE, Fleet, end, look, until
from temporalio.client import (
    WithStartWorkflowOperation,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from models.incident import IncidentState, IncidentStatus, RejudgeReport, incident_id
from models.rollout import RolloutState

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

Handle = WorkflowHandle[Any, IncidentStatus]


async def _rejudge(fleet: Fleet, number: int = 1) -> RejudgeReport:
    report: RejudgeReport = await fleet.plane.client.execute_workflow(
        "RejudgeDeployments",
        {},
        id=f"rejudge/{fleet.name}/{number}",
        task_queue=CONTROL_QUEUE,
        result_type=RejudgeReport,
    )
    return report


async def _say(handle: Handle, update: str) -> IncidentStatus:
    said = {"actor": "ana", "reason": f"to {update}"}
    status: IncidentStatus = await handle.execute_update(update, said, result_type=IncidentStatus)
    return status


async def _status(handle: Handle) -> IncidentStatus:
    status: IncidentStatus = await handle.query("status", result_type=IncidentStatus)
    return status


def _incident(fleet: Fleet, report: RejudgeReport) -> Handle:
    [found] = report.incidents
    return fleet.plane.client.get_workflow_handle(found, result_type=IncidentStatus)


def _follow_up(fleet: Fleet, what: str) -> None:
    text = fleet.plane.config.read_text()
    fleet.plane.config.write_text(f'{text}\n[deployment_verification]\nfollow_up = "{what}"\n')


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def no_incident_left(fleet: Fleet) -> AsyncIterator[None]:
    """An incident of one test would be looked at by the next one's."""
    yield
    client = fleet.plane.client
    query = 'WorkflowType = "Incident" AND ExecutionStatus = "Running"'
    async for found in client.list_workflows(query):
        with contextlib.suppress(RPCError):  # it has ended, and is still in the list
            await client.get_workflow_handle(found.id).terminate()


async def test_a_fleet_whose_release_stands_has_no_incident(fleet: Fleet) -> None:
    report = await _rejudge(fleet)

    assert (report.judged, report.standing, report.incidents) == (1, 1, [])


async def test_a_running_release_that_does_not_stand_opens_one_incident(fleet: Fleet) -> None:
    fleet.plane.verifier.say(fleet.old, "fail")

    report = await _rejudge(fleet)
    again = await _rejudge(fleet, 2)

    assert again.incidents == report.incidents
    handle = _incident(fleet, report)
    status = await _status(handle)
    assert status.state == IncidentState.OPEN
    assert status.request.deployed.shards == {"eu": 5, "us-east": 5}
    assert "the test says fail" in await look(handle)  # type: ignore[arg-type]
    kinds = [stored.kind for stored in fleet.plane.ledger.read(subject=handle.id)]
    assert kinds == ["incident.opened"]


async def test_it_is_resolved_when_the_release_stands_again(fleet: Fleet) -> None:
    fleet.plane.verifier.say(fleet.old, "fail")
    handle = _incident(fleet, await _rejudge(fleet))
    await _status(handle)
    fleet.plane.verifier.say(fleet.old, "pass")

    report = await _rejudge(fleet, 2)

    assert report.resolved == [handle.id]
    assert (await handle.result()).state == IncidentState.CLOSED


async def test_a_person_may_acknowledge_and_close_it(fleet: Fleet) -> None:
    fleet.plane.verifier.say(fleet.old, "fail")
    handle = _incident(fleet, await _rejudge(fleet))

    assert (await _say(handle, "acknowledge")).state == IncidentState.ACKNOWLEDGED
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await _say(handle, "accept_rollback")
    assert "no earlier release" in str(refused.value.cause)
    assert (await _say(handle, "close")).state == IncidentState.CLOSED

    assert (await handle.result()).decisions[-1].reason == "to close"


async def test_a_decision_before_it_is_written_down_comes_after_its_opening(fleet: Fleet) -> None:
    fleet.plane.verifier.say(fleet.old, "fail")
    request = (await _status(_incident(fleet, await _rejudge(fleet)))).request
    at_once = WithStartWorkflowOperation(
        "Incident",
        request,
        id=f"incident/{fleet.name}/at-once",
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        task_queue=CONTROL_QUEUE,
    )
    said = {"actor": "ana", "reason": "seen"}
    await fleet.plane.client.execute_update_with_start_workflow(
        "acknowledge", said, start_workflow_operation=at_once
    )
    subject = f"incident/{fleet.name}/at-once"
    kinds = [stored.kind for stored in fleet.plane.ledger.read(subject=subject)]
    assert kinds == ["incident.opened", "incident.acknowledged"]


async def test_it_stops_the_rollout_that_brings_the_release(fleet: Fleet) -> None:
    _follow_up(fleet, "stop")
    release = fleet.release("1.1.0")
    rollout = await fleet.start(release, overrides={"gates.bake_seconds": 600})
    await until(rollout, "baking")
    fleet.plane.verifier.say(release, "fail")

    report = await _rejudge(fleet)

    status = await end(rollout)
    assert status.state == RolloutState.ABORTED
    assert "the test says fail" in status.why
    assert fleet.running() == {fleet.old}
    assert (await _status(_incident(fleet, report))).request.stopped == rollout.id


async def test_an_earlier_release_that_stands_is_proposed_and_rolled_out(fleet: Fleet) -> None:
    _follow_up(fleet, "propose_rollback")
    good, bad = fleet.release("1.1.0"), fleet.release("1.2.0")
    for release in (good, bad):
        assert (await end(await fleet.start(release))).state == RolloutState.COMPLETED
    fleet.plane.verifier.say(bad, "fail")
    handle = _incident(fleet, await _rejudge(fleet))
    proposal = (await _status(handle)).request.proposal
    assert proposal is not None and proposal.release == good

    status = await _say(handle, "accept_rollback")

    rollout = fleet.plane.client.get_workflow_handle(status.rollback)
    fleet.handles.append(rollout)
    await rollout.result()
    assert fleet.running() == {good}
    assert (await _rejudge(fleet, 2)).resolved == [handle.id]
    assert (await handle.result()).state == IncidentState.CLOSED


async def test_a_region_that_is_down_closes_no_incident(fleet: Fleet) -> None:
    fleet.configure(region_down_after_seconds=3)
    fleet.plane.verifier.say(fleet.old, "fail")
    handle = _incident(fleet, await _rejudge(fleet))
    await fleet.plane.down("eu")

    report = await _rejudge(fleet, 2)

    assert report.unseen == ["eu"]
    assert (await _status(handle)).state == IncidentState.OPEN


async def test_one_cause_has_one_incident() -> None:
    release = f"sha256:{'a' * 64}"
    assert incident_id(release, "x") == incident_id(release, "x") != incident_id(release, "y")
