"""Reading whole collections as documents, in the order of their keys."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from stores import leaf_reader
from stores.changelog_sql import image_sql, key_sql, row_sql
from stores.collections import Collection

AT_ONCE = 2_000
"""Rows that are fetched together from a server, so that memory does not grow with the table."""


class Stored(NamedTuple):
    """A document as it is in the database; ``row`` as `Collection.row` gives it."""

    key: str
    image: str
    row: Sequence[Any]


def scan(connection: Connection, collection: Collection) -> Iterator[list[Stored]]:
    """All documents of a collection with their rows, some at a time."""
    for part in scan_rows(connection, collection):
        yield [Stored(found[0], found[1], found[2:]) for found in part]


def scan_rows(
    connection: Connection, collection: Collection
) -> Iterator[Sequence[tuple[Any, ...]]]:
    """`scan` without an object for each document: key, image, and the row's columns."""
    return _select(connection, collection, row_sql(connection.dialect.name, collection, "t"))


def scan_images(
    connection: Connection, collection: Collection
) -> Iterator[Sequence[tuple[str, str, bytes | None]]]:
    """Key, image and payload of all documents of a collection, some at a time."""
    payload = "NULL" if collection.payload is None else f't."{collection.payload}"'
    return _select(connection, collection, payload)


@dataclass(frozen=True)
class Span:
    """Some documents of a collection in SQLite: a query for their rows, and what it is bound to."""

    collection: Collection
    query: str
    bounds: tuple[Any, ...]


def scan_span(connection: Connection, span: Span) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a span, some at a time."""
    return _fetched(connection, span.query, span.bounds)


def spans(connection: Connection, collection: Collection, size: int) -> Iterator[Span]:
    """All documents of a collection in SQLite, some ``size`` in a span, each as of `scan_rows`."""
    names = ", ".join(f't."{column.name}"' for column in collection.keys)
    marks = ", ".join("?" for _ in collection.keys)
    after, upto = f"({names}) > ({marks})", f"({names}) <= ({marks})"
    driver: Any = connection.connection.driver_connection
    start: tuple[Any, ...] = ()
    while True:
        where = f"WHERE {after}" if start else ""
        last = driver.execute(
            f"SELECT {names} FROM {collection.name} t {where} "  # noqa: S608 - names of our own
            f"ORDER BY {names} LIMIT 1 OFFSET {size - 1}",
            start,
        ).fetchone()
        bounds = " AND ".join([after] * bool(start) + [upto] * bool(last))
        row = row_sql("sqlite", collection, "t")
        query = _query("sqlite", collection, row, f"WHERE {bounds}" if bounds else "")
        yield Span(collection, query, (*start, *(last or ())))
        if last is None:
            return
        start = last


def is_what_was_written(row: Sequence[Any]) -> bool:
    """Whether the value of a tenant's key is that of the digest in its row.

    An image covers the digest and not the value, so nothing else notices a value that rotted.
    """
    tenant, key, digest, _version, value = row
    if isinstance(value, str):
        return False  # SQLite keeps what it is given, as damage is
    whole = b"%b\0%b\0%b" % (tenant.encode(), key, value)
    return hashlib.sha256(whole).digest() == bytes(digest)


def _select(connection: Connection, collection: Collection, columns: str) -> Iterator[Any]:
    query = _query(connection.dialect.name, collection, columns)
    if connection.dialect.name == "sqlite":
        return _fetched(connection, query)
    streaming = connection.execution_options(stream_results=True, max_row_buffer=AT_ONCE)
    return streaming.execute(text(query)).partitions(AT_ONCE)


def _query(dialect: str, collection: Collection, columns: str, where: str = "") -> str:
    order = ", ".join(f't."{column.name}"' for column in collection.keys)
    return (
        f"SELECT {key_sql(dialect, collection, 't')}, {image_sql(dialect, collection, 't')}, "  # noqa: S608 - names of our own tables
        f"{columns} FROM {collection.name} t {where} ORDER BY {order}"
    )


def _fetched(
    connection: Connection, query: str, bounds: Sequence[Any] = ()
) -> Iterator[list[tuple[Any, ...]]]:
    """The driver's own rows: SQLAlchemy's cost more than the query."""
    driver: Any = connection.connection.driver_connection
    cursor = driver.execute(query, bounds)
    try:
        while part := cursor.fetchmany(leaf_reader.AT_ONCE):
            yield part
    finally:
        cursor.close()
