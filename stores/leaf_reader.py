"""Documents read as leaves, and the program of a process that helps with it.

It imports nothing but the standard library, so that such a process is at work within some 30 ms.
The process is told the database's file as its argument, and what to read by lines of JSON; to each
it answers with the number of documents and their leaves. It ends when nobody asks any more, and
when anything is wrong: whoever asked reads the same again, and says what it is.
"""

import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import chain
from typing import Any
from urllib.parse import quote

AT_ONCE = 500
"""Rows that are fetched together: what they hold stays in the processor's cache."""

SIZE_BYTES = 8

Rows = Sequence[tuple[Any, ...]]


def leaves_of(rows: Rows, prefix: str) -> bytes:
    """The leaves of documents, whose rows begin with key and image, in their order.

    Args:
        prefix: `models.documents.key_prefix` of their collection.
    """
    keys = [sha256((prefix + row[0]).encode()).digest() for row in rows]
    images = [sha256(row[1].encode()).digest() for row in rows]
    return b"".join(chain.from_iterable(zip(keys, images, strict=True)))


def are_what_was_written(rows: Rows) -> bool:
    """Whether each row (key, image, tenant, key, digest, version, value) has its digest's value.

    An image covers the digest and not the value, so nothing else notices a value that rotted.
    """
    wholes = [
        b"%b\0%b\0%b" % (tenant.encode(), key, value)
        for _key, _image, tenant, key, _digest, _version, value in rows
        if not isinstance(value, str)  # SQLite keeps what it is given, as damage is
    ]
    return [sha256(whole).digest() for whole in wholes] == [bytes(row[4]) for row in rows]


def main() -> None:
    """Answer until the questions end."""
    database = sqlite3.connect(f"file:{quote(sys.argv[1])}?mode=ro", uri=True)
    for line in sys.stdin.buffer:
        found = b"".join(_leaves(database, **json.loads(line)))
        sys.stdout.buffer.write(len(found).to_bytes(SIZE_BYTES, "big") + found)
        sys.stdout.buffer.flush()


def _leaves(
    database: sqlite3.Connection, query: str, bounds: list[Any], prefix: str, payload: bool
) -> Iterator[bytes]:
    cursor = database.execute(query, [bound_of(each) for each in bounds])
    while rows := cursor.fetchmany(AT_ONCE):
        yield leaves_of(rows, prefix)
        if payload and not are_what_was_written(rows):
            raise ValueError("a value is not that of its digest")


def spelled(bound: Any) -> Any:
    """A key's column as JSON can carry it."""
    return {"hex": bound.hex()} if isinstance(bound, bytes) else bound


def bound_of(spelling: Any) -> Any:
    """The reverse of `spelled`."""
    return bytes.fromhex(spelling["hex"]) if isinstance(spelling, dict) else spelling


if __name__ == "__main__":
    main()
