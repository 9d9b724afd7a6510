"""What one tenant, or the region itself, has in a backup: loaded alone, and held against the whole.

All chunks and segments are read, and the digests of all documents make the state root that is
signed; only one owner's documents are opened.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine

from models.backup_file import Unseal
from models.checkpoint import Checkpoint
from models.restore import Goal
from stores.leaf_spool import LeafSpool
from stores.restore_build import Builder, Course
from stores.restore_plan import BackupReader, Base
from stores.restore_proof import compare_signed
from stores.sql import create_all, open_scratch

REGION = ""
"""The owner of what belongs to no tenant."""

Progress = Callable[[str, int], None]


@dataclass
class OnlyOf:
    """Opens one owner's documents, and nobody else's.

    Attributes:
        erased: some were there that nobody can open any more.
    """

    owner: str
    unseal: Unseal
    erased: bool = False

    def __call__(self, tenant: str, sealed: bytes, bound_to: bytes) -> bytes | None:
        """See `models.backup_file.Unseal`."""
        if tenant != self.owner:
            return None
        found = self.unseal(tenant, sealed, bound_to)
        self.erased |= found is None
        return found


@dataclass(frozen=True)
class Part:
    """An owner's documents as they were loaded, and the state that they were taken from.

    Attributes:
        reader: its findings are those of this reading.
        leaves: what every document of the store must be, by digests.
        root: the store's state root, as signed; root_note signs it for exactly this change.
        erased: the owner's key is destroyed.
    """

    reader: BackupReader
    expected: Checkpoint
    base: Base
    course: Course
    root: bytes
    root_note: str
    erased: bool

    @property
    def leaves(self) -> LeafSpool:
        """What every document of the store is now, by digests."""
        return self.course.now


@contextmanager
def loaded_part(
    reader: BackupReader,
    owner: str,
    note: bytes,
    goal: Goal,
    scratch: Engine,
    progress: Progress = lambda _phase, _amount: None,
) -> Iterator[Part]:
    """Load an owner's documents, as they were at the goal, into an empty database.

    Whether these are all, and as they were signed, is for the caller to compare with the leaves.

    Raises:
        NothingToRestore, GoalUnknown, RestoreMismatch, BackupDamaged, DocumentError,
        SchemaUnknown: as of `stores.restore.Restorer.restore`.
        models.verifier.Refused: the signed head does not stand.
    """
    opener = OnlyOf(owner, reader.unseal)
    reader = reader.opening(opener)
    expected = reader.expected(note)
    base = reader.base_for(goal, expected)
    chain = bytes.fromhex(base.manifest.chain)
    until = expected.size if goal.seq is None else goal.seq
    create_all(scratch)
    with LeafSpool() as leaves:
        course = Course(base.manifest.seq, chain, leaves, erased=None)
        links = reader.links(course.seq, chain, until=until)
        builder = Builder(
            scratch, reader.region, reader.objects, opener, goal, links, reader.upcasters
        )
        try:
            builder.load(base.manifest, course, lambda amount: progress("snapshot", amount))
            builder.replay(course, lambda amount: progress("changelog", amount))
            root = leaves.root()
            note_of_root = compare_signed(base, course, expected, root)
            yield Part(reader, expected, base, course, root, note_of_root, opener.erased)
        finally:
            course.close()


@contextmanager
def scratch_database() -> Iterator[Engine]:
    """An empty database that is gone afterwards, for its owner alone."""
    with tempfile.TemporaryDirectory(prefix="chainring-part-") as directory:
        engine = open_scratch(f"sqlite:///{directory}/part.db")
        try:
            yield engine
        finally:
            engine.dispose()
