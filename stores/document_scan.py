"""Reading whole collections as documents, in the order of their keys."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from stores.changelog_sql import image_sql, key_sql, row_sql
from stores.collections import Collection

AT_ONCE = 2_000
"""Rows that are fetched together, so that memory does not grow with the table."""


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
    dialect = connection.dialect.name
    order = ", ".join(f't."{column.name}"' for column in collection.keys)
    query = (
        f"SELECT {key_sql(dialect, collection, 't')}, {image_sql(dialect, collection, 't')}, "  # noqa: S608 - names of our own tables
        f"{columns} FROM {collection.name} t ORDER BY {order}"
    )
    if dialect == "sqlite":  # the driver's own rows: SQLAlchemy's cost more than the query
        return _fetched(connection, query)
    streaming = connection.execution_options(stream_results=True, max_row_buffer=AT_ONCE)
    return streaming.execute(text(query)).partitions(AT_ONCE)


def _fetched(connection: Connection, query: str) -> Iterator[list[tuple[Any, ...]]]:
    driver: Any = connection.connection.driver_connection
    cursor = driver.execute(query)
    try:
        while part := cursor.fetchmany(AT_ONCE):
            yield part
    finally:
        cursor.close()
