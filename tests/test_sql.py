"""Transactions that exclude each other, and troubles that are named for what they are."""

import multiprocessing
import os
import pickle
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from stores import sql
from stores.sql import (
    StoreUnavailable,
    create_all,
    engine_for,
    open_engine,
    open_existing,
    read,
    table,
    write,
)

pytest_plugins = ["databases"]

SPAWN = multiprocessing.get_context("spawn")


def count_up(url: str, times: int) -> None:
    mine = open_engine(url)
    for _ in range(times):
        with write(mine) as connection:
            seen = connection.execute(text("SELECT n FROM counter")).scalar_one()
            connection.execute(text("UPDATE counter SET n = :n"), {"n": seen + 1})


def create_everything(url: str) -> None:
    create_all(open_engine(url))


@pytest.fixture
def counter(empty_database: str) -> Engine:
    opened = open_engine(empty_database)
    with write(opened) as connection:
        connection.execute(text("CREATE TABLE counter (n INTEGER)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))
    return opened


def value(counter: Engine) -> int:
    with read(counter) as connection:
        return int(connection.execute(text("SELECT n FROM counter")).scalar_one())


def test_no_update_is_lost_between_threads_and_processes(
    counter: Engine, empty_database: str
) -> None:
    processes = [SPAWN.Process(target=count_up, args=(empty_database, 25)) for _ in range(2)]
    threads = [threading.Thread(target=count_up, args=(empty_database, 25)) for _ in range(3)]
    for worker in (*processes, *threads):
        worker.start()
    for worker in (*processes, *threads):
        worker.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert value(counter) == 125


def test_all_processes_may_create_the_tables_at_once(empty_database: str) -> None:
    processes = [SPAWN.Process(target=create_everything, args=(empty_database,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with read(open_engine(empty_database)) as connection:
        assert connection.execute(text("SELECT count(*) FROM tenant")).scalar_one() == 0


def test_an_error_in_the_block_leaves_nothing_behind(counter: Engine) -> None:
    with pytest.raises(RuntimeError), write(counter) as connection:
        connection.execute(text("UPDATE counter SET n = 7"))
        raise RuntimeError
    assert value(counter) == 0


def test_a_reader_sees_one_snapshot(counter: Engine) -> None:
    with read(counter) as connection:
        before = connection.execute(text("SELECT n FROM counter")).scalar_one()
        with write(counter) as other:
            other.execute(text("UPDATE counter SET n = 9"))
        assert connection.execute(text("SELECT n FROM counter")).scalar_one() == before
    assert value(counter) == 9


def test_a_second_writer_waits_and_then_is_told_that_the_store_is_locked(
    counter: Engine, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "BUSY_TIMEOUT_MS", 150)
    impatient = open_engine(empty_database)
    with write(counter), pytest.raises(StoreUnavailable) as trouble, write(impatient):
        pass
    assert trouble.value.kind == "locked"
    assert "locked" in str(trouble.value)
    count_up(empty_database, 1)
    assert value(counter) == 1


def test_writers_under_different_locks_do_not_wait_on_postgresql(
    counter: Engine, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if counter.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer a file")
    monkeypatch.setattr(sql, "BUSY_TIMEOUT_MS", 150)
    with write(counter, lock="one"), write(open_engine(empty_database), lock="another"):
        pass


def test_mistakes_in_the_sql_pass_through(counter: Engine) -> None:
    with pytest.raises(DBAPIError), read(counter) as connection:
        connection.execute(text("SELECT * FROM nowhere"))


def test_broken_constraints_pass_through(engine: Engine) -> None:
    row = {"id": "t", "shard": "eu-404", "size": 1, "state": "active"}
    with pytest.raises(IntegrityError), write(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO tenant (id, shard, region, zone, size, state, created_at) "
                "VALUES (:id, :shard, 'eu', 'a', :size, :state, '2026-01-01 00:00:00+00:00')"
            ),
            row,
        )


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    small = open_engine(f"sqlite:///{tmp_path}/small.db")
    with write(small) as connection:
        connection.execute(text("CREATE TABLE big (data BLOB)"))
    with pytest.raises(StoreUnavailable) as trouble, write(small) as connection:
        connection.execute(text("PRAGMA max_page_count = 10"))
        connection.execute(text("INSERT INTO big VALUES (zeroblob(1000000))"))
    assert trouble.value.kind == "full"
    with read(small) as connection:
        assert connection.execute(text("SELECT count(*) FROM big")).scalar_one() == 0


def test_a_read_only_store_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with write(open_engine(url)) as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))
    frozen = open_engine(url)
    with read(frozen) as connection:
        connection.execute(text("PRAGMA query_only = ON"))
    with pytest.raises(StoreUnavailable) as trouble, write(frozen) as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
    assert trouble.value.kind == "read-only"


def test_a_connection_that_became_read_only_is_replaced(tmp_path: Path) -> None:
    opened = open_engine(f"sqlite:///{tmp_path / 'store.db'}")
    with write(opened) as connection:
        connection.execute(text("CREATE TABLE counter (n INTEGER)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))
    with opened.connect() as connection:  # as if the file had been opened on a read-only disk
        connection.exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable, match="read-only"), write(opened) as connection:
        connection.execute(text("UPDATE counter SET n = 1"))
    with write(opened) as connection:
        connection.execute(text("UPDATE counter SET n = 2"))
    assert value(opened) == 2


def test_a_read_only_postgresql_is_named(counter: Engine) -> None:
    if counter.dialect.name != "postgresql":
        pytest.skip("the SQLite case is above")
    with pytest.raises(StoreUnavailable) as trouble, write(counter) as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        connection.execute(text("UPDATE counter SET n = 1"))
    assert trouble.value.kind == "read-only"


def test_a_refused_connection_is_named() -> None:
    gone = open_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    with pytest.raises(StoreUnavailable) as trouble, read(gone):
        pass
    assert trouble.value.kind == "unreachable"


def test_a_connection_that_the_server_ended_is_replaced(
    counter: Engine, empty_database: str
) -> None:
    if counter.dialect.name != "postgresql":
        pytest.skip("SQLite has no server")
    with pytest.raises(StoreUnavailable) as trouble, write(counter) as connection:
        own = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with read(open_engine(empty_database)) as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": own})
        connection.execute(text("UPDATE counter SET n = 1"))
    assert trouble.value.kind == "unreachable"
    assert value(counter) == 0


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable) as trouble:
        open_engine(f"sqlite:///{tmp_path}/file/store.db")
    assert trouble.value.kind == "unreachable"


def test_a_file_that_is_no_database_is_not_called_unavailable(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"certainly not a database" * 100)
    with (
        pytest.raises((DBAPIError, sqlite3.DatabaseError)),
        read(open_engine(f"sqlite:///{tmp_path}/store.db")) as connection,
    ):
        connection.execute(text("SELECT 1 FROM sqlite_master"))


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://a/b", "postgresql://a/b", "nonsense"]
)
def test_other_urls_are_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"^database: "):
        open_engine(url)


def test_sqlite_is_durable_and_checks_foreign_keys(tmp_path: Path) -> None:
    opened = open_engine(f"sqlite:///{tmp_path}/deep/er/store.db")
    with read(opened) as connection:
        settings = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_one_engine_a_process_and_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    assert engine_for(url) is engine_for(url)
    assert engine_for(url) is not engine_for(f"sqlite:///{tmp_path}/other.db")


def test_a_forked_child_gets_an_engine_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    parents = engine_for(url)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert engine_for(url) is not parents


def test_trouble_survives_pickling() -> None:
    trouble = pickle.loads(pickle.dumps(StoreUnavailable("full", "no room")))
    assert (trouble.kind, str(trouble)) == ("full", "store full: no room")


def test_table_gives_the_core_table() -> None:
    from models.tables_fleet import ShardRow

    assert table(ShardRow).name == "shard"


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_written_into_a_file_that_is_not_there_any_more(
    tmp_path: Path, replaced: bool
) -> None:
    """Who has a deleted file open could write there, and nobody would ever see it."""
    url = f"sqlite:///{tmp_path}/a.db"
    engine = open_engine(url)
    with write(engine) as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))
    for path in tmp_path.glob("a.db*"):
        path.unlink()
    if replaced:
        (tmp_path / "a.db").touch()
    with (
        pytest.raises(StoreUnavailable, match=r"a\.db.*(No such file|replaced)") as caught,
        write(engine) as connection,
    ):
        connection.execute(text("INSERT INTO t VALUES (1)"))
    assert caught.value.kind == "unreachable"
    with read(engine) as connection:  # what it had can still be backed up
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 0
    engine.dispose()
    if not replaced:
        with pytest.raises(StoreUnavailable, match="is not there any more"), read(engine):
            pass
        assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_lost_while_it_is_opened_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "region.db"
    create_all(open_engine(f"sqlite:///{path}"))
    existing = open_existing(f"sqlite:///{path}")
    with read(existing):
        pass
    existing.dispose()
    for each in tmp_path.iterdir():
        each.unlink()
    monkeypatch.setattr(Path, "exists", lambda _path: True)  # it is lost right after the look
    for engine in (existing, open_existing(f"sqlite:///{path}")):
        with pytest.raises(StoreUnavailable) as lost, read(engine):
            pass
        assert lost.value.kind == "unreachable"
    assert list(tmp_path.iterdir()) == []
