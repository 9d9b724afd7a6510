"""`WatchRegion` on a real Temporal server, over a real store: it fails over by itself, and once."""

from pathlib import Path

import pytest
from recovery_harness import REGION
from restore_harness import QUEUE, until_restore
from rollout_harness import Plane
from tampering import rot
from temporalio.client import WorkflowUpdateFailedError
from watch_harness import watched_region

from activities.watching import start_failover
from models.recovery import FailOverRequest, FailOverStatus
from models.watch import Decision, WatchStatus
from stores.changelog import identity
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.sql import open_engine

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

ANA = Decision(actor="ana", reason="work on the disk")


async def test_a_lost_store_is_found_and_failed_over_by_itself(
    plane: Plane, tmp_path: Path
) -> None:
    async with watched_region(tmp_path, plane.client) as region:
        lost = region.recovery.primary()
        region.lose_the_store()
        status = await region.until(lambda found: bool(found.ended))

        assert status.verdict is None and region.mode.read().mode == "normal"
        primary = region.recovery.primary()
        assert primary.epoch == lost.epoch + 1
        failover = plane.client.get_workflow_handle(status.failover, result_type=FailOverStatus)
        assert (await failover.result()).state == "normal"
        engine = open_engine(primary.database)
        receipt = Ledger(engine, REGION).latest(kind="region.drained", subject=REGION)
        assert receipt is not None and receipt.receipt.actor == "watch"
        verdict = receipt.receipt.body["verdict"]
        assert isinstance(verdict, dict) and verdict["fault"] == "down"
        evidence = verdict["evidence"]
        assert isinstance(evidence, list) and len(evidence) == 2
        TenantKV(engine, "acme").put("after", b"1")
        engine.dispose()
        await region.until_probed(2)  # it watches on, over the new store
        assert region.seen.probes[-1].outcome == "ok"
        assert region.seen.probes[-1].store == primary.store
        assert region.seen.ended == [True]


async def test_a_store_that_lies_is_replaced_by_what_was_signed(
    plane: Plane, tmp_path: Path
) -> None:
    async with watched_region(tmp_path, plane.client) as region:
        key = TenantKV(region.recovery.backup.engine, "tenant-1")
        wanted = {each.key: key.get(each.key) for each in key.list().keys}
        rot(region.recovery.backup.engine, "UPDATE kv_entry SET value = 'lies'")
        status = await region.until(lambda found: bool(found.ended))
        assert "corrupted" in {each.outcome for each in region.seen.probes}
        assert status.verdict is None
        assert identity(region.recovery.backup.engine, REGION).fenced
        engine = open_engine(region.recovery.primary().database)
        found = TenantKV(engine, "tenant-1")
        assert {each.key: found.get(each.key) for each in found.list().keys} == wanted
        engine.dispose()


async def test_without_automatic_failover_it_waits_for_a_person(
    plane: Plane, tmp_path: Path
) -> None:
    async with watched_region(tmp_path, plane.client, automatic=False) as region:
        before = await region.failovers()
        region.lose_the_store()
        status = await region.until(lambda found: found.state == "alarm")
        assert "chainring failover start" in status.why and status.verdict
        await region.until_probed(3)
        assert await region.failovers() == before
        assert region.seen.standing_[-1] is not None

        request = FailOverRequest(actor="ana", reason="disk lost")
        started = await start_failover(plane.client, QUEUE, request)
        await plane.client.get_workflow_handle(started.workflow).result()
        status = await region.until(lambda found: found.state == "watching")
        assert status.verdict is None and region.seen.standing_[-1] is None


async def test_a_failover_that_a_person_started_is_not_doubled(
    plane: Plane, tmp_path: Path
) -> None:
    async with watched_region(tmp_path, plane.client) as region:
        before = set(await region.failovers())
        for found in list(region.recovery.backup.objects.list(f"{REGION}/")):
            if "/changelog/" in found.name:  # so that it waits for a word about the gap
                region.recovery.backup.objects.delete(found.name, if_generation=found.generation)
        request = FailOverRequest(actor="ana", reason="disk lost")
        started = await start_failover(plane.client, QUEUE, request)
        again = await start_failover(plane.client, QUEUE, request)
        assert again.found and again.workflow == started.workflow and not started.found
        region.lose_the_store()
        status = await region.until(lambda found: found.failover == started.workflow)
        assert status.state == "failing over" and "found" in status.why
        restore = plane.client.get_workflow_handle(f"{started.workflow}/restore")
        await until_restore(restore, "waiting")
        await restore.execute_update("accept_gap", ANA)
        status = await region.until(lambda found: bool(found.ended))
        assert status.verdict is None
        assert set(await region.failovers()) - before == {started.workflow}


async def test_a_second_loss_waits_until_the_first_has_cooled_down(
    plane: Plane, tmp_path: Path
) -> None:
    async with watched_region(tmp_path, plane.client) as region:
        region.lose_the_store()
        first = await region.until(lambda found: bool(found.ended))
        path = Path(region.recovery.primary().database.removeprefix("sqlite:///"))
        moved = path.with_suffix(".gone")
        path.rename(moved)
        status = await region.until(lambda found: found.state == "alarm")
        assert status.next_failover and status.next_failover > first.ended[-1]
        assert "not before" in status.why and status.failover == first.failover
        moved.rename(path)  # it is back, as it was: nothing is left to do
        status = await region.until(lambda found: found.state == "watching")
        assert status.verdict is None and len(status.ended) == 1


async def test_it_is_paused_and_resumed_by_people(plane: Plane, tmp_path: Path) -> None:
    async with watched_region(tmp_path, plane.client) as region:
        await region.watch.execute_update("pause", ANA, result_type=WatchStatus)
        status = await region.until(lambda found: found.state == "paused")
        assert status.why == "by ana: work on the disk"
        with pytest.raises(WorkflowUpdateFailedError):
            await region.watch.execute_update("pause", ANA, result_type=WatchStatus)
        await region.watch.execute_update("resume", ANA, result_type=WatchStatus)
        await region.until(lambda found: found.state == "watching")
        await region.until_probed()


async def test_a_new_history_goes_on_with_what_the_old_one_knew(
    plane: Plane, tmp_path: Path
) -> None:
    async with watched_region(tmp_path, plane.client, automatic=False, rounds=1) as region:
        first = (await region.watch.describe()).run_id
        region.lose_the_store()
        status = await region.until(lambda found: found.state == "alarm")
        assert status.verdict and (await region.watch.describe()).run_id != first
        handle = plane.client.get_workflow_handle(region.watch.id)
        await handle.execute_update("pause", ANA, result_type=WatchStatus)
        status = await region.until(lambda found: found.state == "paused")
        assert status.verdict and status.paused == ANA


async def test_another_worker_goes_on_with_the_watch(plane: Plane, tmp_path: Path) -> None:
    async with watched_region(tmp_path, plane.client) as region:
        await region.recovery.down()
        await region.recovery.up()
        await region.until_probed(2)
        region.lose_the_store()
        status = await region.until(lambda found: bool(found.ended))
        assert status.verdict is None
