"""Snapshots: all documents of a store after one change, while writes go on.

A snapshot reads one frozen view, which blocks no writer, and gives way to them. It is cut into
chunks at documents whose key digest says so, and a chunk is named by the digests of its documents:
a chunk in which nothing changed since an earlier snapshot has the same name and is there already,
so that a snapshot costs what changed, and one that was interrupted goes on where it was.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from models.backup_file import ChunkRow, encode_chunk
from models.changelog import ABSENT, Change, Op
from models.documents import SCHEMA_VERSION, document_digest, key_digest, tenant_of_key
from models.manifest import ChunkRef, Manifest
from stores.backup_layout import bad_objects, chunk_name, manifest_name
from stores.changelog import StoreIdentity, identity_in, last_seq
from stores.collections import COLLECTIONS, Collection
from stores.document_scan import Stored, is_what_was_written, scan, scan_images
from stores.frozen_view import frozen
from stores.leaf_spool import LeafSpool
from stores.ledger import Ledger
from stores.objects import ObjectDamaged, ObjectExists, ObjectInfo, ObjectStore
from stores.pace import Pace
from stores.pins import pinned
from stores.shipping import Shipper
from stores.state_tree import Position

CUT_MASK = 0x0FFF
"""A chunk ends at a document whose key digest ends in these bits as zeros: every 4096 or so."""

LARGEST_CHUNK = 16 * 1024 * 1024
"""Bytes of images and payloads after which a chunk ends anyway."""

Progress = Callable[[int], None]
"""Called with the number of documents so far, at least once a chunk."""


class SnapshotMismatch(Exception):
    """The store's documents are not what its changelog made them: some changed without a trace."""


@dataclass(frozen=True)
class Snapshot:
    """A manifest that is in the backup, its name there, and how many chunks were not before."""

    name: str
    manifest: Manifest
    new_chunks: int


@dataclass(frozen=True)
class LiveState:
    """A store's documents as they are after one change, and the head that is signed for it.

    ``root`` is made of the documents themselves, ``signed_root`` is what the changelog makes them.
    """

    store: str
    seq: int
    root: bytes
    signed_root: bytes
    head: str


@dataclass(frozen=True)
class _Start:
    """What a snapshot is of: the store and its end, and the backup's, which is the same."""

    identity: StoreIdentity
    seq: int
    receipts: int
    position: Position
    head: str
    root: bytes


class Snapshotter:
    """Makes snapshots of one region's store through the shipper that follows it.

    Args:
        pace: how each snapshot gives way to writers; by default it does not.
        directory: where a copy of the store has room, see `frozen`.
    """

    def __init__(
        self,
        engine: Engine,
        shipper: Shipper,
        *,
        checkpoint: Callable[[], str] = lambda: "",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        pace: Callable[[], Pace] = lambda: Pace(1.0),
        directory: Path | None = None,
    ) -> None:
        self._engine = engine
        self._pace = pace
        self._directory = directory
        self._shipper = shipper
        self._checkpoint = checkpoint
        self._clock = clock
        self._new = 0
        self._bad: set[str] = set()

    def snapshot(self, progress: Progress = lambda _documents: None) -> Snapshot:
        """Snapshot the store as it is now, and prove that it is what was signed.

        Raises:
            SnapshotMismatch: it is not; the snapshot is not kept.
            ObjectsUnavailable, StoreUnavailable: try again; what is done already counts.
        """
        self._new = 0
        region, objects = self._shipper.region, self._shipper.objects
        with pinned(objects, region, "snapshot", beat=lambda: progress(0)):
            return self._snapshot(progress)

    def _snapshot(self, progress: Progress) -> Snapshot:
        pace = self._pace()
        with self._frozen(pace, progress) as (connection, start), LeafSpool() as leaves:
            region, store = start.identity.region, start.identity.id
            self._bad = bad_objects(self._shipper.objects, region, store)
            chunks = list(self._chunks(connection, store, leaves, progress, pace))
            found = leaves.root(pace.rest)
            if found != start.root:
                raise SnapshotMismatch(
                    f"region {region}: after change {start.seq} the state root is signed as "
                    f"{start.root.hex()[:16]}, the documents make it {found.hex()[:16]}"
                )
            manifest = self._manifest(start, chunks)
        data = manifest.encoded()
        digest = hashlib.sha256(data).digest()
        name = manifest_name(manifest.region, manifest.store, manifest.seq, digest)
        self._shipper.objects.put(name, data)
        return Snapshot(name, manifest, self._new)

    def _frozen(
        self, pace: Pace, progress: Progress
    ) -> AbstractContextManager[tuple[Connection, _Start]]:
        return frozen(
            self._engine,
            self._look,
            pace=pace,
            beat=lambda: progress(0),
            directory=self._directory,
        )

    def _look(self, connection: Connection) -> _Start:
        """Bring the backup exactly to the end of what the transaction sees."""
        with self._shipper.alone:  # or the backup could be past that
            self._shipper.position()  # a backup that begins only now begins before it
            identity = identity_in(connection, self._shipper.region)
            seq = last_seq(connection)
            receipts = Ledger(self._engine, identity.region).head(connection=connection).size
            return _Start(identity, seq, receipts, *self._shipper.advance(seq))

    def _manifest(self, start: _Start, chunks: list[ChunkRef]) -> Manifest:
        return Manifest(
            region=start.identity.region,
            store=start.identity.id,
            epoch=start.identity.epoch,
            seq=start.seq,
            chain=start.position.chain.hex(),
            state_root=start.root.hex(),
            documents=sum(chunk.documents for chunk in chunks),
            receipts=start.receipts,
            schema_version=SCHEMA_VERSION,
            chunks=tuple(chunks),
            head=start.head,
            checkpoint=self._checkpoint(),
            created_at=self._clock(),
        )

    def live_state(self, progress: Progress = lambda _documents: None) -> LiveState:
        """Read every document of the store as it is now, without keeping anything.

        Raises:
            ObjectsUnavailable, StoreUnavailable: try again.
        """
        done, pace = 0, self._pace()
        with self._frozen(pace, progress) as (connection, start), LeafSpool() as leaves:
            for collection in COLLECTIONS:
                for part in scan_images(connection, collection):
                    for key, image, _payload in part:
                        leaves.add(key_digest(collection.name, key), document_digest(image))
                    done += len(part)
                    progress(done)
                    pace.rest()
            root = leaves.root(pace.rest)
            return LiveState(start.position.store, start.seq, root, start.root, start.head)

    def _chunks(
        self,
        connection: Connection,
        store: str,
        leaves: LeafSpool,
        progress: Progress,
        pace: Pace,
    ) -> Iterator[ChunkRef]:
        done = 0
        for rows in _cut(connection, pace):
            for row in rows:
                leaves.add(row.change.key, row.change.after)
            yield self._keep(store, rows)
            done += len(rows)
            progress(done)
            pace.rest()

    def _keep(self, store: str, rows: list[ChunkRow]) -> ChunkRef:
        """Put a chunk unless it is there from before."""
        cores = hashlib.sha256(b"".join([row.change.core() for row in rows])).digest()
        objects = self._shipper.objects
        name, found = self._there(store, cores)
        if found is None:
            found = self._put(objects, name, store, rows)
        return ChunkRef(
            name=name,
            sha256=found.sha256,
            size=found.size,
            cores=cores.hex(),
            documents=len(rows),
        )

    def _there(self, store: str, cores: bytes) -> tuple[str, ObjectInfo | None]:
        """The chunk's name, past those that are bad, and its object if it is there."""
        for copy in count():
            name = chunk_name(self._shipper.region, store, cores, copy)
            if name not in self._bad:
                with suppress(ObjectDamaged):  # its record cannot be read, nor be replaced
                    return name, self._shipper.objects.stat(name)
        raise AssertionError

    def _put(self, objects: ObjectStore, name: str, store: str, rows: list[ChunkRow]) -> ObjectInfo:
        header: dict[str, Any] = {
            "kind": "chunk",
            "region": self._shipper.region,
            "store": store,
            "schema": SCHEMA_VERSION,
            "documents": len(rows),
        }
        self._new += 1
        try:
            return self._shipper.put(name, encode_chunk(header, rows, self._shipper.seal))
        except ObjectExists:  # another snapshot was faster; sealed, the same content differs
            found = objects.stat(name)
            if found is None:
                raise
            return found


def _cut(connection: Connection, pace: Pace) -> Iterator[list[ChunkRow]]:
    """All documents in chunks, whose borders depend on the documents near them alone."""
    for collection in COLLECTIONS:
        rows: list[ChunkRow] = []
        size = 0
        for part in scan(connection, collection):
            for stored in part:
                rows.append(_chunk_row(collection, stored))
                size += len(stored.image)
                if collection.payload is not None:
                    size += len(stored.row[-1])
                ends = int.from_bytes(rows[-1].change.key[-2:], "big") & CUT_MASK == 0
                if ends or size >= LARGEST_CHUNK:
                    yield rows
                    rows, size = [], 0
            pace.rest()
        if rows:
            yield rows


def _chunk_row(collection: Collection, stored: Stored) -> ChunkRow:
    """A document as if it had just been put where none was.

    Raises:
        SnapshotMismatch: its value rotted; a snapshot of it could not be restored.
    """
    if collection.payload is not None and not is_what_was_written(stored.row):
        raise SnapshotMismatch(
            f"{collection.name} {stored.key:.200}: the value is not that of its digest"
        )
    change = Change(
        seq=0,
        collection=collection.code,
        kind=Op.PUT,
        key=key_digest(collection.name, stored.key),
        before=ABSENT,
        after=document_digest(stored.image),
        epoch=0,
        at=0,
    )
    tenant = tenant_of_key(stored.key) if collection.tenant_owned else ""
    return ChunkRow(change, tenant, stored.row)
