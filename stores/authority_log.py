"""A small transparency log: an append-only file under a Merkle tree (RFC 6962), one writer.

An entry is on disk, and a checkpoint over it is signed and kept, before its proof is handed out. A
file that has lost what a kept checkpoint covers is refused.
"""

import base64
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from models.merkle import HASH_BYTES, Frontier
from stores.authority_keys import log_id
from stores.files import file_lock, sync_directory, write_atomic


class LogDamaged(Exception):
    """The log does not hold what its last checkpoint covers; the message names the file."""


class LogInUse(Exception):
    """Another process writes this log."""


@dataclass(frozen=True)
class Logged:
    """An entry's place in a log, and what proves it."""

    index: int
    size: int
    root: bytes
    path: list[bytes]
    checkpoint: str


class MerkleLog:
    """A log in a directory: ``entries``, one in base64 a line, and ``checkpoint``.

    Args:
        origin: the log's name in checkpoints, as its URL without the scheme.

    Raises:
        LogInUse: another process has it open.
        LogDamaged: see there.
    """

    def __init__(self, directory: Path, key: ec.EllipticCurvePrivateKey, origin: str) -> None:
        self._key, self._origin = key, origin
        self._entries, self._note = directory / "entries", directory / "checkpoint"
        self._tree = Frontier()
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(directory / "lock", wait=False))
            except BlockingIOError:
                raise LogInUse(f"{directory}: another process writes this log") from None
            self._replay()
            self._file = stack.enter_context(self._entries.open("ab"))
            sync_directory(directory)
            self._held = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        self._held.close()

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self._tree.size

    def append(self, entry: bytes) -> Logged:
        """Add an entry; it is there for good once this returns.

        Raises:
            OSError: it cannot be written; the log must be opened anew.
        """
        # The last leaf's audit path is what the tree consisted of before, nearest first.
        path = [*reversed(_hashes(self._tree.to_bytes()))]
        self._file.write(base64.b64encode(entry) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._tree.extend([entry])
        checkpoint = self._checkpoint()
        write_atomic(self._note, checkpoint.encode())
        size = self._tree.size
        return Logged(size - 1, size, self._tree.root(), path, checkpoint)

    def checkpoint(self) -> str:
        """A signed note over the log as it is."""
        return self._checkpoint()

    def _checkpoint(self) -> str:
        """C2SP tlog-checkpoint; the key is named as Sigstore names one on P-256."""
        body = f"{self._origin}\n{self._tree.size}\n{_base64(self._tree.root())}\n"
        signature = self._key.sign(body.encode(), ec.ECDSA(SHA256()))
        return f"{body}\n\u2014 {self._origin} {_base64(log_id(self._key)[:4] + signature)}\n"

    def _replay(self) -> None:
        """Read the file back; what a crash left half written nobody has been told of."""
        size, root = self._covered()
        seen = size == 0
        self._entries.touch()
        good = 0
        with self._entries.open("rb") as file:
            for line in _whole_lines(file):
                self._tree.extend([base64.b64decode(line)])
                good += len(line)
                seen = seen or (self._tree.size == size and self._tree.root() == root)
        if not seen:
            raise LogDamaged(f"{self._entries}: is not the log that {self._note} covers")
        os.truncate(self._entries, good)

    def _covered(self) -> tuple[int, bytes]:
        if not self._note.exists():
            return 0, b""
        try:
            _, size, root, *_ = self._note.read_text().split("\n")
            return int(size), base64.b64decode(root)
        except ValueError:
            raise LogDamaged(f"{self._note}: is no checkpoint") from None


def _whole_lines(file: Iterator[bytes]) -> Iterator[bytes]:
    return (line for line in file if line.endswith(b"\n"))


def _hashes(data: bytes) -> list[bytes]:
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
