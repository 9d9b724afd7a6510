"""A database that an older release made is completed; one of a newer release is refused."""

import pytest
from sqlalchemy import inspect, text

from stores.schema import SchemaMismatch
from stores.sql import create_all, open_engine, read, write

pytest_plugins = ["databases"]


@pytest.fixture
def old(empty_database):
    """An engine on a database with all tables, to be made older; no other test sees it."""
    engine = open_engine(empty_database)
    create_all(engine)
    yield engine
    engine.dispose()


def alter(engine, *statements):
    with write(engine) as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_a_column_and_an_index_that_are_missing_are_added_with_their_default(old):
    alter(
        old,
        "INSERT INTO fleet_lease (fleet, epoch, holder, run, phase) VALUES ('a', 7, 'x', 'r', 'p')",
        "ALTER TABLE fleet_lease DROP COLUMN phase",
        "DROP INDEX receipt_kind",
    )

    create_all(old)

    with read(old) as connection:
        row = connection.execute(text("SELECT epoch, phase FROM fleet_lease")).one()
        indexes = {index["name"] for index in inspect(connection).get_indexes("receipt")}
    assert tuple(row) == (7, "")
    assert "receipt_kind" in indexes


def test_a_column_without_a_default_cannot_be_made_up(old):
    alter(old, "ALTER TABLE known_bad DROP COLUMN why")
    with pytest.raises(SchemaMismatch, match=r"known_bad lacks why"):
        create_all(old)


def test_a_newer_database_is_refused_and_left_alone(old):
    alter(old, "ALTER TABLE fleet_lease ADD COLUMN colour TEXT")
    with pytest.raises(SchemaMismatch, match=r"colour.*newer release"):
        create_all(old)


def test_nothing_is_written_where_nothing_is_missing(old):
    with write(old, lock="schema"), read(old):
        create_all(old)  # a writer holds the database: this one must not wait for it
