"""The operations calendar: applied as often as one likes, and a person's pause is kept."""

import pytest
from rollout_harness import Fleet

from workers.schedules import apply, calendar

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_applying_it_again_updates_and_keeps_a_pause(fleet: Fleet) -> None:
    client = fleet.plane.client
    [planned, *_] = calendar()
    assert await apply(client, planned) == "created"
    handle = client.get_schedule_handle(planned.id)
    await handle.pause(note="maintenance")

    assert await apply(client, planned) == "updated"

    described = await handle.describe()
    assert described.schedule.state.paused
    assert described.schedule.state.note == "maintenance"
    assert [each.every for each in described.schedule.spec.intervals] == [planned.every]
    await handle.delete()


async def test_every_line_of_the_calendar_starts_a_workflow_that_the_worker_has() -> None:
    from temporalio import workflow

    from workers.control import CONTROL_WORKFLOWS

    known = {workflow._Definition.must_from_class(each).name for each in CONTROL_WORKFLOWS}
    assert {planned.workflow for planned in calendar()} <= known
