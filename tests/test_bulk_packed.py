"""Many rows by each statement: all of them, as they are, and none that does not fit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from stores.bulk_packed import BATCH, PACKED, insert_packed
from stores.collections import BY_NAME
from stores.sql import create_all, open_engine, read, write

KV = BY_NAME["kv_entry"]
SIZES = [0, 1, PACKED - 1, PACKED, PACKED + 1, BATCH, BATCH + 1, BATCH + 2 * PACKED + 3]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path}/store.db")
    create_all(engine)
    yield engine
    engine.dispose()


def insert(store: Engine, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    with write(store) as connection:
        insert_packed(connection, KV.table, KV.row_columns, iter(rows))
    with read(store) as connection:
        names = ", ".join(KV.row_columns)
        found = connection.exec_driver_sql(f"SELECT {names} FROM kv_entry ORDER BY rowid")
        return [tuple(row) for row in found]


def row(number: int) -> tuple[Any, ...]:
    return ("acme", b"%06d" % number, b"\0" * 32, number, b"\xff\0" * number)


@pytest.mark.parametrize("count", SIZES)
def test_all_rows_are_there_in_their_order(store: Engine, count: int) -> None:
    rows = [row(number) for number in range(count)]
    assert insert(store, rows) == rows


def test_what_is_no_bytes_stays_what_it_is(store: Engine) -> None:
    rows = [row(1), ("acme", b"2", 64, 2, "text"), ("acme", b"3", b"d", 3, b"v")]
    assert insert(store, rows) == rows


@pytest.mark.parametrize("other", [("acme", b"2", b"", 2), ("acme", b"2", b"", 2, b"", b"")])
def test_rows_of_another_width_are_refused(store: Engine, other: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        insert(store, [row(1), other])
    assert insert(store, []) == []


def test_a_row_that_is_there_is_not_inserted_again(store: Engine) -> None:
    insert(store, [row(1)])
    with pytest.raises(Exception, match="UNIQUE"):
        insert(store, [row(2), row(1)])
    assert insert(store, []) == [row(1)]
