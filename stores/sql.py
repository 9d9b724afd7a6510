"""The only door to SQL databases: engines, transactions and what can go wrong with them.

SQLite (write-ahead log, every commit flushed to disk) and PostgreSQL behave alike behind it:

* `write` admits one writer at a time and starts it on the newest committed state, so what it reads
  cannot change before it commits;
* `read` sees one snapshot over all its statements;
* a store that is locked, read-only, full or out of reach raises `StoreUnavailable`, which a caller
  may retry. Mistakes in the SQL or broken constraints pass through unchanged.
"""

import hashlib
import importlib
import os
import pkgutil
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, Table, create_engine, event, inspect, text
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import URL, make_url
from sqlmodel import SQLModel

import models
from stores.changelog_sql import FENCED
from stores.retention import expected_guards, guard, guards
from stores.schema import complete, lacks

BUSY_TIMEOUT_MS = 10_000
"""How long a writer waits for another one before it is told that the store is locked."""

FLEET_LOCK = "fleet"
"""The lock of everything that commits together with a receipt."""

_WRITES = "chainring_writes"

_SQLITE_TROUBLE = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "input/output error",
    sqlite3.SQLITE_CANTOPEN: "unreachable",
}

_STAYS = frozenset({"read-only", "unreachable", "input/output error"})
"""Troubles that a connection keeps: SQLite opens a file on a read-only disk for reading only, and
a PostgreSQL server that lost its place to another one stays a standby."""

# SQLSTATE codes and classes, the longest prefix first (PostgreSQL manual, appendix A).
_POSTGRES_TROUBLE = {
    "25006": "read-only",
    "40001": "locked",
    "40P01": "locked",
    "53100": "full",
    "55P03": "locked",
    "57P": "unreachable",
    "08": "unreachable",
    "53": "overloaded",
    "58": "input/output error",
}


class StoreUnavailable(Exception):
    """The database cannot serve now, and nothing was changed; trying again later may succeed.

    ``kind`` is one of: locked, read-only, full, unreachable, overloaded, input/output error,
    fenced (another store is the region's primary; this one never serves a write again).
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"store {kind}: {detail}")
        self.kind = kind
        self.detail = detail

    def __reduce__(self) -> tuple[type["StoreUnavailable"], tuple[str, str]]:
        return StoreUnavailable, (self.kind, self.detail)


def open_engine(url: str) -> Engine:
    """An engine for ``sqlite:///path`` or ``postgresql+psycopg://...``.

    Connects only when first used. The directory of a SQLite file is created.

    Raises:
        ValueError: the URL is of no known kind.
        StoreUnavailable: the directory cannot be created.
    """
    try:
        address = make_url(url)
    except sa_exc.ArgumentError as error:
        raise ValueError(f"database: {error}") from None
    if address.drivername == "sqlite":
        return _open_sqlite(address)
    if address.drivername == "postgresql+psycopg":
        return _open_postgres(address)
    raise ValueError(
        f"database: {address.drivername!r} is not supported, "
        "use sqlite:///path or postgresql+psycopg://user@host/name"
    )


def open_existing(url: str) -> Engine:
    """`open_engine` for a database that is there: SQLite would make a new one for a lost one.

    Raises:
        StoreUnavailable: there is no such file.
    """
    address = make_url(url)
    if address.drivername != "sqlite":
        return open_engine(url)
    if not Path(address.database or "").exists():
        raise StoreUnavailable("unreachable", f"{address.database} is not there")
    return _open_sqlite(address, made=True)


def open_scratch(url: str) -> Engine:
    """An engine for building a whole database, which is thrown away unless `settle` returns.

    Nothing that is written through it is durable before that, nor whole after a crash.
    """
    engine = open_engine(url)
    event.listen(engine, "connect", _make_hasty)
    return engine


def settle(url: str) -> None:
    """Make everything durable that was written through `open_scratch`, whose engine is disposed.

    Raises:
        StoreUnavailable: it could not be made durable.
    """
    engine = open_engine(url)
    try:
        if engine.dialect.name == "sqlite":
            assert engine.url.database
            with open(engine.url.database, "rb") as file:  # noqa: PTH123 - a handle to flush
                os.fsync(file.fileno())
        with write(engine, lock="schema") as connection:  # commits, and flushes all before it
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_current_xact_id()"))
    finally:
        engine.dispose()


def _make_hasty(connection: Any, _record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
    else:
        connection.execute("SET synchronous_commit = off")
        connection.commit()


_engines: dict[tuple[int, str], Engine] = {}
_engines_guard = threading.Lock()


def engine_for(url: str) -> Engine:
    """The engine of this process for ``url``: opened once, shared by all that ask.

    A forked child gets an engine of its own, since connections must not be shared over a fork.
    """
    key = (os.getpid(), url)
    with _engines_guard:
        if key not in _engines:
            _engines[key] = open_engine(url)
        return _engines[key]


@contextmanager
def write(engine: Engine, *, lock: str = FLEET_LOCK) -> Iterator[Connection]:
    """One write transaction, durable when the block is left without an error.

    SQLite admits one writer to the file (``BEGIN IMMEDIATE``). PostgreSQL admits one writer per
    ``lock``, by an advisory lock held to the end of the transaction; writers under different locks
    run side by side and must not touch the same rows.

    Raises:
        StoreUnavailable: nothing was written.
    """
    with _guarded(engine) as connection:
        connection.execution_options(**{_WRITES: True})
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(lock)}
                )
            yield connection
            _require_in_place(connection)


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """One read transaction: all its statements see the same committed state.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    with _guarded(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        with connection.begin():
            yield connection


def create_all(engine: Engine) -> None:
    """Create what the database lacks of ``models.tables_*``, and guard the receipts.

    Safe to call from several processes at once.

    Raises:
        SchemaMismatch: another release made the database, and it cannot be completed.
        StoreUnavailable: the database does not answer.
    """
    for module in pkgutil.iter_modules(models.__path__):
        if module.name.startswith("tables_"):
            importlib.import_module(f"models.{module.name}")
    with read(engine) as connection:
        missing = set(SQLModel.metadata.tables) - set(inspect(connection).get_table_names())
        missing |= expected_guards(connection) - guards(connection)
        behind = lacks(connection)
    if missing or behind:  # a reader of a busy database need not wait for the writers
        with write(engine, lock="schema") as connection:
            SQLModel.metadata.create_all(connection)
            complete(connection)
            guard(connection)


def scrub(engine: Engine, model: type[SQLModel]) -> None:
    """Take out of the files what changed or deleted rows of a table left behind there.

    As far as the database can: a transaction that is still reading keeps what it sees. In SQLite
    the rows must have been changed under ``PRAGMA secure_delete``; this empties the write-ahead
    log. In PostgreSQL the log and its archive age by the server's own rules.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    with _guarded(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text(f"VACUUM {table(model).name}"))
        else:  # past SQLAlchemy, which would begin a transaction
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def checkpoint(engine: Engine) -> None:
    """Move what SQLite's write-ahead log holds into its file, beside the writers: none has to.

    Does as much as there is no reader of; does nothing to PostgreSQL, which sees to that itself.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    if engine.dialect.name == "sqlite":
        with _guarded(engine) as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA wal_checkpoint(PASSIVE)")


def table(model: type[SQLModel]) -> Table:
    """The Core table behind a SQLModel class, for statements that build no objects."""
    return SQLModel.metadata.tables[str(model.__tablename__)]


def _open_sqlite(address: URL, *, made: bool = False) -> Engine:
    """``made``: the file was there, and another one must not be made."""
    if not address.database or address.database == ":memory:":
        raise ValueError("database: a SQLite URL needs a file, as in sqlite:////var/lib/fleet.db")
    path = Path(address.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable("unreachable", f"{path.parent}: {error.strerror}") from error
    engine = create_engine(
        address, pool_size=8, max_overflow=24, connect_args={"factory": _SqliteConnection}
    )
    place = _Place(path, opened=made)
    event.listen(engine, "do_connect", place.require)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "connect", place.remember)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


class _Place:
    """Where the file of a SQLite engine is, and which file it was when it was opened.

    A file that is deleted lives on for whoever has it open. Nobody else will ever see what is
    written there, so nothing is; nor is an empty one made in its place.
    """

    KEY = "chainring_place"

    def __init__(self, path: Path, *, opened: bool) -> None:
        self._path = path
        self._opened = opened

    def require(
        self, _dialect: object, _record: object, where: list[str], how: dict[str, Any]
    ) -> None:
        """Before a connection is made: not even when it is deleted just now is the file made."""
        if not self._opened:
            return
        if not self._path.exists():
            raise StoreUnavailable("unreachable", f"{self._path} is not there any more")
        where[0], how["uri"] = f"{self._path.absolute().as_uri()}?mode=rw", True

    def remember(self, _connection: sqlite3.Connection, record: Any) -> None:
        """After it was made."""
        self._opened = True
        record.info[self.KEY] = (self._path, self._identity())

    def _identity(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_dev, found.st_ino


def _require_in_place(connection: Connection) -> None:
    """Before a commit: see that the file is still the one that the path names."""
    place = connection.info.get(_Place.KEY)
    if place is None:
        return
    path, identity = place
    try:
        found = path.stat()
    except OSError as error:
        raise StoreUnavailable("unreachable", f"{path}: {error.strerror}") from None
    if (found.st_dev, found.st_ino) != identity:
        raise StoreUnavailable("unreachable", f"{path} was replaced by another file")


class _SqliteConnection(sqlite3.Connection):
    """Knows its transactions apart, which SQLite does not tell the triggers of the changelog."""

    transaction = 0


@dataclass(frozen=True)
class _TransactionOf:
    """A function of the connection must not keep the connection alive."""

    connection: "weakref.ref[_SqliteConnection]"

    def __call__(self) -> int:
        found = self.connection()
        return 0 if found is None else found.transaction


def _prepare_sqlite(connection: _SqliteConnection, _record: Any) -> None:
    connection.isolation_level = None  # the driver starts no transactions: `_begin_sqlite` does
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA recursive_triggers = ON")  # or REPLACE removes rows unseen
    connection.execute("PRAGMA synchronous = FULL")
    connection.create_function("sha256", 1, _sha256, deterministic=True)
    connection.create_function("transaction_id", 0, _TransactionOf(weakref.ref(connection)))
    _use_write_ahead_log(connection)


def _sha256(data: str | bytes) -> bytes:
    """For the triggers of the changelog; PostgreSQL has such a function of its own."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).digest()


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch a new file to WAL; SQLite does not wait by itself when two connections do so."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    if writes:
        driver = connection.connection.driver_connection
        assert isinstance(driver, _SqliteConnection)
        driver.transaction = secrets.randbits(63)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _open_postgres(address: URL) -> Engine:
    engine = create_engine(
        address,
        pool_size=8,
        max_overflow=24,
        pool_pre_ping=True,  # after a restart of the server the pool's connections are dead
        connect_args={"connect_timeout": 5},
    )
    event.listen(engine, "connect", _prepare_postgres)
    return engine


def _prepare_postgres(connection: "psycopg.Connection[Any]", _record: Any) -> None:
    connection.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
    connection.commit()


def _lock_key(name: str) -> int:
    """A signed 64-bit key for an advisory lock."""
    digest = hashlib.sha256(f"chainring/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@contextmanager
def _guarded(engine: Engine) -> Iterator[Connection]:
    """A connection whose troubles are translated, and that always goes back to the pool."""
    try:
        with engine.connect() as connection:
            try:
                yield connection
            except sa_exc.DBAPIError as error:
                if _trouble(error.orig) in _STAYS:
                    connection.invalidate(error)  # the next one to try gets a new connection
                raise
    except sa_exc.TimeoutError as error:
        raise StoreUnavailable("overloaded", str(error)) from error
    except sa_exc.DBAPIError as error:
        _raise_trouble(error.orig, error)
    except (sqlite3.Error, psycopg.Error) as error:  # from a connect listener or a raw COPY
        _raise_trouble(error, error)


def _raise_trouble(original: BaseException | None, error: Exception) -> None:
    """Raise `StoreUnavailable` where the driver's error is one, else the error as it came."""
    kind = _trouble(original)
    if kind is None:
        raise error
    raise StoreUnavailable(kind, str(original).strip()) from error


def _trouble(error: BaseException | None) -> str | None:
    if FENCED in str(error):
        return "fenced"
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return None if code is None else _SQLITE_TROUBLE.get(code & 0xFF)
    if isinstance(error, psycopg.Error):
        return _postgres_trouble(error)
    return None


def _postgres_trouble(error: psycopg.Error) -> str | None:
    state = error.sqlstate
    if state is None:  # the server never answered, or the connection broke
        return "unreachable" if isinstance(error, psycopg.OperationalError) else None
    for prefix, kind in _POSTGRES_TROUBLE.items():
        if state.startswith(prefix):
            return kind
    return None
