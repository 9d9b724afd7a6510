"""One unchanging view of a store for as long as it is needed, at no cost to its writers.

PostgreSQL keeps what a transaction sees without being asked. SQLite's write-ahead log instead grows
for as long as anybody reads, since nothing of it may go back into the file; whoever writes next
then moves it all. So a SQLite store is copied page by page, which takes seconds, and the copy is
what is read for minutes.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, StaticPool, create_engine

from stores.files import file_lock
from stores.pace import Pace
from stores.sql import checkpoint, read

PAGES = 256
"""Copied together, a MiB: it is flushed at once, since a commit may have to wait for the flush."""

FREED = 16 * 1024 * 1024
"""Bytes of a copy that are freed together."""

_Seen = TypeVar("_Seen")


@contextmanager
def frozen(
    engine: Engine,
    look: Callable[[Connection], _Seen],
    *,
    pace: Pace,
    beat: Callable[[], object],
    directory: Path | None = None,
) -> Iterator[tuple[Connection, _Seen]]:
    """The store as it is now, and what ``look`` made of that very state in a short transaction.

    Args:
        pace: rests between pieces of a copy.
        beat: called there too.
        directory: where a copy is made, as large as the store; beside it when not given. The copy
            has no name by the time that it is read: it goes away with the process at the latest.

    Raises:
        StoreUnavailable: the store does not answer, or the directory is full.
    """
    if engine.dialect.name != "sqlite":
        with read(engine) as connection:
            yield connection, look(connection)
        return
    assert engine.url.database
    store = Path(engine.url.database)
    place = (directory or store.parent) / f"{store.name}.copy"
    with _turn(place, beat), read(engine) as connection:
        seen = look(connection)
        copy, handle = _copied(connection, place, pace, beat)
    view = create_engine("sqlite://", creator=lambda: copy, poolclass=StaticPool)
    try:
        checkpoint(engine)
        with read(view) as connection:
            yield connection, seen
    finally:
        view.dispose()
        copy.close()
        _let_go(handle, pace)


def _let_go(handle: int, pace: Pace) -> None:
    """Free a file that has no name any more piece by piece: a commit waits while one is freed."""
    try:
        for size in range(os.fstat(handle).st_size, 0, -FREED):
            os.ftruncate(handle, max(0, size - FREED))
            pace.rest()
    finally:
        os.close(handle)


def _copied(
    connection: Connection, place: Path, pace: Pace, beat: Callable[[], object]
) -> tuple[sqlite3.Connection, int]:
    """A copy of what the transaction sees, and its file, which goes away with both."""
    place.unlink(missing_ok=True)  # of a process that was killed
    handle = os.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    copy = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
    try:
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = OFF", "synchronous = OFF"):
            copy.execute(f"PRAGMA {setting}")
        _copy(connection.connection.driver_connection, copy, handle, pace, beat)
        copy.execute("PRAGMA journal_mode = OFF")  # the copied header says WAL, which needs a name
    except BaseException:
        copy.close()
        os.close(handle)
        raise
    finally:
        place.unlink()
    return copy, handle


def _copy(
    source: Any, copy: sqlite3.Connection, handle: int, pace: Pace, beat: Callable[[], object]
) -> None:
    def step(_status: int, _left: int, _pages: int) -> None:
        os.fdatasync(handle)
        beat()
        pace.rest()

    source.backup(copy, pages=PAGES, progress=step)


@contextmanager
def _turn(place: Path, beat: Callable[[], object]) -> Iterator[None]:
    """One copy at a time in one place."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(file_lock(place.with_name(f"{place.name}.lock"), wait=False))
                break
            except BlockingIOError:
                beat()
                time.sleep(0.2)
        yield
