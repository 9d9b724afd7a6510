"""What a drain has decided comes back with the store: nothing is forgotten or made twice."""

from pathlib import Path

import pytest
from recovery_harness import REGION, Backup, documents
from sqlalchemy import Engine, delete

from models.buffer import DrainReport
from models.tables_buffer import BufferConflictRow, BufferMarkRow
from stores.buffered_kv import Base, Buffer, BufferedKV
from stores.changelog import protect
from stores.changelog_sql import removal_sql
from stores.drain import conflicts_of, drain
from stores.kv import TenantKV
from stores.spool import Spool
from stores.spool_files import Contents, read_spool
from stores.sql import table, write

pytest_plugins = ["databases", "recovery_fixtures"]


@pytest.fixture
def drained(backup: Backup, tmp_path: Path) -> tuple[DrainReport, Contents]:
    """An outage of which the drain left a conflict, and a write that a later one replaced."""
    live = TenantKV(backup.engine, "tenant-1")
    live.put("theirs", b"before")
    backup.work(6)
    backup.snapshot()
    spool = Spool(tmp_path / "spool", epoch=2)
    base = Base(lambda tenant: TenantKV(backup.engine, tenant), 0.0)
    buffered = BufferedKV(Buffer(spool, base), "tenant-1")
    seen = live.get("theirs")
    assert seen is not None
    buffered.put("theirs", b"acknowledged", expected_version=seen.version)
    first = buffered.put("replaced", b"1")
    buffered.put("replaced", b"2", expected_version=first)
    buffered.put("gone", b"1")
    buffered.delete("gone")
    live.put("theirs", b"meanwhile")
    contents = read_spool(spool.directory)
    assert contents is not None
    report = drain(backup.engine, contents, rebuilt=True)
    assert (report.applied, report.conflicts) == (4, 1)
    spool.close()
    return report, contents


def test_conflicts_and_marks_survive_a_second_disaster(
    backup: Backup, drained: tuple[DrainReport, Contents], target: Engine
) -> None:
    report, contents = drained
    backup.ship()
    assert backup.restore(target).complete
    assert documents(target) == backup.documents()

    # The acknowledged value is nowhere else: the spool was cleared after the drain.
    [kept] = conflicts_of(target, report.proof.spool)
    assert (kept.tenant, kept.key, kept.why) == ("tenant-1", "theirs", "expectation")
    assert kept == report.first_conflicts[0]
    # A drain that was not cleared goes on in the restored store, and decides nothing anew.
    again = drain(target, contents, rebuilt=True)
    assert (again.applied, again.conflicts, again.repeated) == (4, 1, 5)
    found = TenantKV(target, "tenant-1").get("replaced")
    assert found is not None and found.value == b"2"


def test_a_drain_whose_marks_are_lost_decides_the_same(
    backup: Backup, drained: tuple[DrainReport, Contents]
) -> None:
    """A write that another one replaced is not taken for a stranger's."""
    report, contents = drained
    with write(backup.engine) as connection:
        connection.execute(delete(table(BufferMarkRow)))
        connection.execute(delete(table(BufferConflictRow)))
    again = drain(backup.engine, contents, rebuilt=True)
    assert (again.applied, again.conflicts) == (report.applied, report.conflicts)
    found = TenantKV(backup.engine, "tenant-1").get("replaced")
    assert found is not None and found.value == b"2"


def test_a_conflict_is_sealed_by_its_tenants_key(
    backup: Backup, drained: tuple[DrainReport, Contents], target: Engine
) -> None:
    backup.ship()
    backup.seals.destroyed.add("tenant-1")
    report = backup.restore(target)
    assert report.complete and report.erased
    assert not conflicts_of(target, drained[0].proof.spool)


def test_rows_from_before_their_table_was_protected_are_logged(
    backup: Backup, drained: tuple[DrainReport, Contents], target: Engine
) -> None:
    """A store of schema version 1: its drain's tables have rows, and no triggers."""
    dialect = backup.engine.dialect.name
    with write(backup.engine, lock="schema") as connection:
        connection.execute(delete(table(BufferMarkRow)))
        connection.execute(delete(table(BufferConflictRow)))
    backup.ship()
    with write(backup.engine, lock="schema") as connection:
        for statement in removal_sql(dialect):
            if "buffer_" in statement:
                connection.exec_driver_sql(statement)
        connection.exec_driver_sql("UPDATE store_identity SET triggers = 'older'")
    drain(backup.engine, drained[1], rebuilt=True)

    protect(backup.engine, REGION)

    assert conflicts_of(backup.engine, drained[0].proof.spool)
    backup.ship()
    backup.snapshot()
    assert backup.restore(target).complete
    assert documents(target) == backup.documents()
