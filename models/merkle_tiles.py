"""The Merkle tree of a ledger cut into tiles, so that a proof reads a few of them and not the tree.

A tile holds up to 256 hashes of one level, 32 bytes each: tile n of level 0 the hashes of leaves
256 n and on, tile n of level 1 the roots of 256 full tiles below, and so on. Only the last tile of
a level is not full. Source: C2SP, "tlog-tiles"; proofs are those of RFC 6962, section 2.1.1.
"""

from collections.abc import Callable, Sequence

from models.merkle import HASH_BYTES
from models.verifier import node_hash

HEIGHT = 8
TILE = 1 << HEIGHT

TileLoader = Callable[[int, int], bytes]
"""Gives the hashes of a tile by level and number; empty bytes when there is no such tile."""


class TileError(ValueError):
    """A tile that should be there is missing or too short: the tiles are damaged."""


def extend(size: int, leaves: Sequence[bytes], load: TileLoader) -> dict[tuple[int, int], bytes]:
    """The tiles that change when leaves are appended to a tree of ``size``.

    Args:
        leaves: leaf hashes (`models.verifier.leaf_hash`), in order.

    Raises:
        TileError: the last tile of a level is not as long as the size says.
    """
    changed: dict[tuple[int, int], bytes] = {}
    level, entries = 0, list(leaves)
    while entries:
        number, present = divmod(size, TILE)
        tile = load(level, number) if present else b""
        if len(tile) != present * HASH_BYTES:
            raise TileError(f"tile {number} of level {level} does not hold {present} hashes")
        above = []
        data = tile + b"".join(entries)
        for start in range(0, len(data), TILE * HASH_BYTES):
            part = data[start : start + TILE * HASH_BYTES]
            changed[level, number] = part
            if len(part) == TILE * HASH_BYTES:
                above.append(_root(part))
            number += 1
        level, size, entries = level + 1, size // TILE, above
    return changed


class TileTree:
    """The tree that tiles hold; what was hashed once is kept for the next proof."""

    def __init__(self, load: TileLoader) -> None:
        self._load = load
        self._nodes: dict[tuple[int, int], bytes] = {}

    def inclusion_path(self, index: int, size: int) -> list[bytes]:
        """The audit path of leaf ``index`` in the tree of the first ``size`` leaves.

        Raises:
            ValueError: there is no such leaf.
            TileError: a tile that the path needs is damaged.
        """
        if not 0 <= index < size:
            raise ValueError(f"no leaf {index} in a tree of {size}")
        path = []
        low, high = 0, size
        while high - low > 1:
            middle = low + (1 << (high - low - 1).bit_length() - 1)
            if index < middle:
                path.append(self.root(middle, high))
                high = middle
            else:
                path.append(self.root(low, middle))
                low = middle
        return path[::-1]

    def root(self, low: int, high: int) -> bytes:
        """The root over leaves ``low`` to ``high`` (not included), ``low`` at a split of the tree.

        Raises:
            TileError: a tile that is needed is damaged.
        """
        width = high - low
        if width & (width - 1) == 0:
            return self._node(width.bit_length() - 1, low // width)
        middle = low + (1 << (width - 1).bit_length() - 1)
        return node_hash(self.root(low, middle), self.root(middle, high))

    def _node(self, level: int, number: int) -> bytes:
        """The root of the full subtree ``number`` of 2^level leaves."""
        key = (level, number)
        found = self._nodes.get(key)
        if found is None:
            found = self._nodes[key] = (
                self._stored(level // HEIGHT, number)
                if level % HEIGHT == 0
                else node_hash(
                    self._node(level - 1, 2 * number), self._node(level - 1, 2 * number + 1)
                )
            )
        return found

    def _stored(self, level: int, number: int) -> bytes:
        tile, offset = divmod(number, TILE)
        start = offset * HASH_BYTES
        found = self._load(level, tile)[start : start + HASH_BYTES]
        if len(found) != HASH_BYTES:
            raise TileError(f"tile {tile} of level {level} lacks hash {offset}")
        return found


def _root(hashes: bytes) -> bytes:
    """The root over a power of two of hashes."""
    level = [hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)]
    while len(level) > 1:
        level = [node_hash(*level[start : start + 2]) for start in range(0, len(level), 2)]
    return level[0]
