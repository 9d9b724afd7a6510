"""A view that does not change, does not hold up the write-ahead log, and leaves nothing behind."""

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from recovery_harness import Backup, documents
from sqlalchemy import Connection, Engine, text

from models.restore import Goal
from stores.changelog import last_seq
from stores.frozen_view import frozen
from stores.kv import TenantKV
from stores.pace import LONGEST_S, Pace
from stores.snapshots import Snapshotter
from stores.sql import StoreUnavailable, open_engine, read

pytest_plugins = ["databases", "recovery_fixtures"]


def _view(
    engine: Engine, *, beat: Callable[[], object] = lambda: None, directory: Path | None = None
) -> AbstractContextManager[tuple[Connection, int]]:
    return frozen(engine, last_seq, pace=Pace(1.0), beat=beat, directory=directory)


def _end(engine: Engine) -> int:
    with read(engine) as connection:
        return last_seq(connection)


def _large(backup: Backup) -> None:
    """More than a few pieces of a copy."""
    kv = TenantKV(backup.engine, "acme")
    for number in range(16):
        kv.put(f"large/{number}", bytes(250_000))


def _log(path: str) -> tuple[int, int, int]:
    """Whether somebody reads the log, its frames, and how many of them are in the file by now."""
    connection = sqlite3.connect(path)
    found: tuple[int, int, int] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    connection.close()
    return found


def test_a_view_is_of_one_state_while_writes_go_on(backup: Backup) -> None:
    _large(backup)
    then, seq = backup.documents(), _end(backup.engine)
    with _view(backup.engine, beat=lambda: backup.work(1)) as (connection, seen):
        backup.work(3)
        count = connection.execute(text("SELECT count(*) FROM kv_entry")).scalar()
        assert seen == last_seq(connection) == seq
    assert count == sum(1 for collection, _key in then if collection == "kv_entry")
    assert _end(backup.engine) > seq


def test_a_snapshot_is_of_one_state_while_its_copy_is_made(backup: Backup, target: Engine) -> None:
    _large(backup)
    backup.ship()
    then = backup.documents()
    with backup.shipper() as shipper:

        def write_on(done: int) -> None:
            if not done:
                backup.work(1)
                shipper.ship()

        manifest = Snapshotter(backup.engine, shipper).snapshot(write_on).manifest
    assert backup.restore(target, Goal(seq=manifest.seq)).complete
    assert documents(target) == then


def test_the_log_goes_back_into_the_file_while_a_view_is_read(tmp_path: Path) -> None:
    backup = Backup(open_engine(f"sqlite:///{tmp_path}/store.db"), tmp_path)
    _large(backup)
    with _view(backup.engine) as (_connection, _seen):
        backup.work(5)
        _busy, frames, moved = _log(f"{tmp_path}/store.db")
        assert frames > 0
        assert moved == frames


def test_what_writers_left_in_the_log_is_moved_for_them(tmp_path: Path) -> None:
    backup = Backup(open_engine(f"sqlite:///{tmp_path}/store.db"), tmp_path)
    backup.work(5)
    log = tmp_path / "store.db-wal"
    begun = _salt(log)
    with _view(backup.engine, beat=lambda: backup.work(1)) as (_connection, _seen):
        assert _salt(log) == begun
        backup.work(1)
        assert _salt(log) != begun  # it began anew, so all that was in it is in the file


def _salt(log: Path) -> bytes:
    """What changes when SQLite begins its log anew (file format, 4.1)."""
    return log.read_bytes()[16:24]


def test_a_copy_leaves_nothing_behind(tmp_path: Path) -> None:
    backup = Backup(open_engine(f"sqlite:///{tmp_path}/store.db"), tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    (work / "store.db.copy").write_bytes(b"of a process that was killed")
    names = []
    _large(backup)
    with _view(backup.engine, directory=work, beat=lambda: names.append(_names(work))) as (
        connection,
        _seen,
    ):
        assert _names(work) == {"store.db.copy.lock"}
        assert connection.execute(text("SELECT count(*) FROM kv_entry")).scalar() == 16
    assert names[0] == {"store.db.copy", "store.db.copy.lock"}
    assert _names(work) == {"store.db.copy.lock"}
    assert not [each for each in Path("/proc/self/fd").iterdir() if "db.copy " in _behind(each)]


def _behind(descriptor: Path) -> str:
    """What is open; of a file without a name it ends in "(deleted)"."""
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:  # it was open to list these
        return ""


def _names(directory: Path) -> set[str]:
    return {each.name for each in directory.iterdir()}


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    backup = Backup(open_engine(f"sqlite:///{tmp_path}/store.db"), tmp_path)

    def fail() -> None:
        raise StoreUnavailable("full", "no room")

    with pytest.raises(StoreUnavailable, match="no room"), _view(backup.engine, beat=fail):
        raise AssertionError
    assert not (tmp_path / "store.db.copy").exists()
    backup.work(1)
    with _view(backup.engine) as (_connection, seen):
        assert seen == _end(backup.engine)


class _Time:
    """A clock that moves by the pauses that it is asked for, and by work that a test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.mark.parametrize(("share", "pauses"), [(0.25, [0.3, 0.6]), (0.5, [0.1, 0.2]), (1.0, [])])
def test_a_pause_goes_with_the_work_before_it(share: float, pauses: list[float]) -> None:
    time = _Time()
    pace = Pace(share, clock=lambda: time.now, sleep=time.sleep)
    for worked in (0.1, 0.2):
        time.now += worked
        pace.rest()
    assert time.pauses == pytest.approx(pauses)


def test_pauses_are_bounded_each_and_together() -> None:
    time = _Time()
    pace = Pace(0.1, most_s=2.5, clock=lambda: time.now, sleep=time.sleep)
    for _ in range(5):
        time.now += 60
        pace.rest()
    assert time.pauses == pytest.approx([LONGEST_S, LONGEST_S, 0.5])
