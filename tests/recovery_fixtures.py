"""The fixtures of `recovery_harness`: a backup, and an empty database to restore into.

pytest_plugins = ["databases", "recovery_fixtures"]
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import fresh_database
from recovery_harness import Backup
from sqlalchemy import Engine

from stores.sql import open_engine


@pytest.fixture
def backup(engine: Engine, tmp_path: Path) -> Backup:
    return Backup(engine, tmp_path)


@pytest.fixture
def target(engine: Engine, tmp_path: Path) -> Iterator[Engine]:
    """An empty database of the same kind."""
    if engine.dialect.name == "sqlite":
        opened = open_engine(f"sqlite:///{tmp_path}/target.db")
        yield opened
        opened.dispose()
        return
    with fresh_database() as url:
        opened = open_engine(url)
        yield opened
        opened.dispose()
