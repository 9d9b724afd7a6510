"""Documents read back by several processes: each once, and whatever becomes of a helper."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from recovery_harness import Backup, documents
from sqlalchemy import Engine, text

from stores import parallel_read
from stores.bulk import insert_rows
from stores.collections import BY_NAME, COLLECTIONS
from stores.document_scan import scan_rows, scan_span, spans
from stores.kv import value_digest
from stores.leaf_spool import LeafSpool
from stores.parallel_read import Helper, ReadBack
from stores.read_back import read_back
from stores.restore_build import Builder, Course
from stores.restore_proof import RestoreMismatch
from stores.sql import create_all, open_engine, read, write

pytest_plugins = ["databases", "recovery_fixtures"]

KV = BY_NAME["kv_entry"]
SIZES = [1, 2, 3, 7, 100]
MOMENT_S = 0.005


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Engine]:
    """A store in SQLite with a few documents of every sort."""
    engine = open_engine(f"sqlite:///{tmp_path}/store.db")
    Backup(engine, tmp_path).work(40)
    yield engine
    engine.dispose()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans of three documents, and processors for two helpers."""
    monkeypatch.setattr(parallel_read, "SPAN", 3)
    monkeypatch.setattr(parallel_read, "PARALLEL_FROM", 1)
    monkeypatch.setattr(parallel_read, "processors", lambda: 3)


@contextmanager
def reading(engine: Engine) -> Iterator[ReadBack]:
    """A reading that has begun, with its helpers."""
    with read(engine) as connection, LeafSpool() as found:
        begun = ReadBack(connection, COLLECTIONS, found, lambda _documents: None)
        with begun.helped():
            yield begun


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(MOMENT_S)


def root_of(engine: Engine) -> tuple[int, bytes]:
    with read(engine) as connection, LeafSpool() as found:
        return read_back(connection, COLLECTIONS, found), found.root()


def helpers_of(process: int) -> list[psutil.Process]:
    found = psutil.Process(process).children()
    return [each for each in found if any("leaf_reader" in part for part in each.cmdline())]


@pytest.mark.parametrize("size", SIZES)
def test_spans_hold_every_document_once_in_order(store: Engine, size: int) -> None:
    with read(store) as connection:
        for collection in COLLECTIONS:
            whole = [row for part in scan_rows(connection, collection) for row in part]
            found = [
                [row for part in scan_span(connection, span) for row in part]
                for span in spans(connection, collection, size)
            ]
            assert [row for part in found for row in part] == whole
            assert all(len(part) <= size for part in found)


def test_helpers_alone_find_every_document(store: Engine, small: None) -> None:
    expected, root = root_of(store)
    with reading(store) as begun:
        assert len(helpers_of(os.getpid())) == 2
        until(lambda: begun.documents == expected)
        assert (begun.finish(), begun.found.root()) == (expected, root)
    assert not helpers_of(os.getpid())


@pytest.mark.usefixtures("small")
def test_what_a_lost_helper_leaves_is_read_all_the_same(store: Engine) -> None:
    with reading(store) as begun:
        for helper in helpers_of(os.getpid()):
            helper.kill()
        assert (begun.finish(), begun.found.root()) == root_of(store)


@pytest.mark.usefixtures("small")
def test_without_a_helper_everything_is_read(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with reading(store) as begun:
        assert (begun.finish(), begun.found.root()) == root_of(store)


@pytest.mark.usefixtures("small")
def test_one_processor_starts_nothing(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_read, "processors", lambda: 1)
    with reading(store) as begun:
        assert not helpers_of(os.getpid())
        assert (begun.finish(), begun.found.root()) == root_of(store)


@pytest.mark.usefixtures("small")
def test_a_value_that_rotted_is_named_whoever_reads_it(store: Engine) -> None:
    with write(store) as connection:
        connection.execute(text("UPDATE kv_entry SET value = x'00' WHERE tenant = 'tenant-2'"))
    named = r"kv_entry.*tenant-2.*not that of its digest"
    with pytest.raises(RestoreMismatch, match=named), reading(store) as begun:
        begun.finish()
    assert not helpers_of(os.getpid())


@pytest.mark.usefixtures("small")
def test_text_instead_of_bytes_is_no_value(store: Engine) -> None:
    with write(store) as connection:
        connection.execute(text("UPDATE kv_entry SET value = CAST(value AS TEXT)"))
    with pytest.raises(RestoreMismatch, match="not that of its digest"), reading(store) as begun:
        begun.finish()


@pytest.mark.usefixtures("small")
def test_an_error_in_the_block_leaves_no_process(store: Engine) -> None:
    with pytest.raises(ZeroDivisionError), reading(store):
        raise ZeroDivisionError
    assert not helpers_of(os.getpid())


@pytest.fixture
def shipped(tmp_path: Path) -> Iterator[tuple[Backup, Engine]]:
    """A store with its backup, and an empty database."""
    engine = open_engine(f"sqlite:///{tmp_path}/source.db")
    target = open_engine(f"sqlite:///{tmp_path}/target.db")
    backup = Backup(engine, tmp_path)
    backup.work(20)
    backup.snapshot()
    backup.work(20)
    backup.ship()
    yield backup, target
    engine.dispose()
    target.dispose()


@pytest.mark.usefixtures("small")
def test_a_restore_is_healed_with_helpers(shipped: tuple[Backup, Engine]) -> None:
    backup, target = shipped
    report = backup.restore(target)
    assert report.complete and report.documents == len(backup.documents())
    assert documents(target) == backup.documents()
    assert not helpers_of(os.getpid())


DAMAGE = [
    "DELETE FROM kv_entry WHERE rowid = (SELECT max(rowid) FROM kv_entry)",
    "UPDATE kv_space SET used = used + 1 WHERE tenant = 'tenant-1'",
    "INSERT INTO kv_space (tenant, clock, used) VALUES ('tenant-9', 1, 0)",
]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_lost_after_the_load_is_found_with_helpers(
    shipped: tuple[Backup, Engine], damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, target = shipped
    replay = Builder.replay

    def damaged(self: Builder, course: Course, count: Callable[[int], None]) -> None:
        replay(self, course, count)
        with write(target) as connection:
            assert connection.execute(text(damage)).rowcount == 1

    monkeypatch.setattr(Builder, "replay", damaged)
    with pytest.raises(RestoreMismatch, match="should be"):
        backup.restore(target)
    assert not helpers_of(os.getpid())


def test_a_helper_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/store.db")
    create_all(engine)
    engine.dispose()
    program = (
        "import sys, time\n"
        "from stores.parallel_read import Helper\n"
        "helper = Helper(sys.argv[1])\n"
        "print(helper.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "store.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        helper = int(parent.stdout.readline())
        assert psutil.pid_exists(helper)
        parent.send_signal(signal.SIGKILL)
    until(lambda: not psutil.pid_exists(helper) or psutil.Process(helper).status() == "zombie")


def test_keys_of_every_sort_bound_a_span(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/store.db")
    create_all(engine)
    names = [("a", b"\0"), ("a", b"\xff\0"), ("a", b"\xff\0\0"), ("é", b""), ("é", b'"')]
    rows = [(tenant, key, b"v", value_digest(tenant, key, b"v"), 1) for tenant, key in names]
    with write(engine) as connection:
        insert_rows(connection, KV.table, ("tenant", "key", "value", "sha256", "version"), rows)
    with read(engine) as connection, LeafSpool() as found:
        helper = Helper(str(tmp_path / "store.db"))
        leaves = []
        for span in spans(connection, KV, 1):
            helper.ask(span)
            leaves.append(helper.answer())
        helper.close()
        found.take(b"".join(leaves))
        assert [len(each) for each in leaves] == [64] * len(names) + [0]
    assert (len(names), found.root()) == root_of(engine)
    engine.dispose()
