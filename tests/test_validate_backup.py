"""`ValidateBackup` on a real Temporal server: what is bad is told, marked, and made good."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from recovery_harness import REGION, Backup
from restore_harness import QUEUE, Recovery, recovery_worker
from rollout_harness import Plane
from temporalio.client import WorkflowFailureError

from models.manifest import read_manifest
from models.recovery_incident import RecoveryIncidentStatus
from models.validation import ValidateRequest, ValidationStatus
from stores.backup_layout import manifests
from stores.ledger import Ledger
from stores.sql import open_engine

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


async def _validate(recovery: Recovery, **request: object) -> ValidationStatus:
    handle = await recovery.client.start_workflow(
        "ValidateBackup",
        ValidateRequest.model_validate(request),
        id=f"validate/{REGION}/{uuid.uuid4().hex[:8]}",
        task_queue=QUEUE,
        result_type=ValidationStatus,
    )
    return await handle.result()


def flip_a_chunk(backup: Backup) -> str:
    """Flip a bit of a chunk of the newest snapshot, on the disk."""
    *_, newest = manifests(backup.objects, REGION, backup.identity.id)
    manifest = read_manifest(backup.objects.get(newest.object.name, 1 << 20))
    name = manifest.chunks[0].name
    info = backup.objects.stat(name)
    assert info
    path = backup.directory / "objects" / f"{name}@{info.sha256}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    return name


async def test_a_sound_backup_is_read_share_by_share(recovery: Recovery) -> None:
    first, second = [await _validate(recovery) for _ in range(2)]
    assert first.state == second.state == "sound" and not first.incident and first.receipt is None
    assert recovery.rotation.read().read == 2


async def test_a_bad_chunk_is_an_incident_and_a_fresh_snapshot(recovery: Recovery) -> None:
    name = flip_a_chunk(recovery.backup)
    status = await _validate(recovery, everything=True)

    assert status.state == "damaged" and status.report
    assert [each.name for each in status.report.bad] == [name]
    recovery.close()
    made = read_manifest(recovery.backup.objects.get(status.snapshot, 1 << 20))
    assert name not in {ref.name for ref in made.chunks}
    incident = recovery.client.get_workflow_handle(status.incident)
    said = await incident.query("status", result_type=RecoveryIncidentStatus)
    assert said.request.kind == "backup-damaged" and name in said.request.why
    engine = open_engine(recovery.url)
    receipt = Ledger(engine, REGION).latest(kind="recovery.validated", subject="default")
    assert receipt and receipt.receipt.body["snapshot"] == status.snapshot
    engine.dispose()

    proved = await (await recovery.start(dry_run=True)).result()
    assert proved.state == "proved" and proved.report
    assert proved.report.base_manifest == status.snapshot and not proved.report.findings
    again = await _validate(recovery, everything=True)
    assert again.state == "sound" and again.report and again.report.known == 1


async def test_a_sample_is_restored_and_is_a_receipt(recovery: Recovery) -> None:
    status = await _validate(recovery, kind="sample")
    assert status.state == "sound" and status.report and status.receipt is not None
    assert status.report.documents > 0 and status.report.seed


async def test_without_a_snapshot_a_sample_fails_and_is_an_incident(recovery: Recovery) -> None:
    for each in recovery.backup.objects.list(f"{REGION}/{recovery.backup.identity.id}/snapshots/"):
        recovery.backup.objects.delete(each.name, if_generation=each.generation)
    with pytest.raises(WorkflowFailureError) as failed:
        await _validate(recovery, kind="sample")
    assert "no snapshot" in str(failed.value.cause)


async def test_where_the_store_is_not_what_was_signed_nothing_replaces_it(
    recovery: Recovery,
) -> None:
    flip_a_chunk(recovery.backup)
    with recovery.backup.engine.begin() as connection:
        [trigger] = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'kv_entry' "
            "AND sql LIKE '%AFTER UPDATE%'"
        ).one()
        connection.exec_driver_sql(f'DROP TRIGGER "{trigger}"')
        connection.exec_driver_sql("UPDATE kv_entry SET version = version + 1")
    status = await _validate(recovery, everything=True)
    assert status.state == "damaged" and not status.snapshot
    assert "no fresh snapshot: region eu: after change" in status.why
