"""The state root: one hash over all documents of a region, cheap to keep up to date.

A document's leaf is the digest of its key and the digest of its content, 64 bytes. The first two
bytes of the key digest are its bucket. A bucket's hash is over its leaves in the order of their
keys, a branch's hash over the hashes of its 256 buckets, the root over the 256 branches. So the
root depends on the set of documents alone, and a change of one costs three hashes of bounded length
(a bucket holds 15 leaves on average at a million documents, 153 at ten million).

Hashes of the three levels begin with different bytes, so that none can pass for another (RFC 6962,
section 2.1); an empty bucket and an empty branch hash to zeros.
"""

import hashlib
from collections.abc import Iterable, Sequence

BUCKET_BYTES = 2
FANOUT = 256
EMPTY = bytes(32)

_LEAVES, _BUCKETS, _BRANCHES = b"\x00", b"\x01", b"\x02"


def bucket_of(key_digest: bytes) -> bytes:
    """The bucket that a document belongs to."""
    return key_digest[:BUCKET_BYTES]


def bucket_hash(leaves: Sequence[bytes]) -> bytes:
    """The hash of a bucket; ``leaves`` are 64 bytes each, in ascending order."""
    return hashlib.sha256(_LEAVES + b"".join(leaves)).digest() if leaves else EMPTY


def branch_hash(buckets: Sequence[bytes]) -> bytes:
    """The hash of a branch of 256 buckets' hashes, in order."""
    return _node(_BUCKETS, buckets)


def root_hash(branches: Sequence[bytes]) -> bytes:
    """The state root of 256 branches' hashes, in order."""
    return _node(_BRANCHES, branches)


def state_root(leaves: Iterable[bytes]) -> bytes:
    """The root of all documents' leaves, in any order."""
    buckets: dict[bytes, list[bytes]] = {}
    for leaf in leaves:
        buckets.setdefault(leaf[:BUCKET_BYTES], []).append(leaf)
    branches = [[EMPTY] * FANOUT for _ in range(FANOUT)]
    for (first, second), members in buckets.items():
        members.sort()
        branches[first][second] = bucket_hash(members)
    return root_hash([branch_hash(branch) for branch in branches])


def _node(prefix: bytes, children: Sequence[bytes]) -> bytes:
    if len(children) != FANOUT:
        raise ValueError(f"{len(children)} children, not {FANOUT}")
    if not any(child != EMPTY for child in children):
        return EMPTY
    return hashlib.sha256(prefix + b"".join(children)).digest()
