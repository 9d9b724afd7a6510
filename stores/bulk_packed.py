"""Inserting many rows into SQLite, many of them by each statement.

Python's driver gives up the interpreter's lock for every step of a statement, and asks every object
but a few how it wants to be adapted: for small rows the two take longer than the inserts. So a step
is of `PACKED` rows, and bytes, which are not among the few, go in as bytearrays, which are.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from sqlalchemy import Connection, Table

PACKED = 50
"""Rows of a statement; more of them gain nothing."""

BATCH = 40 * PACKED
"""Rows that are made ready together."""

Row = Sequence[Any]


def insert_packed(
    connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Row]
) -> None:
    """Insert all ``rows`` (values in the order of ``columns``) into a table of SQLite.

    Raises:
        ValueError: rows have different numbers of values.
    """
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        values, whole = _values(batch), len(batch) // PACKED
        packed = [tuple(islice(values, PACKED * len(columns))) for _ in range(whole)]
        if packed:
            connection.exec_driver_sql(_statement(table, columns, PACKED), packed)
        if rest := tuple(values):
            connection.exec_driver_sql(_statement(table, columns, len(batch) % PACKED), rest)


def _statement(table: Table, columns: Sequence[str], rows: int) -> str:
    listed = ", ".join(f'"{name}"' for name in columns)
    places = f"({', '.join('?' for _ in columns)})"
    return f"INSERT INTO {table.name} ({listed}) VALUES {', '.join([places] * rows)}"  # noqa: S608


def _values(batch: Sequence[Row]) -> Iterator[Any]:
    columns: list[Iterable[Any]] = list(zip(*batch, strict=True))
    for index, column in enumerate(columns):
        if set(map(type, column)) == {bytes}:  # bytes alone: a number would become zeros
            columns[index] = map(bytearray, column)
    return chain.from_iterable(zip(*columns, strict=True))
