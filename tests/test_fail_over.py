"""`FailOver`: what was acknowledged while the store was down is in the restored one, once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from recovery_harness import REGION
from restore_harness import QUEUE, Recovery, lose_a_segment, recovery_worker, until_restore
from rollout_harness import Plane
from temporalio.client import WorkflowFailureError, WorkflowHandle

from activities.snapshot_reads import _public
from models.config_recovery import Sla
from models.primary import Primary
from models.recovery import FailOverRequest, FailOverStatus, GapDecision
from models.recovery_incident import RecoveryIncidentStatus
from stores.buffered_kv import Base, Buffer, BufferedKV
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.primary import SPOOL, PrimaryFile
from stores.spool import Spool
from stores.sql import StoreUnavailable, open_engine

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def recovery(plane: Plane, tmp_path: Path) -> AsyncIterator[Recovery]:
    async with recovery_worker(tmp_path, plane.client) as made:
        made.backup.work(10)
        made.backup.snapshot()
        made.backup.work(5)
        made.backup.ship()
        yield made


def _mode(recovery: Recovery) -> PrimaryFile:
    return PrimaryFile(recovery.backup.directory / "path", REGION)


def _buffer_writes(recovery: Recovery, count: int) -> None:
    """What the gateway does while the store is down."""
    file = _mode(recovery)
    wanted = Primary(region=REGION, epoch=file.read().epoch + 1, mode="buffered")
    file.switch(wanted)
    buffer = Buffer(Spool(recovery.backup.directory / "path" / SPOOL, epoch=wanted.epoch), None)
    for number in range(count):
        BufferedKV(buffer, f"tenant-{number % 3}").put(f"outage/{number}", b"%d" % number)
    buffer.close()


async def _start(recovery: Recovery) -> "WorkflowHandle[object, FailOverStatus]":
    return await recovery.client.start_workflow(
        "FailOver",
        FailOverRequest(actor="ana", reason="disk lost"),
        id=f"failover/{REGION}/{datetime.now(UTC).timestamp()}",
        task_queue=QUEUE,
        result_type=FailOverStatus,
    )


async def test_buffered_writes_are_in_the_restored_store(recovery: Recovery) -> None:
    _buffer_writes(recovery, 20)
    status = await (await _start(recovery)).result()

    assert status.state == "normal" and _mode(recovery).read().mode == "normal"
    assert status.restore and status.restore.published
    assert status.drained
    counts = (status.drained.acknowledged, status.drained.applied, status.drained.pending)
    assert counts == (20, 20, 0) and not status.drained.conflicts
    engine = open_engine(recovery.primary().database)
    for number in range(20):
        found = TenantKV(engine, f"tenant-{number % 3}").get(f"outage/{number}")
        assert found is not None and found.value == b"%d" % number
    receipt = Ledger(engine, REGION).latest(kind="region.drained", subject=REGION)
    assert receipt is not None
    proof = receipt.receipt.body["proof"]
    assert isinstance(proof, dict) and proof == status.drained.proof.model_dump(mode="json")
    engine.dispose()


async def test_without_a_backup_the_region_stays_buffered(recovery: Recovery) -> None:
    _buffer_writes(recovery, 3)
    backup = recovery.backup
    for found in list(backup.objects.list(f"{REGION}/{backup.identity.id}/snapshots/")):
        backup.objects.delete(found.name, if_generation=found.generation)
    handle = await _start(recovery)
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert "stays in buffered mode" in str(failed.value.cause)
    assert "no snapshot" in str(failed.value.cause)
    assert _mode(recovery).read().mode == "buffered"


def _scratch_stores(recovery: Recovery) -> list[str]:
    """Files of restored stores that are not the primary."""
    primary = recovery.primary().database
    found = recovery.backup.directory.glob("*restored*.db")
    return [str(each) for each in found if not primary.endswith(str(each))]


async def test_reads_are_answered_from_the_newest_snapshot_until_the_store_is_back(
    recovery: Recovery,
) -> None:
    """A gap holds the restore up, so that there is time to read."""
    key = TenantKV(recovery.backup.engine, "tenant-1")
    wanted = {each.key: key.get(each.key) for each in key.list().keys}
    lose_a_segment(recovery)
    handle = await _start(recovery)
    for _ in range(200):
        if _mode(recovery).read().snapshot:
            break
        await asyncio.sleep(0.05)
    primary = _mode(recovery).read()
    assert primary.mode == "buffered" and primary.snapshot and primary.snapshot_at
    base = Base(partial(TenantKV, open_engine(primary.snapshot)), primary.snapshot_at.timestamp())
    buffer = Buffer(Spool(recovery.backup.directory / "path" / SPOOL, epoch=primary.epoch), base)
    reading = BufferedKV(buffer, "tenant-1")
    found = {each.key: reading.get(each.key) for each in reading.list().keys}
    assert found and all(each in wanted for each in found) and buffer.age is not None
    with pytest.raises(StoreUnavailable, match="fenced"):
        base.of("tenant-1").put("key", b"never")  # type: ignore[attr-defined]
    reading.put("new", b"1")
    buffer.close()
    assert len(_scratch_stores(recovery)) == 1 + 1  # and the one that waits for a word

    restore = recovery.client.get_workflow_handle(f"{handle.id}/restore")
    await until_restore(restore, "waiting")
    await restore.execute_update("accept_gap", GapDecision(actor="bo", reason="lost"))
    status = await handle.result()
    assert status.state == "normal" and status.reads and status.drained
    assert status.drained.applied == 1
    after = _mode(recovery).read()
    assert (after.mode, after.snapshot, after.snapshot_at) == ("normal", None, None)
    for _ in range(100):
        if not _scratch_stores(recovery):
            break
        await asyncio.sleep(0.05)
    assert not _scratch_stores(recovery)


async def test_a_gap_waits_while_the_region_writes_on(recovery: Recovery) -> None:
    recovery.backup.work(5)
    recovery.backup.ship()
    lose_a_segment(recovery)
    handle = await _start(recovery)
    restore = recovery.client.get_workflow_handle(f"{handle.id}/restore")
    for _ in range(100):
        try:
            await until_restore(restore, "waiting")
            break
        except Exception:
            if (await handle.query("status", result_type=FailOverStatus)).state == "failed":
                raise
    assert _mode(recovery).read().mode == "buffered"
    decision = GapDecision(actor="bo", reason="the bucket lost them")
    await restore.execute_update("accept_gap", decision)
    assert (await handle.result()).state == "normal"


async def test_a_failover_that_took_too_long_is_an_incident(recovery: Recovery) -> None:
    recovery.sla = Sla().model_copy(update={"initiate_failover_seconds": 0})
    status = await (await _start(recovery)).result()
    assert status.state == "normal" and status.incident
    incident = recovery.client.get_workflow_handle(status.incident)
    said = await incident.query("status", result_type=RecoveryIncidentStatus)
    assert said.request.kind == "sla-missed" and "failover took" in said.request.why


@pytest.mark.parametrize("user", ["u:secret@", "u:@", "u@"])
async def test_what_the_gateway_reads_names_no_password(user: str) -> None:
    shown = _public(f"postgresql+psycopg://{user}host/name")
    assert Primary(
        region=REGION, epoch=1, mode="buffered", snapshot=shown, snapshot_at=datetime.now(UTC)
    )
