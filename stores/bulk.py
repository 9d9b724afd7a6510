"""Inserting many rows at once: prepared batches in SQLite, a binary COPY in PostgreSQL."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import psycopg
from sqlalchemy import Boolean, Column, Connection, DateTime, LargeBinary, Table
from sqlalchemy.sql.sqltypes import BigInteger, Integer

BATCH = 5_000


def insert_rows(
    connection: Connection, rows_of: Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    """Insert all ``rows`` (values in the order of ``columns``); returns how many there were.

    At most one batch is in memory, and no dictionary is made for any row.
    """
    if connection.dialect.name == "postgresql":
        return _copy(connection, rows_of, columns, rows)
    return _insert_batches(connection, rows_of, columns, rows)


def _insert_batches(
    connection: Connection, rows_of: Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    places = ", ".join("?" for _ in columns)
    listed = ", ".join(f'"{name}"' for name in columns)
    statement = f"INSERT INTO {rows_of.name} ({listed}) VALUES ({places})"  # noqa: S608
    remaining, count = iter(rows), 0
    while batch := list(map(tuple, islice(remaining, BATCH))):
        connection.exec_driver_sql(statement, batch)
        count += len(batch)
    return count


def _copy(
    connection: Connection, rows_of: Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    count = 0
    listed = ", ".join(f'"{name}"' for name in columns)
    statement = f"COPY {rows_of.name} ({listed}) FROM STDIN (FORMAT BINARY)"
    with driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        copy.set_types([_copy_type(rows_of.c[name]) for name in columns])
        for row in rows:
            copy.write_row(row)
            count += 1
    return count


def _copy_type(column: "Column[Any]") -> str:
    kinds = {
        BigInteger: "int8",
        Integer: "int4",
        Boolean: "bool",
        LargeBinary: "bytea",
        DateTime: "timestamptz",
    }
    return next((name for kind, name in kinds.items() if isinstance(column.type, kind)), "text")
