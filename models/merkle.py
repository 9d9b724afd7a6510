"""The Merkle tree over a ledger's receipts (RFC 6962, section 2.1): roots and proofs.

Leaf n's data are the 32 bytes of receipt n's SHA-256, so a receipt is hashed once for the chain and
the tree needs only that hash. Verification is in `models.verifier`, which outsiders run as well.
"""

from collections.abc import Iterable, Sequence

from models.verifier import (
    add_leaf,
    frontier_root,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

HASH_BYTES = 32

__all__ = [
    "Frontier",
    "consistency_proof",
    "inclusion_proof",
    "root",
    "verify_consistency",
    "verify_inclusion",
]


class Frontier:
    """The tree as far as appending needs it: the roots of its perfect subtrees.

    Appending a leaf costs one hash on average and O(log n) at worst; the state is at most 32 bytes
    for each bit of the size.
    """

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[bytes] = []

    def extend(self, entries: Iterable[bytes]) -> None:
        """Append leaves with these data."""
        for entry in entries:
            add_leaf(self._nodes, self.size, leaf_hash(entry))
            self.size += 1

    def root(self) -> bytes:
        return frontier_root(self._nodes)

    def to_bytes(self) -> bytes:
        """The subtrees' roots, widest first; with the size this is all of the state."""
        return b"".join(self._nodes)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> "Frontier":
        """Go on from a stored state; raises ValueError when it cannot be one of this size."""
        if size < 0 or len(data) != HASH_BYTES * size.bit_count():
            raise ValueError(f"not the frontier of a tree of {size} leaves")
        frontier = cls()
        frontier.size = size
        frontier._nodes = [
            data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)
        ]
        return frontier


def root(entries: Iterable[bytes]) -> bytes:
    """Merkle tree hash of the leaves' data, in order."""
    frontier = Frontier()
    frontier.extend(entries)
    return frontier.root()


def inclusion_proof(entries: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf ``index`` in the tree of all entries (RFC 6962, section 2.1.1).

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < len(entries):
        raise ValueError(f"no leaf {index} in a tree of {len(entries)}")
    return _path([leaf_hash(entry) for entry in entries], index)


def consistency_proof(entries: Sequence[bytes], first: int) -> list[bytes]:
    """The proof that the tree of all entries goes on from its first ``first`` ones.

    RFC 6962, section 2.1.2; empty for a first size of 0 or of all.

    Raises:
        ValueError: the first size is larger than the tree.
    """
    if not 0 <= first <= len(entries):
        raise ValueError(f"no first {first} leaves in a tree of {len(entries)}")
    if first in (0, len(entries)):
        return []
    return _subproof([leaf_hash(entry) for entry in entries], first, whole=True)


def _path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    left, right = leaves[:split], leaves[split:]
    if index < split:
        return [*_path(left, index), _subtree(right)]
    return [*_path(right, index - split), _subtree(left)]


def _subproof(leaves: Sequence[bytes], first: int, *, whole: bool) -> list[bytes]:
    """``whole``: the first tree is this very subtree so far, so its root is known already."""
    if first == len(leaves):
        return [] if whole else [_subtree(leaves)]
    split = _split(len(leaves))
    left, right = leaves[:split], leaves[split:]
    if first <= split:
        return [*_subproof(left, first, whole=whole), _subtree(right)]
    return [*_subproof(right, first - split, whole=False), _subtree(left)]


def _subtree(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return node_hash(_subtree(leaves[:split]), _subtree(leaves[split:]))


def _split(size: int) -> int:
    """The largest power of two below ``size`` (RFC 6962: k)."""
    return 1 << (size - 1).bit_length() - 1
