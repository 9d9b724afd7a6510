"""Restoring a random sample of a backup, document by document, against what was signed.

All cores of the newest snapshot must make the signed state root. Of whole chunks, chosen at random
until they hold the share that is asked for, every document is decrypted, put into a database, read
back, and compared with its core; so is every document of as large a share of the segments.
"""

import random
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from models.backup_file import BackupDamaged, BackupFile, Unseal, decode
from models.changelog import Change, Entry
from models.checkpoint import PublicKey
from models.documents import DocumentError, document_digest, key_digest
from models.manifest import ChunkRef
from models.validation import MOST_BAD, BadObject, ValidationReport
from models.verifier import Refused
from stores.backup_chunks import read_chunk
from stores.backup_layout import SegmentName, bad_objects, segments
from stores.collections import BY_CODE
from stores.document_load import load_rows
from stores.document_scan import scan
from stores.leaf_spool import LeafSpool
from stores.objects import ObjectDamaged, ObjectMissing, ObjectStore, ObjectTooLarge
from stores.restore_plan import BackupReader, Base
from stores.sql import create_all, open_scratch, read, write

Progress = Callable[[int], None]
_WRONG = (BackupDamaged, DocumentError, ObjectDamaged, ObjectTooLarge)
MOST_SEGMENTS = 10_000
"""Segments of a sample at most: a day of shipping every few seconds has more."""


class Sampler:
    """Restores samples of one store's backup."""

    def __init__(
        self,
        objects: ObjectStore,
        region: str,
        store: str,
        keys: Sequence[PublicKey],
        unseal: Unseal,
    ) -> None:
        self._objects = objects
        self._region = region
        self._store = store
        self._unseal = unseal
        self._reader = BackupReader(objects, region, store, keys, unseal)

    def sample(
        self,
        percent: int,
        *,
        seed: str = "",
        progress: Progress = lambda _objects: None,
    ) -> ValidationReport:
        """Restore so many percent of the newest snapshot's documents, and of the segments.

        Args:
            seed: chooses the sample; a fresh one when left out.

        Raises:
            NothingToRestore: no snapshot stands.
            ObjectsUnavailable: the backup cannot be read now.
        """
        seed = seed or secrets.token_hex(16)
        chance = random.Random(seed)  # noqa: S311 - a sample, not a secret
        base = self._reader.base(before=_EVERY)
        bad = [
            BadObject(name=each.where, what=each.what[:500]) for each in self._reader.findings.list
        ]
        chosen = _choose(base.manifest.chunks, percent, chance)
        bad += self._cores(base, progress)
        count = erased = 0
        for ref in chosen:
            try:
                documents, gone = self._restore(ref)
                count, erased = count + documents, erased + gone
            except _WRONG as error:
                bad.append(BadObject(name=ref.name, what=str(error)[:500]))
            progress(count)
        picked = self._segments(percent, chance)
        for segment in picked:
            documents, gone, wrong = self._open(segment)
            count, erased, bad = count + documents, erased + gone, bad + wrong
            progress(count)
        known = bad_objects(self._objects, self._region, self._store)
        names = {each.name: each for each in bad if each.name not in known}
        return ValidationReport(
            objects=len(base.manifest.chunks) + len(picked),
            bytes=sum(ref.size for ref in base.manifest.chunks),
            bad=tuple(names.values())[:MOST_BAD],
            more=len(tuple(names)[MOST_BAD:]),
            known=len({each.name for each in bad} & known),
            documents=count,
            erased=erased,
            of_documents=base.manifest.documents,
            seed=seed,
            manifest=base.name,
        )

    def _cores(self, base: Base, progress: Progress) -> list[BadObject]:
        """Whether all chunks together make the state root that was signed."""
        bad: list[BadObject] = []
        with LeafSpool() as leaves:
            for number, ref in enumerate(base.manifest.chunks):
                try:
                    for change in read_chunk(self._objects, ref).changes:
                        leaves.add(change.key, change.after)
                except _WRONG as error:
                    bad.append(BadObject(name=ref.name, what=str(error)[:500]))
                progress(number)
            root = leaves.root().hex()
        if not bad and root != base.manifest.state_root:
            what = f"its chunks make the state root {root[:16]}, not the signed one"
            bad.append(BadObject(name=base.name, what=what))
        return bad

    def _restore(self, ref: ChunkRef) -> tuple[int, int]:
        """Put a chunk's documents into a database and read them back: how many, and erased ones.

        Raises:
            BackupDamaged, DocumentError: one is not what its core says.
        """
        file = read_chunk(self._objects, ref)
        changes = file.changes
        collection = BY_CODE.get(changes[0].collection)
        if collection is None or any(each.collection != collection.code for each in changes):
            raise BackupDamaged("is not of one collection that this release knows")
        rows = file.rows(self._unseal)
        wanted = {
            change.key: change.after
            for change, row in zip(changes, rows, strict=True)
            if row is not None
        }
        with _scratch() as engine:
            with write(engine) as connection:
                load_rows(connection, collection, [row for row in rows if row is not None])
            with read(engine) as connection:
                for part in scan(connection, collection):
                    for stored in part:
                        key = key_digest(collection.name, stored.key)
                        if wanted.pop(key, None) != document_digest(stored.image):
                            raise BackupDamaged(f"{stored.key[:200]} is not what its core says")
        if wanted:
            raise BackupDamaged(f"{len(wanted)} documents did not come back")
        alive = sum(row is not None for row in rows)
        return alive, len(rows) - alive

    def _segments(self, percent: int, chance: random.Random) -> list[SegmentName]:
        found = list(segments(self._objects, self._region, self._store))
        wanted = min(-(-len(found) * percent // 100), MOST_SEGMENTS)
        return chance.sample(found, wanted)

    def _open(self, segment: SegmentName) -> tuple[int, int, list[BadObject]]:
        """Decrypt and decode a segment: its documents, erased ones, and what is wrong with it."""
        name = segment.object.name
        try:
            file: BackupFile = decode(self._objects.get(name, segment.object.size))
            entries: list[Entry | Change] = file.entries(self._unseal)
            for each in entries:
                if isinstance(each, Entry) and each.image is not None:
                    BY_CODE[each.change.collection].row(each.image, each.payload)
        except ObjectMissing:
            return 0, 0, []  # out of its retention since it was listed
        except (*_WRONG, Refused) as error:
            return 0, 0, [BadObject(name=name, what=str(error)[:500])]
        alive = sum(isinstance(each, Entry) for each in entries)
        return alive, len(entries) - alive, []


_EVERY = (1 << 63) - 1


def _choose(chunks: Sequence[ChunkRef], percent: int, chance: random.Random) -> list[ChunkRef]:
    """Chunks at random, until they hold the share of all documents."""
    wanted = sum(ref.documents for ref in chunks) * percent / 100
    chosen: list[ChunkRef] = []
    for ref in chance.sample(chunks, len(chunks)):
        if sum(each.documents for each in chosen) >= wanted:
            break
        chosen.append(ref)
    return chosen


@contextmanager
def _scratch() -> Iterator[Engine]:
    """An empty database for the rows of one table: what they refer to is elsewhere."""
    with tempfile.TemporaryDirectory(prefix="chainring-sample-") as directory:
        engine = open_scratch(f"sqlite:///{Path(directory) / 'sample.db'}")
        event.listen(engine, "connect", _without_references)
        try:
            create_all(engine)
            yield engine
        finally:
            engine.dispose()


def _without_references(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = OFF")
