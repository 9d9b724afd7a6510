"""Building a store from a snapshot and the segments after it, each document written about once.

The changes after the snapshot are read first, as many as fit into memory, and the snapshot's chunks
are loaded with what these made of each document. Only what does not fit is replayed afterwards.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import ne
from typing import NamedTuple

from sqlalchemy import Engine

from models.backup_file import BackupDamaged, Unseal
from models.changelog import Change, Entry
from models.checkpoint import Checkpoint
from models.documents import NAMES, document_digest, key_digest
from models.manifest import ChunkRef, Manifest
from models.restore import Goal
from models.upcasting import UPCASTERS, Upcasters
from stores.backup_chunks import read_chunk
from stores.collections import BY_CODE, COLLECTIONS, Collection
from stores.document_load import Row, load_rows, replay, row_of
from stores.leaf_spool import LeafSpool
from stores.objects import ObjectStore
from stores.restore_plan import Link
from stores.sql import write

MOST_FOLDED = 200_000
"""Changes that are kept in memory to be loaded with the snapshot."""

Count = Callable[[int], None]


@dataclass
class Course:
    """How far a restore has come, and what it knows must be in the store.

    Attributes:
        segments: names of the segments so far; ``last`` is the last one's signed head and note.
        leaves: every document by digests as they were signed, also those that could not be read.
        made: the same of the documents as they are now; None as long as none is of an older schema.
        older: the older versions that there are documents of; upcast: how many of them changed.
        erased: those that could not be read, by key digest; None: nobody asks.
        stopped: the goal was found.
    """

    seq: int
    chain: bytes
    leaves: LeafSpool
    changes: int = 0
    last_at: int = 0
    stopped: bool = False
    segments: list[str] = field(default_factory=list)
    last: tuple[Checkpoint, str] | None = None
    erased: set[bytes] | None = field(default_factory=set)

    made: LeafSpool | None = None
    older: set[int] = field(default_factory=set)
    upcast: int = 0

    @property
    def now(self) -> LeafSpool:
        """What must be in the store."""
        return self.leaves if self.made is None else self.made

    def extend(self, keys: Sequence[bytes], signed: Sequence[bytes], now: Sequence[bytes]) -> None:
        """Take documents, by their digests as they were signed and as they are now."""
        self.leaves.extend(keys, signed)
        if self.made is not None:
            self.made.extend(keys, now)
            self.upcast += sum(map(ne, signed, now))

    def has_older(self, version: int) -> None:
        """Documents of an older version come: from here on there are two states."""
        self.older.add(version)
        if self.made is None:
            self.made = self.leaves.copy()

    def close(self) -> None:
        """Let go of what was made for the older documents."""
        if self.made is not None:
            self.made.close()

    def unread(self, key: bytes) -> None:
        """A document could not be read; its digests are known all the same."""
        if self.erased is not None:
            self.erased.add(key)


class Builder:
    """Builds one store in an empty database.

    Args:
        links: the segments that lead on from the snapshot, each checked.
    """

    def __init__(
        self,
        engine: Engine,
        region: str,
        objects: ObjectStore,
        unseal: Unseal,
        goal: Goal,
        links: Iterator[Link],
        upcasters: Upcasters = UPCASTERS,
    ) -> None:
        self._upcasters = upcasters
        self._engine = engine
        self._objects = objects
        self._unseal = unseal
        self._goal = goal
        self._links = links
        self._receipt = key_digest("receipt", f'["{region}",{goal.receipt}]')

    def load(self, manifest: Manifest, course: Course, count: Count) -> None:
        """Load the snapshot, as changed by the first `MOST_FOLDED` changes after it.

        Raises:
            BackupDamaged: a chunk is not what the manifest says.
        """
        schema = manifest.schema_version
        if schema != self._upcasters.current:
            course.has_older(schema)
        parts: list[_Part] = []
        fold: dict[bytes, Entry | Change] = {}
        while sum(len(each.keys) for each in parts) < MOST_FOLDED and (part := self._next(course)):
            fold.update(zip(part.keys, part.changes, strict=True))
            parts.append(part._replace(changes=()))
        done = 0
        for ref in manifest.chunks:
            self._chunk(ref, schema, fold, course)
            done += ref.documents
            count(done)
        self._check_base(manifest, course)
        self._load_new(fold.values())
        for part in parts:
            course.extend(part.keys, part.signed, part.now)
        for key, each in fold.items():
            if isinstance(each, Change):
                course.unread(key)

    def replay(self, course: Course, count: Count) -> None:
        """Make the changes that were not folded."""
        while part := self._next(course):
            with write(self._engine) as connection:
                replay(connection, [each for each in part.changes if isinstance(each, Entry)])
            course.extend(part.keys, part.signed, part.now)
            for each in part.changes:
                if isinstance(each, Change):
                    course.unread(each.key)
            count(course.changes)

    def _next(self, course: Course) -> "_Part | None":
        """The next segment's changes, up to the goal; None at the end."""
        if course.stopped or (link := next(self._links, None)) is None:
            return None
        changes = link.file.changes
        wanted, course.stopped = self._cut(changes)
        if not wanted:
            return None
        course.segments.append(link.name)
        course.last = (link.head, link.note)
        course.seq = changes[wanted - 1].seq
        course.chain = link.chain_after(wanted)
        course.changes += wanted
        course.last_at = changes[wanted - 1].at
        entries: Sequence[Entry | Change] = link.entries[:wanted]
        if link.schema != self._upcasters.current:
            course.has_older(link.schema)
            entries = [self._now(each, link.schema) for each in entries]
        _, keys, digests = link.file.named()
        signed = digests[:wanted]
        now = signed if course.made is None else list(map(_digest_now, entries, signed))
        return _Part(entries, keys[:wanted], signed, now)

    def _now(self, each: Entry | Change, schema: int) -> Entry | Change:
        """A change of an older version with its document as it is in this one."""
        if isinstance(each, Change) or each.image is None:
            return each
        image = self._upcasters.upcast(schema, NAMES[each.change.collection], each.image)
        return each._replace(image=image)

    def _cut(self, changes: Sequence[Change]) -> tuple[int, bool]:
        """How many of a segment's changes are wanted, and whether the goal is reached by them.

        A transaction is taken whole or not at all.
        """
        goal, whole, found = self._goal, 0, False
        latest = None if goal.at is None else goal.at.timestamp() * 1000
        for index, change in enumerate(changes):
            if goal.seq is not None and change.seq > goal.seq:
                return whole, True
            if latest is not None and change.at > latest:
                return whole, True
            found = found or (goal.receipt is not None and change.key == self._receipt)
            if change.ends:
                whole = index + 1
                if found:
                    return whole, True
        return whole, False

    def _chunk(
        self, ref: ChunkRef, schema: int, fold: dict[bytes, Entry | Change], course: Course
    ) -> None:
        file = read_chunk(self._objects, ref)
        codes, keys, digests = file.named()
        collection = BY_CODE.get(codes[0])
        if collection is None or len(set(codes)) > 1:
            raise BackupDamaged(f"{ref.name}: is not of one collection that this release knows")
        found: Iterable[Row | None] = file.rows(self._unseal)
        course.leaves.extend(keys, digests)
        if schema != self._upcasters.current:
            found = self._older(keys, digests, found, collection, schema, course)
        elif course.made is not None:
            course.made.extend(keys, digests)
        with write(self._engine) as connection:
            load_rows(connection, collection, _folded(collection, keys, found, fold, course))

    def _older(
        self,
        keys: Sequence[bytes],
        digests: Sequence[bytes],
        rows: Iterable[Row | None],
        collection: Collection,
        schema: int,
        course: Course,
    ) -> Iterator[Row | None]:
        """Documents of an older version: each proved as it was, and then upcast."""
        assert course.made is not None
        for key, digest, row in zip(keys, digests, rows, strict=True):
            if row is None:
                course.made.add(key, digest)
                yield None
                continue
            image, payload = self._upcasters.image_of(schema, collection.name, row)
            if document_digest(image) != digest:
                raise BackupDamaged(f"{collection.name}: a row is not the one that is signed")
            now = self._upcasters.upcast(schema, collection.name, image)
            course.made.add(key, document_digest(now))
            course.upcast += now != image
            yield collection.row(now, payload)

    def _check_base(self, manifest: Manifest, course: Course) -> None:
        """The chunks must make the signed state root: after a change within a segment, where a
        goal may lie, no other root is signed that would show a missing one."""
        if self._goal.is_head or course.leaves.root().hex() == manifest.state_root:
            return
        raise BackupDamaged(
            f"the chunks of snapshot {manifest.seq} do not make the state root that is signed, "
            f"{manifest.state_root[:16]}"
        )

    def _load_new(self, entries: Iterable[Entry | Change]) -> None:
        """Load the documents that were made after the snapshot."""
        rows: dict[int, list[Row]] = {}
        for each in entries:
            if isinstance(each, Entry) and each.image is not None:
                rows.setdefault(each.change.collection, []).append(row_of(each))
        with write(self._engine) as connection:
            for collection in COLLECTIONS:
                load_rows(connection, collection, rows.get(collection.code, []))


class _Part(NamedTuple):
    """Changes of a segment, and the documents by their digests as they were signed and are now."""

    changes: Sequence[Entry | Change]
    keys: Sequence[bytes]
    signed: Sequence[bytes]
    now: Sequence[bytes]


def _digest_now(each: Entry | Change, signed: bytes) -> bytes:
    """The digest of a document that may have been upcast."""
    if isinstance(each, Change) or each.image is None:
        return signed
    return document_digest(each.image)


def _folded(
    collection: Collection,
    keys: Sequence[bytes],
    rows: Iterable[Row | None],
    fold: dict[bytes, Entry | Change],
    course: Course,
) -> Iterator[Row]:
    """A chunk's rows as the changes left them, which are taken out of ``fold``."""
    for key, row in zip(keys, rows, strict=True):
        if key in fold:
            changed = fold.pop(key)
            if isinstance(changed, Change):
                course.unread(key)
            elif changed.image is not None:
                yield collection.row(changed.image, changed.payload)
        elif row is not None:
            yield row
        else:
            course.unread(key)
