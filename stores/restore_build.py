"""Building a store from a snapshot and the segments after it, each document written about once.

The changes after the snapshot are read first, as many as fit into memory, and the snapshot's chunks
are loaded with what these made of each document. Only what does not fit is replayed afterwards.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from models.backup_file import BackupDamaged, Unseal, decode
from models.changelog import Change, Entry
from models.documents import key_digest
from models.manifest import ChunkRef, Manifest
from models.restore import Goal
from stores.collections import BY_CODE, COLLECTIONS
from stores.document_load import Row, load_rows, replay, row_of
from stores.leaf_spool import LeafSpool
from stores.objects import ObjectDamaged, ObjectMissing, ObjectStore, ObjectTooLarge
from stores.restore_plan import Link
from stores.sql import write

MOST_FOLDED = 200_000
"""Changes that are kept in memory to be loaded with the snapshot."""

Count = Callable[[int], None]


@dataclass
class Course:
    """How far a restore has come, and what it knows must be in the store.

    Attributes:
        leaves: every document by digests, also those that could not be read.
        erased: those whose tenant's key is destroyed, by key digest.
        stopped: the goal was found.
    """

    seq: int
    chain: bytes
    leaves: LeafSpool
    changes: int = 0
    last_at: int = 0
    stopped: bool = False
    links: list[Link] = field(default_factory=list)
    erased: set[bytes] = field(default_factory=set)


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
    ) -> None:
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
        changes: list[Change] = []
        fold: dict[bytes, Entry | Change] = {}
        while len(changes) < MOST_FOLDED and (part := self._next(course)):
            for each in part:
                change = each.change if isinstance(each, Entry) else each
                changes.append(change)
                fold[change.key] = each
        done = 0
        for ref in manifest.chunks:
            self._chunk(ref, fold, course)
            done += ref.documents
            count(done)
        self._load_new(fold.values())
        for change in changes:
            course.leaves.add(change.key, change.after)
        course.erased |= {key for key, each in fold.items() if isinstance(each, Change)}

    def replay(self, course: Course, count: Count) -> None:
        """Make the changes that were not folded."""
        while part := self._next(course):
            with write(self._engine) as connection:
                replay(connection, [each for each in part if isinstance(each, Entry)])
            for each in part:
                change = each.change if isinstance(each, Entry) else each
                course.leaves.add(change.key, change.after)
                if isinstance(each, Change):
                    course.erased.add(change.key)
            count(course.changes)

    def _next(self, course: Course) -> Sequence[Entry | Change]:
        """The next segment's changes, up to the goal; empty at the end."""
        if course.stopped or (link := next(self._links, None)) is None:
            return ()
        changes = link.file.changes
        wanted, course.stopped = self._cut(changes)
        if not wanted:
            return ()
        course.links.append(link)
        course.seq = changes[wanted - 1].seq
        course.chain = link.chain_after(wanted)
        course.changes += wanted
        course.last_at = changes[wanted - 1].at
        return link.entries[:wanted]

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

    def _chunk(self, ref: ChunkRef, fold: dict[bytes, Entry | Change], course: Course) -> None:
        try:
            file = decode(self._objects.get(ref.name, ref.size))
        except (ObjectDamaged, ObjectMissing, ObjectTooLarge) as error:
            raise BackupDamaged(f"{ref.name}: {error}") from None
        if file.cores_digest().hex() != ref.cores:
            raise BackupDamaged(f"{ref.name}: holds other documents than the manifest says")
        codes, keys, digests = file.named()
        collection = BY_CODE.get(codes[0])
        if collection is None or len(set(codes)) > 1:
            raise BackupDamaged(f"{ref.name}: is not of one collection that this release knows")
        rows: list[Row] = []
        add = course.leaves.add
        for key, digest, row in zip(keys, digests, file.rows(self._unseal), strict=True):
            add(key, digest)
            if key in fold:
                changed = fold.pop(key)
                rows += _rows_of(changed)
                if isinstance(changed, Change):
                    course.erased.add(key)
            elif row is not None:
                rows.append(row)
            else:
                course.erased.add(key)
        with write(self._engine) as connection:
            load_rows(connection, collection, rows)

    def _load_new(self, entries: Iterable[Entry | Change]) -> None:
        """Load the documents that were made after the snapshot."""
        rows: dict[int, list[Row]] = {}
        for each in entries:
            if isinstance(each, Entry):
                rows.setdefault(each.change.collection, []).extend(_rows_of(each))
        with write(self._engine) as connection:
            for collection in COLLECTIONS:
                load_rows(connection, collection, rows.get(collection.code, []))


def _rows_of(each: Entry | Change) -> list[Row]:
    """The row that a change left, if it left one that can be read."""
    return [row_of(each)] if isinstance(each, Entry) and each.image is not None else []
