"""Documents: the rows of a region's protected tables, in a form that every database spells alike.

A document is one row. Its *image* is a JSON array of the row's columns in the order of the table
(binary columns as lower-case hex, receipts' bytes as text, times as ``YYYY-MM-DD HH:MM:SS.ffffff``
in UTC), made by the database itself in SQL, so that no row reaches a backup through code that could
have changed it. Its *payload* is the one large binary column, kept as it is; the image holds the
payload's SHA-256. A document's digest is the SHA-256 of its image and so covers both.
"""

import hashlib
import re

SCHEMA_VERSION = 2
"""Counts the changes of the protected tables; a backup says which one it was made under. See
`models.schema_shapes` for what each one was."""

NAMES = {
    1: "region_state",
    2: "shard",
    3: "tenant",
    4: "kv_space",
    5: "kv_entry",
    6: "ledger_head",
    7: "receipt",
    8: "checkpoint",
    9: "buffer_mark",
    10: "buffer_conflict",
}
"""The protected tables by the number that backups call them by, which is never used for another
one; parents before the rows that refer to them."""

TENANT_OWNED = frozenset({"kv_space", "kv_entry", "buffer_conflict"})
"""Tables whose rows belong to one tenant, named by their key's first column: sealed by its key."""

_TENANT_KEY = re.compile(r'\["([a-z0-9-]+)"')


class DocumentError(ValueError):
    """An image is not a row of its table; the message names table and column."""


def document_digest(image: str) -> bytes:
    """SHA-256 of a document's image."""
    return hashlib.sha256(image.encode()).digest()


def key_digest(collection: str, key: str) -> bytes:
    """The name of a document that says nothing of it: SHA-256 of collection, zero byte and key."""
    return hashlib.sha256((key_prefix(collection) + key).encode()).digest()


def key_prefix(collection: str) -> str:
    """What stands before the key in what a key digest is of."""
    return f"{collection}\0"


def tenant_of_key(key: str) -> str:
    """The tenant in the key of a document of a tenant-owned collection."""
    found = _TENANT_KEY.match(key)
    if found is None:
        raise DocumentError(f"key {key!r:.80}: names no tenant")
    return found[1]
