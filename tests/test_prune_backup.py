"""`PruneBackup` on a real Temporal server: planned, shown, removed, and never while one reads."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from recovery_harness import REGION
from restore_harness import QUEUE, Recovery, recovery_worker
from rollout_harness import Plane
from temporalio.client import WorkflowFailureError, WorkflowHandle

from models.backup_retention import NONE, Limits
from models.drill import DrillRequest, DrillStatus
from models.prune import PruneRequest, PruneStatus
from models.recovery_incident import RecoveryIncidentStatus
from models.restore import Goal
from stores.ledger import Ledger

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")
Handle = WorkflowHandle[object, PruneStatus]


@pytest_asyncio.fixture(loop_scope="session")
async def recovery(plane: Plane, tmp_path: Path) -> AsyncIterator[Recovery]:
    async with recovery_worker(tmp_path, plane.client) as made:
        for _ in range(3):
            made.backup.work(6)
            made.backup.snapshot()
        made.limits = Limits(retention=NONE, step=NONE)  # the newest snapshot is old enough
        yield made


async def _start(recovery: Recovery, **request: object) -> Handle:
    return await recovery.client.start_workflow(
        "PruneBackup",
        PruneRequest.model_validate(request),
        id=f"prune/{REGION}/{uuid.uuid4().hex[:8]}",
        task_queue=QUEUE,
        result_type=PruneStatus,
    )


def _manifests(recovery: Recovery) -> list[str]:
    prefix = f"{REGION}/{recovery.backup.identity.id}/snapshots/"
    return [found.name for found in recovery.backup.objects.list(prefix)]


async def test_a_plan_is_shown_and_changes_nothing(recovery: Recovery) -> None:
    before = list(recovery.backup.objects.list(f"{REGION}/"))
    status = await (await _start(recovery, plan_only=True)).result()
    assert status.state == "planned" and status.plan and status.pruned is None
    assert status.plan.counts["snapshots"] == 2 and status.plan.first[0] == _manifests(recovery)[0]
    assert list(recovery.backup.objects.list(f"{REGION}/")) == before


async def test_what_was_shown_is_removed_and_is_a_receipt(recovery: Recovery) -> None:
    *_, newest = _manifests(recovery)
    status = await (await _start(recovery, actor="ana", reason="room")).result()

    assert status.state == "done" and status.plan and status.pruned
    assert status.pruned.counts == status.plan.counts and status.plan.base == newest
    assert _manifests(recovery) == [newest]
    receipt = Ledger(recovery.backup.engine, REGION).latest(
        kind="recovery.pruned", subject=recovery.client.namespace
    )
    assert receipt and receipt.receipt.actor == "ana" and receipt.seq == status.receipt
    assert (await (await recovery.start(dry_run=True)).result()).state == "proved"
    assert (await (await _start(recovery)).result()).state == "planned"


async def test_clocks_that_do_not_agree_are_an_incident(recovery: Recovery) -> None:
    recovery.limits = Limits(retention=NONE, step=NONE, stale=-timedelta(seconds=1))
    before = _manifests(recovery)
    handle = await _start(recovery)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    status = await handle.query("status", result_type=PruneStatus)
    assert status.state == "refused" and "the clock has jumped" in status.why
    opened = recovery.client.get_workflow_handle(status.incident)
    said = await opened.query("status", result_type=RecoveryIncidentStatus)
    assert said.request.kind == "retention-refused"
    assert _manifests(recovery) == before


async def test_it_waits_for_a_reader_of_another_process(recovery: Recovery) -> None:
    pin = recovery.backup.objects.put(f"{REGION}/pins/other.json", b"{}")
    before = _manifests(recovery)
    handle = await _start(recovery)
    await _waiting(handle)
    assert _manifests(recovery) == before
    recovery.backup.objects.delete(pin.name, if_generation=pin.generation)
    assert (await handle.result()).state == "done"
    assert len(_manifests(recovery)) == 1


async def test_it_does_not_wait_for_a_reader_for_ever(recovery: Recovery) -> None:
    recovery.backup.objects.put(f"{REGION}/pins/other.json", b"{}")
    before = _manifests(recovery)
    status = await (await _start(recovery, give_way_seconds=0)).result()
    assert status.state == "postponed" and status.receipt is not None and not status.incident
    assert _manifests(recovery) == before


async def test_drill_restore_and_pruning_at_once_all_end_well(recovery: Recovery) -> None:
    oldest = Goal(seq=int(_manifests(recovery)[0].rpartition("/")[2].partition("-")[0]))
    drill = await recovery.client.start_workflow(
        "RecoveryDrill",
        DrillRequest(kind="monthly"),
        id=f"drill/{REGION}/{uuid.uuid4().hex[:8]}",
        task_queue=QUEUE,
        result_type=DrillStatus,
    )
    restore = await recovery.start(dry_run=True, goal=oldest)
    prune = await _start(recovery)
    drilled, pruned = await drill.result(), await prune.result()
    assert drilled.state == "proved" and pruned.state == "done"
    try:
        assert (await restore.result()).state == "proved"
    except WorkflowFailureError as gone:  # the pruner was first, and the restore says so
        assert "no snapshot" in str(gone.cause)
    assert not list(recovery.backup.objects.list(f"{REGION}/pins/"))


async def _waiting(handle: Handle) -> None:
    for _ in range(200):
        status = await handle.query("status", result_type=PruneStatus)
        if status.state == "waiting":
            assert "other" in status.why
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"never gives way: {status}")
