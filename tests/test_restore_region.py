"""`RestoreRegion` and `SnapshotRegion` on a real Temporal server, over real stores and backups."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from recovery_harness import REGION, documents
from restore_harness import (
    QUEUE,
    Recovery,
    lose_a_segment,
    recovery_worker,
    restore_status,
    until_restore,
)
from rollout_harness import Plane
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.service import RPCError

from models.recovery import GapDecision, RestoreStatus, SnapshotReport, SnapshotRequest
from models.restore_certificate_check import verify_certificate
from models.verifier import verify_chain
from stores.changelog import identity
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.sql import StoreUnavailable, open_engine

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

DECISION = GapDecision(actor="bo", reason="the bucket lost them")


@pytest_asyncio.fixture(loop_scope="session")
async def recovery(plane: Plane, tmp_path: Path) -> AsyncIterator[Recovery]:
    async with recovery_worker(tmp_path, plane.client) as made:
        made.backup.work(10)
        made.backup.snapshot()
        for _ in range(3):
            made.backup.work(5)
            made.backup.ship()
        yield made


async def test_a_lost_store_comes_back_as_the_primary(recovery: Recovery) -> None:
    backup, lost = recovery.backup, recovery.primary()
    wanted = {name: value for name, value in backup.documents().items() if name[0].startswith("kv")}
    status = await (await recovery.start()).result()

    assert status.state == "published" and status.report and status.report.complete
    primary = recovery.primary()
    assert (primary.store, primary.epoch) == (status.report.restored_store, lost.epoch + 1)
    assert primary.former == (lost.database,)
    engine = open_engine(primary.database)
    found = documents(engine)
    assert {name: value for name, value in found.items() if name in wanted} == wanted
    ledger = Ledger(engine, REGION)
    last = ledger.latest(kind="region.restored", subject=REGION)
    assert last is not None and last.receipt.body["state_root"] == status.report.state_root
    assert last.receipt.actor == "ana"
    lines = [stored.data for stored in ledger.read()]
    assert verify_chain(lines, ledger=REGION).size == ledger.head().size
    TenantKV(engine, "acme").put("after", b"1")
    engine.dispose()
    certificate = verify_certificate(
        Path(status.certificate).read_bytes(), [backup.key.public(REGION)], [backup.head()]
    )
    assert certificate.predicate.verdict == "complete"


async def test_a_returning_zombie_cannot_write(recovery: Recovery) -> None:
    await (await recovery.start()).result()
    found = identity(recovery.backup.engine, REGION)
    assert found.fenced and "epoch 2" in found.fenced_why
    with pytest.raises(StoreUnavailable, match="fenced"):
        TenantKV(recovery.backup.engine, "acme").put("late", b"1")


async def test_a_dry_run_changes_nothing(recovery: Recovery) -> None:
    before, files = recovery.primary(), sorted(recovery.backup.directory.glob("*.db"))
    status = await (await recovery.start(dry_run=True)).result()
    assert status.state == "proved" and status.report and status.report.complete
    assert recovery.primary() == before
    assert sorted(recovery.backup.directory.glob("*.db")) == files
    TenantKV(recovery.backup.engine, "acme").put("still", b"1")


async def test_a_gap_waits_for_a_person_and_is_accepted(recovery: Recovery) -> None:
    lose_a_segment(recovery)
    handle = await recovery.start()
    status = await until_restore(handle, "waiting")
    assert status.report and status.report.gap
    assert f"changes {status.report.gap.first} to {status.report.gap.last}" in status.why
    assert recovery.primary().epoch == 1

    await handle.execute_update("accept_gap", DECISION, result_type=RestoreStatus)
    status = await handle.result()

    assert status.state == "published" and status.accepted == DECISION
    engine = open_engine(recovery.primary().database)
    last = Ledger(engine, REGION).latest(kind="region.restored", subject=REGION)
    assert last is not None
    gap, accepted = last.receipt.body["gap"], last.receipt.body["accepted"]
    assert isinstance(gap, dict) and gap["first"] == status.report.gap.first
    assert isinstance(accepted, dict) and accepted["actor"] == "bo"
    public = recovery.backup.key.public(REGION)
    certificate = verify_certificate(Path(status.certificate).read_bytes(), [public], [])
    assert certificate.predicate.verdict == "incomplete, accepted"
    engine.dispose()


async def test_a_gap_that_nobody_accepts_publishes_nothing(recovery: Recovery) -> None:
    lose_a_segment(recovery)
    handle = await recovery.start()
    await until_restore(handle, "waiting")
    await handle.execute_update("give_up", DECISION, result_type=RestoreStatus)
    status = await handle.result()
    assert status.state == "given up"
    assert recovery.primary().epoch == 1
    assert not list(recovery.backup.directory.glob("*restored*"))


async def test_a_decision_that_nobody_asked_for_is_refused(recovery: Recovery) -> None:
    handle = await recovery.start(dry_run=True)
    with pytest.raises((WorkflowUpdateFailedError, RPCError)):
        await handle.execute_update("accept_gap", DECISION, result_type=RestoreStatus)
    assert (await handle.result()).state == "proved"


async def test_a_backup_that_cannot_be_trusted_fails_and_leaves_nothing(
    recovery: Recovery,
) -> None:
    backup = recovery.backup
    prefix = f"{REGION}/{backup.identity.id}/snapshots/"
    for found in list(backup.objects.list(prefix)):
        backup.objects.delete(found.name, if_generation=found.generation)
    handle = await recovery.start()
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert "no snapshot" in str(failed.value.cause)
    assert (await restore_status(handle)).state == "failed"
    assert recovery.primary().epoch == 1
    assert not list(backup.directory.glob("*restored*"))


async def test_two_restores_at_once_publish_one(recovery: Recovery) -> None:
    first, second = await recovery.start(), await recovery.start()
    ended = await asyncio.gather(first.result(), second.result(), return_exceptions=True)
    good = [each for each in ended if isinstance(each, RestoreStatus)]
    assert len(good) == 1 and good[0].state == "published"
    assert good[0].published and recovery.primary().store == good[0].published.store
    assert recovery.primary().epoch == 2


async def test_an_older_time_is_restored_beside_and_published(recovery: Recovery) -> None:
    seq = recovery.backup.seq() - 4
    status = await (await recovery.start(goal={"seq": seq})).result()
    assert status.state == "published" and status.report
    assert status.report.reached_seq <= seq < status.report.expected_seq


async def test_a_snapshot_by_hand_says_what_it_kept(recovery: Recovery) -> None:
    recovery.backup.work(3)
    report = await recovery.client.execute_workflow(
        "SnapshotRegion",
        SnapshotRequest(),
        id="snapshot/eu/1",
        task_queue=QUEUE,
        result_type=SnapshotReport,
    )
    assert report.documents == len(recovery.backup.documents())
    assert 0 < report.new_chunks <= report.chunks


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"goal": {"seq": 1, "receipt": 2}}, "seq and receipt"),
        ({"goal": {"seq": -1}}, "goal"),
        ({"store": "x"}, "store"),
        ({"reason": ""}, "reason"),
        ({"actor": ""}, "actor"),
    ],
)
async def test_bad_input_names_the_field(
    recovery: Recovery, request_: dict[str, object], field: str
) -> None:
    with pytest.raises(ValueError, match=field):
        await recovery.start(**request_)


async def test_what_the_store_took_while_it_was_restored_is_in_the_restored_one(
    recovery: Recovery,
) -> None:
    backup, rounds = recovery.backup, []

    def catch_up() -> None:  # before the first build the store gives nothing, later all it has
        rounds.append(backup.identity.id)
        if len(rounds) == 2:
            backup.ship()

    recovery.catch_up = catch_up  # type: ignore[method-assign]
    TenantKV(backup.engine, "acme").put("late", b"1")
    status = await (await recovery.start()).result()
    assert status.state == "published" and len(rounds) >= 3
    engine = open_engine(recovery.primary().database)
    found = TenantKV(engine, "acme").get("late")
    assert found is not None and found.value == b"1"
    engine.dispose()
