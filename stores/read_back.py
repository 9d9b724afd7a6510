"""Reading documents back from the database that they were restored into."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection

from stores.collections import Collection
from stores.document_scan import is_what_was_written, scan_rows
from stores.leaf_spool import LeafSpool
from stores.restore_proof import RestoreMismatch


def read_back(connection: Connection, collections: Iterable[Collection], found: LeafSpool) -> int:
    """Add every document of these collections to ``found``; how many there are.

    Raises:
        RestoreMismatch: a value is not the one that its document names.
    """
    return sum(_read_collection(connection, collection, found) for collection in collections)


def _read_collection(connection: Connection, collection: Collection, found: LeafSpool) -> int:
    amount, add = 0, found.add
    prefix = f"{collection.name}\0"
    for part in scan_rows(connection, collection):
        for row in part:
            add(sha256((prefix + row[0]).encode()).digest(), sha256(row[1].encode()).digest())
        if collection.payload is not None:
            _check_values(collection, part)
        amount += len(part)
    return amount


def _check_values(collection: Collection, part: Sequence[tuple[Any, ...]]) -> None:
    """The image covers a value's digest, not the value: check that they belong together."""
    for key, _image, *row in part:
        if not is_what_was_written(row):
            raise RestoreMismatch(
                f"{collection.name} {key:.200}: the value is not that of its digest"
            )
