"""The changelog: every change of a protected document, in one order, each following the last.

A change's *core* says which document changed from what to what, by digests alone: 122 bytes that
tell nothing about the tenant and can be checked after the tenant's key is destroyed. The chain hash
after change n is SHA-256(chain hash after n-1, core n), from 32 zero bytes on.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

ABSENT = bytes(32)
"""Instead of a digest: the document is not there."""

CHAIN_START = bytes(32)

CORE = struct.Struct(">QBB32s32s32sQQ")
"""seq, collection, kind, key digest, digest before, digest after, fencing epoch, Unix ms."""


class Op(IntEnum):
    """What a change did."""

    PUT = 1
    DELETE = 2


ENDS = 0x80
"""Added to the `Op` of a transaction's last change."""


class ChangelogBroken(Exception):
    """A change is missing, out of order, or does not follow from the state before it."""


class Change(NamedTuple):
    """One change, by digests; the fields of its core, in their order.

    Attributes:
        seq: counts a store's changes from 1 on, without a gap.
        kind: an `Op`, and `ENDS` when the change is the last one of its transaction.
        key: `models.documents.key_digest`.
        before, after: `models.documents.document_digest`, or `ABSENT`.
        epoch: the store's fencing epoch when the change was made.
        at: the store's clock then, Unix milliseconds; says nothing about the order.
    """

    seq: int
    collection: int
    kind: int
    key: bytes
    before: bytes
    after: bytes
    epoch: int
    at: int

    @property
    def deletes(self) -> bool:
        """Whether the document is gone after it."""
        return self.kind & ~ENDS == Op.DELETE

    @property
    def ends(self) -> bool:
        """Whether a store may be left in the state after it: its transaction is complete."""
        return bool(self.kind & ENDS)

    def core(self) -> bytes:
        """The bytes that the chain covers."""
        return CORE.pack(*self)


class Entry(NamedTuple):
    """A change and the document it wrote; image and payload are None where it has none."""

    change: Change
    key: str
    image: str | None
    payload: bytes | None


def read_cores(data: bytes) -> Iterator[Change]:
    """Changes from their cores.

    Raises:
        ChangelogBroken: the last one is cut off.
    """
    if len(data) % CORE.size:
        raise ChangelogBroken(f"{len(data)} bytes are not a whole number of cores")
    return map(Change._make, CORE.iter_unpack(data))


def chain_over(chain: bytes, cores: Iterable[bytes]) -> bytes:
    """The chain hash after these cores."""
    for core in cores:
        chain = hashlib.sha256(chain + core).digest()
    return chain


def split_cores(data: bytes) -> Iterator[bytes]:
    """The single cores of several."""
    for start in range(0, len(data), CORE.size):
        yield data[start : start + CORE.size]
