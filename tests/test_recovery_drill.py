"""`RecoveryDrill` and `RecoveryIncident` on a real Temporal server, over real stores."""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import pytest_asyncio
from recovery_harness import REGION
from restore_harness import QUEUE, Recovery, lose_a_segment, recovery_worker
from rollout_harness import Plane
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError

from models.backup_file import BackupDamaged, Unseal
from models.config_recovery import Sla
from models.drill import DrillKind, DrillRequest, DrillStatus
from models.incident import IncidentState
from models.recovery_incident import RecoveryIncidentStatus
from models.restore_certificate_check import verify_certificate
from models.rollout import Decision
from stores.drill import Drilled
from stores.ledger import Ledger
from stores.restore import Progress, Target
from stores.sql import open_engine
from stores.tenant_keys import KeyDamaged

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

DECISION = Decision(actor="bo", reason="looked at it")
Incident = WorkflowHandle[object, RecoveryIncidentStatus]


@pytest_asyncio.fixture(loop_scope="session")
async def recovery(plane: Plane, tmp_path: Path) -> AsyncIterator[Recovery]:
    async with recovery_worker(tmp_path, plane.client) as made:
        for _ in range(2):
            made.backup.work(8)
            made.backup.snapshot()
        made.backup.work(4)
        made.backup.ship()
        yield made
        made.backup.seals.destroyed.clear()


async def _start(recovery: Recovery, **request: object) -> "WorkflowHandle[object, DrillStatus]":
    return await recovery.client.start_workflow(
        "RecoveryDrill",
        DrillRequest.model_validate(request),
        id=f"drill/{REGION}/{uuid.uuid4().hex[:8]}",
        task_queue=QUEUE,
        result_type=DrillStatus,
    )


async def _failed(recovery: Recovery, **request: object) -> DrillStatus:
    handle = await _start(recovery, **request)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    return await handle.query("status", result_type=DrillStatus)


def _incident(recovery: Recovery, workflow_id: str) -> Incident:
    return recovery.client.get_workflow_handle(workflow_id, result_type=RecoveryIncidentStatus)


async def _resolve(recovery: Recovery, workflow_id: str) -> RecoveryIncidentStatus:
    handle = _incident(recovery, workflow_id)
    await handle.execute_update("resolve", DECISION)
    return await handle.result()


def _receipts(database: str, kind: str) -> list[dict[str, object]]:
    engine = open_engine(database)
    try:
        return [dict(each.receipt.body) for each in Ledger(engine, REGION).read(kinds=[kind])]
    finally:
        engine.dispose()


def _databases(recovery: Recovery) -> list[Path]:
    return sorted(recovery.backup.directory.glob("*restored*"))


async def test_a_weekly_drill_restores_the_newest_snapshot_to_the_head(recovery: Recovery) -> None:
    recovery.backup.work(3)  # not shipped yet: the drill ships it, and compares after it
    status = await (await _start(recovery)).result()

    assert status.state == "proved" and status.result
    result = status.result
    assert result.compared.same is True and result.compared.live_root == result.report.state_root
    recovery.close()
    assert result.report.reached_seq == recovery.backup.seq()
    assert not result.misses and not status.incidents and not _databases(recovery)
    data = recovery.backup.objects.get(result.certificate, 1 << 20)
    certificate = verify_certificate(data, [recovery.backup.key.public(REGION)], [])
    assert certificate.predicate.kind == "drill" and Path(result.path).read_bytes() == data
    [receipt] = _receipts(recovery.url, "recovery.drilled")
    assert receipt["verdict"] == "proved" and receipt["certificate"] == result.certificate
    assert recovery.primary().epoch == 1


async def test_a_monthly_drill_replays_everything_since_the_oldest_snapshot(
    recovery: Recovery,
) -> None:
    status = await (await _start(recovery, kind="monthly")).result()
    assert status.result and status.result.compared.same is True
    report = status.result.report
    assert report.base_seq < report.reached_seq - report.base_seq == report.changes_applied
    assert status.result.segments > 1


async def test_a_drill_that_does_not_get_there_is_an_incident_until_a_person_ends_it(
    recovery: Recovery,
) -> None:
    lost = lose_a_segment(recovery)
    first = await _failed(recovery)
    assert "are missing" in first.why and first.result and not first.result.certificate
    [opened] = first.incidents
    second = await _failed(recovery)
    assert second.incidents == [opened]
    incident = _incident(recovery, opened)
    status = await incident.query("status", result_type=RecoveryIncidentStatus)
    assert (status.state, status.seen) == (IncidentState.OPEN, 2) and lost

    await incident.execute_update("acknowledge", DECISION)
    with pytest.raises(WorkflowUpdateFailedError):
        await incident.execute_update("acknowledge", DECISION)
    ended = await _resolve(recovery, opened)

    assert ended.state is IncidentState.CLOSED and ended.unrecorded == 0
    said = [each["what"] for each in _receipts(recovery.url, "recovery.incident")]
    assert said == ["opened", "acknowledged", "resolved"]
    drilled = _receipts(recovery.url, "recovery.drilled")
    assert [each["verdict"] for each in drilled] == ["failed", "failed"]
    assert not _databases(recovery)


async def test_documents_that_changed_behind_the_triggers_are_found(recovery: Recovery) -> None:
    with recovery.backup.engine.begin() as connection:
        [trigger] = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'kv_entry' "
            "AND sql LIKE '%AFTER UPDATE%'"
        ).one()
        connection.exec_driver_sql(f'DROP TRIGGER "{trigger}"')
        connection.exec_driver_sql("UPDATE kv_entry SET version = version + 1")
    status = await _failed(recovery)
    assert "another state root" in status.why
    assert status.result and status.result.compared.same is False
    await _resolve(recovery, status.incidents[0])


async def test_a_yearly_drill_uses_no_key_of_the_running_region(recovery: Recovery) -> None:
    recovery.drills._driller._unseal = _refuse
    status = await (await _start(recovery, kind="yearly")).result()
    assert status.state == "proved" and status.result
    assert any("backup of the tenants' keys" in each for each in status.result.used)
    assert (await _failed(recovery, kind="weekly")).incidents


async def test_a_damaged_backup_of_the_keys_fails_the_yearly_drill_at_once(
    recovery: Recovery,
) -> None:
    def damaged() -> AbstractContextManager[Unseal]:
        raise KeyDamaged("key backup: was changed")

    recovery.drills._driller._unsealing_from_backup = damaged
    status = await _failed(recovery, kind="yearly")
    assert "key backup: was changed" in status.why and status.incidents and not _databases(recovery)


async def test_without_a_live_store_it_is_proved_and_its_receipt_waits(recovery: Recovery) -> None:
    database = recovery.backup.directory / "region.db"
    away = database.rename(database.with_suffix(".away"))
    handle = await _start(recovery, kind="yearly")
    status = await _recording(handle)
    away.rename(database)
    assert status.result and status.result.compared.same is None
    assert "does not answer" in status.result.compared.why and not status.result.faults
    assert (await handle.result()).receipt is not None


async def test_what_a_killed_drill_left_is_swept_by_the_next_one(recovery: Recovery) -> None:
    left = recovery.drills._scratch.make(recovery.url, f"drill/{REGION}/killed")
    open_engine(left.database(recovery.url)).connect().close()
    assert _databases(recovery)
    status = await (await _start(recovery)).result()
    assert status.swept == [f"drill/{REGION}/killed"] and not _databases(recovery)


async def test_an_attempt_that_dies_leaves_nothing_for_the_next_one(
    recovery: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    drill, seen = recovery.drills._driller.drill, list[list[Path]]()

    def dying(kind: DrillKind, primary: str, target: Target, progress: Progress) -> Drilled:
        done = drill(kind, primary, target, progress)
        seen.append(_databases(recovery))
        if len(seen) == 1:
            raise OSError("the process is gone")
        return done

    monkeypatch.setattr(recovery.drills._driller, "drill", dying)
    status = await (await _start(recovery)).result()
    assert status.state == "proved" and len(seen) == 2 and seen[0] and seen[1]
    assert not set(seen[0]) & set(seen[1]) and not _databases(recovery)


async def test_a_drill_that_a_person_cancels_leaves_nothing(
    recovery: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    drill = recovery.drills._driller.drill
    began, go_on = threading.Event(), threading.Event()

    def waiting(kind: DrillKind, primary: str, target: Target, progress: Progress) -> Drilled:
        done = drill(kind, primary, target, progress)
        began.set()
        go_on.wait(10)
        return done

    monkeypatch.setattr(recovery.drills._driller, "drill", waiting)
    handle = await _start(recovery)
    assert await asyncio.to_thread(began.wait, 10)
    await handle.cancel()
    go_on.set()
    await asyncio.wait([asyncio.create_task(_ended(handle))])
    assert not _databases(recovery) and not recovery.drills._scratch.all()


async def _ended(handle: "WorkflowHandle[object, DrillStatus]") -> None:
    with contextlib.suppress(WorkflowFailureError):
        await handle.result()


async def test_a_missed_sla_is_an_incident_of_drill_and_restore(recovery: Recovery) -> None:
    recovery.sla = Sla().model_copy(update={"restore_from_backup_seconds": 0})
    drilled = await (await _start(recovery)).result()
    assert drilled.state == "proved" and drilled.result
    assert "restore took" in drilled.result.misses[0]
    restored = await (await recovery.start()).result()
    assert restored.state == "published" and restored.incident
    status = await _resolve(recovery, restored.incident)
    assert status.request.kind == "sla-missed" and status.request.certificate
    await _resolve(recovery, drilled.incidents[0])
    said = _receipts(recovery.primary().database, "recovery.incident")
    assert {each["what"] for each in said} >= {"opened", "resolved"}


async def test_a_region_rests_while_it_is_the_turn_of_others(recovery: Recovery) -> None:
    codes = ["eu", "us-east"]
    turns = [{"region": each, "regions": codes, "sample": 1} for each in codes]
    states = [(await (await _start(recovery, rotation=each)).result()).state for each in turns]
    assert sorted(states) == ["proved", "resting"]


def _refuse(tenant: str, sealed: bytes, bound_to: bytes) -> bytes:

    raise BackupDamaged(f"body of {tenant}: these keys are the running region's")


async def _recording(handle: "WorkflowHandle[object, DrillStatus]") -> DrillStatus:
    for _ in range(400):
        status = await handle.query("status", result_type=DrillStatus)
        if status.state == "recording":
            return status
        await asyncio.sleep(0.05)
    raise AssertionError(f"never recording: {status}")
