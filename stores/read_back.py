"""Reading documents back from the database that they were restored into."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection

from models.documents import key_prefix
from stores.collections import Collection
from stores.document_scan import is_what_was_written, scan_rows
from stores.leaf_reader import Rows, are_what_was_written, leaves_of
from stores.leaf_spool import LeafSpool
from stores.restore_proof import RestoreMismatch


def read_back(connection: Connection, collections: Iterable[Collection], found: LeafSpool) -> int:
    """Add every document of these collections to ``found``; how many there are.

    Raises:
        RestoreMismatch: a value is not the one that its document names.
    """
    amount = 0
    for collection in collections:
        for rows in scan_rows(connection, collection):
            found.take(proved_leaves(collection, rows))
            amount += len(rows)
    return amount


def proved_leaves(collection: Collection, rows: Rows) -> bytes:
    """The leaves of these documents, given as `scan_rows` does.

    Raises:
        RestoreMismatch: a value is not the one that its document names.
    """
    if collection.payload is not None and not are_what_was_written(rows):
        raise RestoreMismatch(f"{collection.name} {_first_wrong(rows)}")
    return leaves_of(rows, key_prefix(collection.name))


def _first_wrong(rows: Iterable[tuple[Any, ...]]) -> str:
    key = next(str(row[0]) for row in rows if not is_what_was_written(row[2:]))
    return f"{key:.200}: the value is not that of its digest"
