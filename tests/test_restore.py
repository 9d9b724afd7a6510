"""Ship, snapshot, restore: what comes back is what was signed, or the restore says what is not."""

import random
import time
from datetime import UTC, datetime

import pytest
from recovery_harness import REGION, Backup, documents, store_of
from sqlalchemy import Engine, text

from models.changelog import ChangelogBroken
from models.restore import Goal
from stores.changelog import changes_after
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.snapshots import SnapshotMismatch, Snapshotter
from stores.sql import write

pytest_plugins = ["databases", "recovery_fixtures"]


def test_a_restore_brings_back_every_document(backup: Backup, target: Engine) -> None:
    backup.work(20)
    backup.snapshot()
    backup.work(20)
    backup.ship()
    backup.work(7)
    backup.ship()

    report = backup.restore(target)

    assert documents(target) == backup.documents()
    assert report.complete and report.root_signed and not report.findings
    assert (report.documents, report.erased) == (len(backup.documents()), 0)
    assert report.receipts == backup.ledger.head().size
    assert report.changes_applied == report.reached_seq - report.base_seq > 0
    assert [phase.name for phase in report.phases] == [
        "choose",
        "load snapshot",
        "replay changelog",
        "healing check",
        "verify receipts",
        "adopt",
    ]


def test_a_restored_store_is_a_store_of_its_own(backup: Backup, target: Engine) -> None:
    backup.work(10)
    backup.snapshot()
    report = backup.restore(target)

    assert store_of(target) == report.restored_store != backup.identity.id
    restored = Backup(target, backup.directory)
    restored.tree_file = backup.directory / "restored.db"
    restored.written = backup.written
    restored.work(10)
    assert changes_after(target, report.reached_seq, limit=1)[0].change.epoch == 2
    restored.snapshot()
    restored.work(3)
    restored.ship()
    assert restored.head() != backup.head()


def test_changes_that_do_not_fit_into_memory_are_replayed(
    backup: Backup, target: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.restore_build.MOST_FOLDED", 5)
    monkeypatch.setattr("stores.shipping.MOST_CHANGES", 7)
    backup.work(10)
    backup.snapshot()
    backup.work(30)
    assert backup.ship() > 5
    report = backup.restore(target)
    assert report.complete
    assert documents(target) == backup.documents()


@pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 1.0])
def test_any_change_is_a_goal_and_no_transaction_is_cut(
    backup: Backup, target: Engine, where: float
) -> None:
    backup.work(5)
    backup.snapshot()
    start, states = backup.seq(), {}
    states[start] = backup.documents()
    for _ in range(8):
        backup.work(1)
        backup.ship()
        states[backup.seq()] = backup.documents()
    wanted = start + round((max(states) - start) * where)

    report = backup.restore(target, Goal(seq=wanted))

    reached = max(seq for seq in states if seq <= wanted)
    # Several transactions are in one round of work: what was reached may lie between two of them.
    assert reached <= report.reached_seq <= wanted
    assert report.complete
    if report.reached_seq in states:
        assert documents(target) == states[report.reached_seq]


def test_a_time_is_a_goal(backup: Backup, target: Engine) -> None:
    backup.work(5)
    backup.snapshot()
    backup.work(5)
    backup.ship()
    then, at = backup.documents(), datetime.now(UTC)
    time.sleep(0.01)  # a change's time is in whole milliseconds
    TenantKV(backup.engine, "acme").put("late", b"1")
    backup.ship()
    report = backup.restore(target, Goal(at=at))
    assert documents(target) == then
    assert report.last_change_at is not None and report.last_change_at <= at


def test_a_receipt_is_a_goal(backup: Backup, target: Engine) -> None:
    backup.work(5)
    backup.snapshot()
    backup.work(20)
    wanted = backup.ledger.head().size - 3
    backup.ship()
    report = backup.restore(target, Goal(receipt=wanted))
    assert report.complete and report.receipts > wanted
    assert Ledger(target, REGION).head().size == report.receipts < backup.ledger.head().size


def test_an_older_snapshot_is_used_for_an_older_goal(backup: Backup, target: Engine) -> None:
    backup.work(5)
    backup.snapshot()
    first, then = backup.seq(), backup.documents()
    backup.work(5)
    backup.snapshot()
    report = backup.restore(target, Goal(seq=first))
    assert (report.base_seq, report.reached_seq) == (first, first)
    assert documents(target) == then


def test_unchanged_chunks_are_not_written_again(backup: Backup) -> None:
    backup.work(10)
    backup.snapshot()
    chunks = {each.name for each in backup.objects.list(f"{REGION}/{backup.identity.id}/chunks/")}
    TenantKV(backup.engine, "acme").put("new", b"1")
    with backup.shipper() as shipper:
        manifest = Snapshotter(backup.engine, shipper).snapshot().manifest
    shared = {chunk.name for chunk in manifest.chunks} & chunks
    assert shared and len(shared) < len(manifest.chunks)


def test_a_snapshot_is_consistent_while_writes_go_on(
    backup: Backup, target: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup.work(10)
    with backup.shipper() as shipper:
        snapshotter = Snapshotter(backup.engine, shipper)
        keep = snapshotter._keep

        def keep_and_write(*given: object) -> object:
            backup.work(1)
            shipper.ship()
            return keep(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(snapshotter, "_keep", keep_and_write)
        then = backup.documents()
        manifest = snapshotter.snapshot().manifest
    assert backup.restore(target, Goal(seq=manifest.seq)).complete
    assert documents(target) == then


# --- what a damaged store looks like ---


def _tamper(engine: Engine, statement: str) -> None:
    """Change rows behind the triggers' back, as a bad disk or the database's owner can."""
    with write(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text(statement))
            return
        made = connection.execute(
            text("SELECT sql FROM sqlite_master WHERE name LIKE 'kv_entry_logged_%'")
        ).scalars()
        triggers = list(made)
        for trigger in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {trigger.split()[2]}")
        connection.execute(text(statement))
        for trigger in triggers:
            connection.exec_driver_sql(trigger)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE kv_entry SET version = version + 1 WHERE tenant = 'tenant-1'",
        "DELETE FROM kv_entry WHERE tenant = 'tenant-1'",
    ],
)
def test_documents_changed_without_a_trace_are_found(backup: Backup, statement: str) -> None:
    backup.work(10)
    backup.snapshot()
    _tamper(backup.engine, statement)
    with pytest.raises(SnapshotMismatch, match="state root"):
        backup.snapshot()
    backup.tree_file = backup.directory / "anew.db"
    with pytest.raises(ChangelogBroken, match="without a trace"):
        backup.ship()


def test_a_change_of_what_was_tampered_with_does_not_follow(backup: Backup) -> None:
    backup.work(10)
    backup.snapshot()
    _tamper(backup.engine, "UPDATE kv_entry SET version = 99 WHERE tenant = 'tenant-1'")
    for number in range(7):
        TenantKV(backup.engine, "tenant-1").put(f"key/{number}/é", b"x")
    with pytest.raises(ChangelogBroken, match="does not follow"):
        backup.ship()


# --- many histories ---


@pytest.mark.parametrize("seed", range(4))
def test_seeded_histories_come_back(backup: Backup, target: Engine, seed: int) -> None:
    dice = random.Random(seed)
    backup.work(3)
    backup.snapshot()
    for _ in range(12):
        backup.work(dice.randint(0, 4))
        if dice.random() < 0.5:
            backup.ship()
        if dice.random() < 0.2:
            backup.snapshot()
        if dice.random() < 0.1:
            backup.tree_file = backup.directory / f"tree-{dice.randint(0, 99)}.db"
    backup.ship()
    report = backup.restore(target)
    assert report.complete
    assert documents(target) == backup.documents()
