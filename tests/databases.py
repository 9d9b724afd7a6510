"""The databases that the stores are tested on: a SQLite file or a PostgreSQL database a test.

pytest_plugins = ["databases"]
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import fresh_database
from sqlalchemy import Engine, delete
from sqlmodel import SQLModel

from stores.changelog_sql import removal_sql
from stores.retention import guard, lift
from stores.sql import create_all, open_engine, write

KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=KINDS)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/fleet.db"
    else:
        with fresh_database() as url:
            yield url


@pytest.fixture(scope="session")
def postgres_with_tables() -> Iterator[str]:
    """URL of one PostgreSQL database for the session: making one anew takes longer than a test."""
    with fresh_database() as url:
        engine = open_engine(url)
        create_all(engine)
        engine.dispose()
        yield url


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database whose tables are there and empty."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/fleet.db"
        create_all(open_engine(url))
        return url
    url = str(request.getfixturevalue("postgres_with_tables"))
    engine = open_engine(url)
    with write(engine) as connection:
        lift(connection)
        for statement in removal_sql("postgresql"):
            connection.exec_driver_sql(statement)
        for one in reversed(SQLModel.metadata.sorted_tables):
            connection.execute(delete(one))
        guard(connection)
    engine.dispose()
    return url


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """An engine on a database whose tables are there and empty."""
    opened = open_engine(database)
    yield opened
    opened.dispose()
