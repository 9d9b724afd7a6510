"""The operations calendar: applied as often as one likes, and a person's pause is kept."""

import pytest
from rollout_harness import Fleet
from temporalio.service import RPCError

from models.config import load_config
from workers.schedules import apply, calendar, region_calendar

CONFIG = load_config("")

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


async def test_the_regions_calendar_starts_what_the_recovery_worker_has() -> None:
    from temporalio import workflow

    from workers.recovery import RECOVERY_WORKFLOWS

    known = {workflow._Definition.must_from_class(each).name for each in RECOVERY_WORKFLOWS}
    assert {planned.workflow for planned in region_calendar("eu", CONFIG)} <= known


async def test_no_two_regions_begin_a_drill_at_the_same_time() -> None:
    begin = [
        str(planned.at)
        for region in CONFIG.regions
        for planned in region_calendar(region, CONFIG)
        if planned.at
    ]
    assert len(begin) >= 6 and len(set(begin)) == len(begin)


async def test_a_drill_that_is_switched_off_is_taken_out(fleet: Fleet) -> None:
    client = fleet.plane.client
    [yearly] = [each for each in region_calendar("eu", CONFIG) if each.id == "drill/eu/yearly"]
    assert await apply(client, yearly) == "created"
    handle = client.get_schedule_handle(yearly.id)
    [spec] = (await handle.describe()).schedule.spec.calendars
    assert [(each.start, each.end) for each in spec.day_of_month] == [(15, 15)]
    testing = CONFIG.testing.model_copy(update={"annual_disaster_recovery_drill": False})
    off = CONFIG.model_copy(update={"testing": testing})
    [unwanted] = [each for each in region_calendar("eu", off) if each.id == yearly.id]
    for _ in range(2):
        assert await apply(client, unwanted) == "not wanted"
    with pytest.raises(RPCError):
        await handle.describe()
