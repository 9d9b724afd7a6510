"""The state root of any number of documents in bounded memory."""

import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from operator import add
from pathlib import Path
from types import TracebackType

from models.changelog import ABSENT
from models.state_tree import EMPTY, FANOUT, branch_hash, bucket_hash, root_hash

_LEAF = struct.Struct("32s32s")
_IN_MEMORY = 16 * 1024 * 1024
"""Bytes of leaves, a quarter of a million of them, after which they go to disk."""

Leaves = dict[bytes, bytes]


class LeafSpool:
    """Leaves, apart by the branch that they belong to; one branch is looked at at a time.

    A document that is added again is replaced, and `ABSENT` removes it. What writes or reads the
    disk raises `OSError`, which names the directory.
    """

    def __init__(self, *, in_memory: int = _IN_MEMORY) -> None:
        self._parts = [bytearray() for _ in range(FANOUT)]
        self._room = self._in_memory = in_memory // _LEAF.size
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> "LeafSpool":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what is on disk."""
        if self._directory is not None:
            self._directory.cleanup()

    def add(self, key: bytes, digest: bytes) -> None:
        """Take one document, by the digests of key and content."""
        self._parts[key[0]] += key + digest
        self._took(1)

    def extend(self, keys: Sequence[bytes], digests: Sequence[bytes]) -> None:
        """Take as many documents as there are keys, in their order."""
        parts = self._parts
        for key, digest in zip(keys, digests, strict=True):
            parts[key[0]] += key + digest
        self._took(len(keys))

    def take(self, leaves: bytes) -> None:
        """Take documents by their leaves, 64 bytes each, one after the other."""
        parts = self._parts
        for at in range(0, len(leaves), _LEAF.size):
            parts[leaves[at]] += leaves[at : at + _LEAF.size]
        self._took(len(leaves) // _LEAF.size)

    def copy(self) -> "LeafSpool":
        """Another spool with the same documents; to be left as a context of its own."""
        made = LeafSpool(in_memory=self._in_memory * _LEAF.size)
        for number, part in enumerate(self._parts):
            made._parts[number] = bytearray(part)
            if self._directory is not None:
                made._append(number, self._file(number).read_bytes())
        made._room = self._room
        return made

    def root(self, rest: Callable[[], object] = lambda: None) -> bytes:
        """The state root of all documents taken so far; ``rest`` is called between branches."""
        branches = []
        for number in range(FANOUT):
            branches.append(_branch(self._leaves(number)))
            rest()
        return root_hash(branches)

    def digest(self, key: bytes) -> bytes:
        """The digest of one document, or `ABSENT`."""
        return self._leaves(key[0]).get(key, ABSENT)

    def same(self, other: "LeafSpool") -> bool:
        """Whether both hold the same documents, and so have the same state root."""
        return all(self._leaves(number) == other._leaves(number) for number in range(FANOUT))

    def difference(self, other: "LeafSpool") -> Iterator[tuple[bytes, bytes, bytes]]:
        """Documents that differ: key digest, what it is here, what it is there (or `ABSENT`)."""
        for number in range(FANOUT):
            mine, theirs = self._leaves(number), other._leaves(number)
            for key in sorted(mine.keys() | theirs.keys()):
                here, there = mine.get(key, ABSENT), theirs.get(key, ABSENT)
                if here != there:
                    yield key, here, there

    def _open_directory(self) -> None:
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="chainring-leaves-")

    def _took(self, documents: int) -> None:
        self._room -= documents
        if self._room <= 0:
            self._spill()

    def _append(self, number: int, leaves: bytes | bytearray) -> None:
        self._open_directory()
        try:
            with self._file(number).open("ab") as file:
                file.write(leaves)
        except OSError as error:  # that of a write names no file
            why = f"the leaves of a state root do not fit: {error.strerror}"
            raise OSError(error.errno, why, str(self._file(number))) from error

    def _spill(self) -> None:
        for number, part in enumerate(self._parts):
            self._append(number, part)
            part.clear()
        self._room = self._in_memory

    def _leaves(self, number: int) -> Leaves:
        data = bytes(self._parts[number])
        if self._directory is not None:
            data = self._file(number).read_bytes() + data
        leaves = dict(_LEAF.iter_unpack(data))
        if ABSENT not in leaves.values():
            return leaves
        return {key: digest for key, digest in leaves.items() if digest != ABSENT}

    def _file(self, number: int) -> Path:
        assert self._directory is not None
        return Path(self._directory.name) / f"{number:02x}"


def _branch(leaves: Leaves) -> bytes:
    if not leaves:
        return EMPTY
    buckets: list[list[bytes]] = [[] for _ in range(FANOUT)]
    for leaf in sorted(map(add, leaves.keys(), leaves.values())):
        buckets[leaf[1]].append(leaf)
    return branch_hash([bucket_hash(bucket) for bucket in buckets])
