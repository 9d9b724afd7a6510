"""Shipping the changelog: from the store's table to the backup, as signed, chained segments.

One round reads the next changes, follows them in the state tree, signs the new head, puts the
segment and its head into the object store, and only then lets the tree keep the step. A round that
is killed anywhere is done again from where the tree stands; a segment that it may have left behind
is a correct one and does no harm. What is in the backup is then forgotten by the store.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue
from sqlalchemy import Connection, Engine

from models.backup_file import BackupDamaged, Seal, encode_segment
from models.canonical import canonical
from models.changelog import CHAIN_START, ChangelogBroken, Entry
from models.checkpoint import Checkpoint
from models.documents import SCHEMA_VERSION, document_digest, key_digest
from models.verifier import Refused
from stores.backup_end import end_of_backup
from stores.backup_layout import segment_name, store_name
from stores.changelog import changes_after, forget_changes, identity, last_seq, waiting
from stores.collections import BY_CODE, COLLECTIONS
from stores.document_scan import is_what_was_written, scan_images
from stores.keys import SigningKey
from stores.objects import ObjectExists, ObjectInfo, ObjectStore
from stores.sql import read
from stores.state_tree import Position, StateTree
from stores.witness import HeadRefused, Witness, open_head, sign_head

LARGEST_SEGMENT = 16 * 1024 * 1024
"""Bytes of images and payloads in one segment, before packing; a single change may be larger."""

MOST_CHANGES = 5_000


@dataclass(frozen=True)
class Shipped:
    """One segment that is in the backup: its changes, its bytes as stored, and the new head."""

    first: int
    last: int
    size: int
    head: str


@dataclass(frozen=True)
class Lag:
    """What the backup lacks: how many changes, and the age of the oldest in seconds."""

    changes: int
    seconds: float


def lag_after(engine: Engine, seq: int, clock: Callable[[], float]) -> Lag:
    """How far a backup that goes up to ``seq`` is behind its store; ``clock``: Unix seconds.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    count, oldest = waiting(engine, seq)
    return Lag(count, 0.0 if oldest is None else max(0.0, clock() - oldest / 1000))


class Shipper:
    """Ships one region's changelog.

    Args:
        seal: seals a tenant's documents, see `models.backup_file.Seal`.
        forget: whether changes are removed from the store when they are in the backup.
        before_put: called when documents are sealed, before they are put into the object store.
    """

    def __init__(
        self,
        engine: Engine,
        region: str,
        objects: ObjectStore,
        tree: StateTree,
        key: SigningKey,
        witness: Witness,
        seal: Seal,
        *,
        clock: Callable[[], float] = time.time,
        forget: bool = True,
        before_put: Callable[[], None] = lambda: None,
    ) -> None:
        self.region = region
        self.engine = engine
        self.objects = objects
        self._tree = tree
        self._key = key
        self._witness = witness
        self.seal = seal
        self._clock = clock
        self._forget = forget
        self._before_put = before_put
        self.alone = threading.RLock()
        """Held while the end of the backup must not move."""

    def ship(self, *, until: int | None = None) -> Shipped | None:
        """Ship the next segment; None when there is nothing more, or nothing up to ``until``.

        Raises:
            ChangelogBroken: a change is missing or does not follow: the store needs a look.
            BackupDamaged, HeadRefused: the backup needs one.
            NotProtected, StoreUnavailable, ObjectsUnavailable: try again later.
        """
        with self.alone:
            return self._ship(until)

    def _ship(self, until: int | None) -> Shipped | None:
        position = self._start()
        limit = MOST_CHANGES if until is None else min(MOST_CHANGES, max(0, until - position.seq))
        entries = _bounded(changes_after(self.engine, position.seq, limit=limit)) if limit else []
        if not entries:
            return None
        for entry in entries:
            _require_whole(entry)
        with self._tree.following([entry.change for entry in entries]) as moved:
            head = self._sign(moved)
            data = encode_segment(self._header(position, moved, head), entries, self.seal)
            name = segment_name(
                self.region, moved.store, entries[0].change.seq, moved.seq, moved.chain
            )
            self._put_once(name, data)
            self._admit(moved, head)
        if self._forget:
            forget_changes(self.engine, moved.seq)
        return Shipped(entries[0].change.seq, moved.seq, len(data), head)

    def ship_all(self, *, until: int | None = None) -> int:
        """Ship what there is now, or up to ``until``; how many segments.

        What comes meanwhile waits for the next call: chasing it would make a segment, with all that
        has to be durable for one, of every few changes.
        """
        if until is None:
            with read(self.engine) as connection:
                until = last_seq(connection)
        count = 0
        while self.ship(until=until) is not None:
            count += 1
        return count

    def lag(self) -> Lag:
        """How far the backup is behind the store."""
        return lag_after(self.engine, self._start().seq, self._clock)

    def position(self) -> Position:
        """How far the backup goes."""
        return self._start()

    def advance(self, seq: int) -> tuple[Position, str, bytes]:
        """Ship exactly up to ``seq``: the end of the backup then, its signed head and state root.

        Raises:
            HeadRefused: the backup is further already; take the store's end anew.
        """
        self.ship_all(until=seq)
        position = self._start()
        if position.seq != seq:
            raise HeadRefused(f"the backup ends at {position.seq}, not at {seq}")
        head = self._sign(position)
        self._admit(position, head)
        return position, head, self._tree.root()

    def _admit(self, position: Position, head: str) -> None:
        keys = self._key.trusted(self.region)
        self._witness.admit(self.region, position.store, head, keys)

    def _sign(self, position: Position) -> str:
        """The signed head of the tree as it is now, which ``position`` is the end of."""
        return sign_head(
            self._key,
            self.region,
            position.store,
            seq=position.seq,
            root=self._tree.root(),
            chain=position.chain,
        )

    def _header(self, before: Position, after: Position, head: str) -> dict[str, JsonValue]:
        return {
            "kind": "segment",
            "region": self.region,
            "store": after.store,
            "first": before.seq + 1,
            "last": after.seq,
            "chain_before": before.chain.hex(),
            "chain_after": after.chain.hex(),
            "schema": SCHEMA_VERSION,
            "head": head,
        }

    def _start(self) -> Position:
        """Where the tree stands, after it was built for this store if it was not yet."""
        position = self._tree.position
        mine = identity(self.engine, self.region)
        if position is not None and position.store == mine.id:
            return position
        marker: dict[str, JsonValue] = {
            "region": self.region,
            "store": mine.id,
            "epoch": mine.epoch,
        }
        self._put_once(store_name(self.region, mine.id), canonical(marker))
        return self._build(mine.id)

    def _build(self, store: str) -> Position:
        """Build the tree from the store itself, and go back to where the backup ends.

        The changes after that are still in the store's changelog, each with what was there before
        it. Their absence, or a store that they do not lead to, shows against the signed head.
        """
        known = self._backed_up(store)
        with self._tree.at_once():
            with read(self.engine) as connection:
                seq = last_seq(connection)
                position = Position(store, seq, CHAIN_START)
                self._tree.build(position, _leaves(connection))
            if known is None:  # no backup yet: it begins here
                return position
            end = Position(store, known.size, bytes.fromhex(known.head))
            self._tree.undo([each.change for each in self._pending(end.seq, seq)], end)
            if self._tree.root() != known.root:
                raise ChangelogBroken(
                    f"region {self.region}: the store and its changelog do not lead back to head "
                    f"{known.size} of the backup: documents were changed without a trace"
                )
        return end

    def _pending(self, after: int, until: int) -> list[Entry]:
        """The changes that a store has and its backup has not."""
        pending: list[Entry] = []
        while after + len(pending) < until:
            left = until - after - len(pending)
            pending += changes_after(
                self.engine, after + len(pending), limit=min(left, MOST_CHANGES)
            )
        return pending

    def _backed_up(self, store: str) -> Checkpoint | None:
        """The signed head that the backup goes to at least; None when the store has none.

        Raises:
            BackupDamaged: it was not witnessed, and the end of the backup is.
        """
        keys = self._key.trusted(self.region)
        witnessed = self._witness.head(self.region, store)
        if witnessed is not None:
            return open_head(witnessed, keys)
        end = end_of_backup(self.objects, self.region, store)
        try:
            return None if end is None else open_head(end, keys)
        except Refused as error:
            raise BackupDamaged(f"the end of store {store}'s backup: {error}") from None

    def put(self, name: str, data: bytes) -> ObjectInfo:
        """Put an object that holds sealed documents; raises what `ObjectStore.put` does."""
        self._before_put()
        return self.objects.put(name, data)

    def _put_once(self, name: str, data: bytes) -> None:
        """Put an object whose name says what it is; one that is there already is as good."""
        try:
            self.put(name, data)
        except ObjectExists:
            return  # sealed anew, the same content has other bytes


def _bounded(entries: Sequence[Entry]) -> list[Entry]:
    """As many of the entries as fit into one segment, and at least one."""
    taken: list[Entry] = []
    size = 0
    for entry in entries:
        size += len(entry.image or "") + len(entry.payload or b"")
        if taken and size > LARGEST_SEGMENT:
            break
        taken.append(entry)
    return taken


def _require_whole(entry: Entry) -> None:
    """Raises `ChangelogBroken` where a value rotted in the changelog: it is never shipped."""
    if entry.payload is None or entry.image is None:
        return
    collection = BY_CODE[entry.change.collection]
    if not is_what_was_written(collection.row(entry.image, entry.payload)):
        raise ChangelogBroken(f"change {entry.change.seq}: its value is not what was written")


def _leaves(connection: Connection) -> Iterator[tuple[bytes, bytes]]:
    for collection in COLLECTIONS:
        for part in scan_images(connection, collection):
            for key, image, _payload in part:
                yield key_digest(collection.name, key), document_digest(image)
