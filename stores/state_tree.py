"""The state tree of one store on disk: what the changelog says the documents are, by digests.

It lives in a file of its own beside the process that ships the changelog, so that it does not go
down with the store it describes. It moves on only by changes that follow from it: each names what
was there before, and a change that was lost or made up shows here at once.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.changelog import ABSENT, Change, ChangelogBroken, chain_over
from models.state_tree import EMPTY, FANOUT, branch_hash, bucket_hash, bucket_of, root_hash
from stores.files import file_lock

_SCHEMA = """
CREATE TABLE IF NOT EXISTS leaf (key BLOB PRIMARY KEY, digest BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bucket (id BLOB PRIMARY KEY, hash BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS position (
    one INTEGER PRIMARY KEY CHECK (one = 1), store TEXT, seq INTEGER, chain BLOB);
"""
_BATCH = 10_000
_BUCKET_COUNT = FANOUT * FANOUT


@dataclass(frozen=True)
class Position:
    """How far the tree has followed a store: the last change, and the chain hash after it."""

    store: str
    seq: int
    chain: bytes


class StateTree:
    """The tree in the file ``path``; one process at a time moves it on.

    Raises:
        BlockingIOError: another process has it open.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        self._held.enter_context(file_lock(path.with_suffix(".lock"), wait=False))
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)
        self._hashes = bytearray()
        self._branches: list[bytes | None] = []
        self._load()

    def close(self) -> None:
        """Let another process have it."""
        self._db.close()
        self._held.close()

    @property
    def position(self) -> Position | None:
        """Where the tree is; None as long as it was never built."""
        row = self._db.execute("SELECT store, seq, chain FROM position").fetchone()
        return None if row is None else Position(*row)

    def root(self) -> bytes:
        """The state root after the last change."""
        for number in range(FANOUT):
            if self._branches[number] is None:
                size = FANOUT * len(EMPTY)
                branch = bytes(self._hashes[number * size : (number + 1) * size])
                hashes = [branch[at : at + len(EMPTY)] for at in range(0, size, len(EMPTY))]
                self._branches[number] = branch_hash(hashes)
        return root_hash([branch or EMPTY for branch in self._branches])

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Keep what is done within the block as a whole, or after an error nothing of it."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            self._load()
            raise

    def build(self, position: Position, leaves: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin anew from a whole state, which ``position`` is the end of."""
        with self.at_once():
            self._db.execute("DELETE FROM leaf")
            self._db.execute("DELETE FROM bucket")
            self._load()
            self._db.executemany("INSERT INTO leaf VALUES (?, ?)", leaves)
            buckets = self._all_buckets()
            self._db.executemany("INSERT INTO bucket VALUES (?, ?)", self._kept(buckets))
            self._move(position)

    @contextmanager
    def following(self, changes: Sequence[Change]) -> Iterator[Position]:
        """Follow the next changes; kept when the block is left without an error.

        Within the block `root` is that after the changes, so that it can be signed and brought to
        safety before the tree has it.

        Raises:
            ChangelogBroken: one is not the next, or does not follow from what is here.
        """
        position = self.position
        if position is None:
            raise ChangelogBroken("the state tree was never built")
        with self.at_once():
            leaves = self._after(changes, position.seq)
            self._write(leaves)
            self._rehash({bucket_of(key) for key in leaves})
            chain = chain_over(position.chain, (change.core() for change in changes))
            moved = Position(position.store, position.seq + len(changes), chain)
            self._move(moved)
            yield moved

    def undo(self, changes: Sequence[Change], position: Position) -> None:
        """Go back over changes, the newest first, to ``position``: see `stores.shipping`."""
        with self.at_once():
            leaves: dict[bytes, bytes] = {}
            for change in reversed(changes):
                there = leaves.get(change.key, self._leaf(change.key))
                if there != change.after:
                    raise ChangelogBroken(f"change {change.seq}: the store holds something else")
                leaves[change.key] = change.before
            self._write(leaves)
            self._rehash({bucket_of(key) for key in leaves})
            self._move(position)

    def _load(self) -> None:
        self._hashes = bytearray(_BUCKET_COUNT * len(EMPTY))
        self._branches = [None] * FANOUT
        for bucket, digest in self._db.execute("SELECT id, hash FROM bucket"):
            self._keep(bucket, digest)

    def _after(self, changes: Sequence[Change], seq: int) -> dict[bytes, bytes]:
        """What the changes make of the leaves that they touch."""
        leaves: dict[bytes, bytes] = {}
        for expected, change in enumerate(changes, start=seq + 1):
            if change.seq != expected:
                raise ChangelogBroken(f"change {expected} is missing; the next is {change.seq}")
            there = leaves.get(change.key)
            if there is None:
                there = self._leaf(change.key)
            if there != change.before:
                raise ChangelogBroken(
                    f"change {change.seq} does not follow: it says that a document's digest was "
                    f"{change.before.hex()[:16]}, the changes before it made it {there.hex()[:16]}"
                )
            leaves[change.key] = change.after
        return leaves

    def _leaf(self, key: bytes) -> bytes:
        row = self._db.execute("SELECT digest FROM leaf WHERE key = ?", (key,)).fetchone()
        return ABSENT if row is None else bytes(row[0])

    def _write(self, leaves: dict[bytes, bytes]) -> None:
        put = [(key, digest) for key, digest in leaves.items() if digest != ABSENT]
        gone = [(key,) for key, digest in leaves.items() if digest == ABSENT]
        self._db.executemany("INSERT OR REPLACE INTO leaf VALUES (?, ?)", put)
        self._db.executemany("DELETE FROM leaf WHERE key = ?", gone)

    def _rehash(self, buckets: Iterable[bytes]) -> None:
        changed = [(bucket, self._bucket(bucket)) for bucket in buckets]
        rows = self._kept(changed)
        self._db.executemany("INSERT OR REPLACE INTO bucket VALUES (?, ?)", rows)

    def _bucket(self, bucket: bytes) -> bytes:
        rows = self._db.execute(
            "SELECT key, digest FROM leaf WHERE key >= ? AND key < ? ORDER BY key",
            (bucket, _beyond(bucket)),
        )
        return bucket_hash([key + digest for key, digest in rows])

    def _all_buckets(self) -> Iterator[tuple[bytes, bytes]]:
        current = b""
        members: list[bytes] = []
        for key, digest in self._db.execute("SELECT key, digest FROM leaf ORDER BY key"):
            if bucket_of(key) != current:
                if members:
                    yield current, bucket_hash(members)
                current, members = bucket_of(key), []
            members.append(key + digest)
        if members:
            yield current, bucket_hash(members)

    def _kept(self, buckets: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for bucket, digest in buckets:
            self._keep(bucket, digest)
            yield bucket, digest

    def _keep(self, bucket: bytes, digest: bytes) -> None:
        at = int.from_bytes(bucket, "big") * len(EMPTY)
        self._hashes[at : at + len(EMPTY)] = digest
        self._branches[bucket[0]] = None

    def _move(self, position: Position) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO position VALUES (1, ?, ?, ?)",
            (position.store, position.seq, position.chain),
        )


def _beyond(bucket: bytes) -> bytes:
    """The first bytes after all keys in a bucket; of the last one, a byte more than a key has."""
    number = int.from_bytes(bucket, "big") + 1
    return number.to_bytes(2, "big") if number < _BUCKET_COUNT else b"\xff" * 33
