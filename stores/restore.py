"""Restoring a region's store from its backup, beside the live one, with every check on the way.

What the store must be follows from the signed chain by digests alone; what it has become is read
back from the database at the end, every document of it. Both state roots must be the same, and the
signed one. Nothing is published here.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from sqlalchemy import Engine, func, select

from models.changelog import ABSENT
from models.checkpoint import Checkpoint
from models.restore import Goal, LedgerFault, Phase, RestoreReport, Upcast
from models.verifier import Refused
from stores.chain_check import check_ledger
from stores.changelog import StoreIdentity, adopt
from stores.collections import COLLECTIONS
from stores.leaf_spool import LeafSpool
from stores.ledger import Ledger
from stores.parallel_read import ReadBack
from stores.restore_build import Builder, Count, Course
from stores.restore_plan import BackupReader, Base
from stores.restore_proof import RestoreMismatch, compare_signed, gap_of, wanted_seq
from stores.sql import StoreUnavailable, create_all, read, write

Progress = Callable[[str, int], None]
"""Called with the phase's name and how much of it is done, at least once a chunk or segment."""


class TargetNotEmpty(Exception):
    """A restore never writes over anything."""


class StoreWentOn(Exception):
    """The store took writes after the head that was restored; the message says which."""


@dataclass(frozen=True)
class Target:
    """The empty database where a restore builds, and who the store in it will be."""

    engine: Engine
    store: str
    epoch: int


class Restorer:
    """Restores one store.

    Args:
        checkpoints: those of the region's ledger that are kept outside its database.
    """

    def __init__(
        self,
        reader: BackupReader,
        *,
        checkpoints: Sequence[Checkpoint] = (),
        progress: Progress = lambda _phase, _amount: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._checkpoints = checkpoints
        self._progress = progress
        self._clock = clock
        self._phases: list[Phase] = []

    def restore(self, target: Target, expected_note: bytes, goal: Goal) -> RestoreReport:
        """Build the goal's state in the target, as far as the backup goes.

        The report says whether it was reached. A backup that is damaged on the way is restored up
        to there; what does not match what was signed is an error.

        Raises:
            NothingToRestore: no snapshot stands.
            GoalUnknown: it lies past the expected head.
            TargetNotEmpty: the target holds documents.
            RestoreMismatch, BackupDamaged, DocumentError: the backup cannot be trusted.
            models.verifier.Refused: the expected head, or a checkpoint, does not stand.
            StoreUnavailable: the target cannot be written, and is named.
            OSError: the disk is full where the leaves are spooled, which is named.
        """
        with _naming(target.engine):
            return self._restore(target, expected_note, goal)

    def _restore(self, target: Target, expected_note: bytes, goal: Goal) -> RestoreReport:
        self._phases = []
        with self._phase("choose") as count:
            expected = self._reader.expected(expected_note)
            base = self._reader.base_for(goal, expected)
            count(1)
        create_all(target.engine)
        _require_empty(target.engine)
        with LeafSpool() as leaves, _without_collection():
            course = self._course(base, leaves)
            with closing(course):
                self._build(target.engine, base, expected, goal, course)
                return self._prove(target, base, expected, goal, course)

    def _course(self, base: Base, leaves: LeafSpool) -> Course:
        return Course(base.manifest.seq, bytes.fromhex(base.manifest.chain), leaves)

    def _build(
        self, engine: Engine, base: Base, expected: Checkpoint, goal: Goal, course: Course
    ) -> None:
        reader = self._reader
        until = expected.size if goal.seq is None else min(goal.seq, expected.size)
        links = reader.links(course.seq, course.chain, until=until)
        builder = Builder(
            engine, reader.region, reader.objects, reader.unseal, goal, links, reader.upcasters
        )
        with self._phase("load snapshot") as count:
            builder.load(base.manifest, course, count)
        with self._phase("replay changelog") as count:
            builder.replay(course, count)
            count(course.changes)

    def _prove(
        self, target: Target, base: Base, expected: Checkpoint, goal: Goal, course: Course
    ) -> RestoreReport:
        with self._phase("healing check") as count, _read_back(target.engine, count) as reading:
            root = course.leaves.root()
            note = compare_signed(base, course, expected, root)
            now = root if course.made is None else course.made.root()
            documents, erased = _heal(reading, course)
        with self._phase("verify receipts") as count:
            receipts, fault = self._verify_receipts(target.engine)
            count(receipts)
        with self._phase("adopt"):
            identity = StoreIdentity(target.store, self._reader.region, target.epoch, False, "")
            with write(target.engine, lock="schema") as connection:
                adopt(connection, identity, seq=course.seq)
        wanted = wanted_seq(goal, expected, course)
        known = max((each.size for each in self._checkpoints), default=0)
        at = course.last_at
        return RestoreReport(
            region=self._reader.region,
            source_store=self._reader.store,
            restored_store=target.store,
            epoch=target.epoch,
            goal=goal,
            target_seq=wanted,
            reached_seq=course.seq,
            expected_seq=expected.size,
            expected_chain=expected.head,
            base_seq=base.manifest.seq,
            base_manifest=base.name,
            segments=tuple(course.segments),
            state_root=root.hex(),
            root_signed=bool(note),
            root_note=note,
            chain=course.chain.hex(),
            documents=documents,
            changes_applied=course.changes,
            erased=erased,
            receipts=receipts,
            receipts_expected=known if goal.is_head else 0,
            last_change_at=datetime.fromtimestamp(at / 1000, UTC) if at else None,
            gap=gap_of(self._reader, course.seq, wanted),
            ledger_fault=fault,
            findings=tuple(self._reader.findings.list),
            phases=tuple(self._phases),
            upcast=_upcast(course, now),
            schema_version=self._reader.upcasters.current,
        )

    def _verify_receipts(self, engine: Engine) -> tuple[int, LedgerFault | None]:
        """Check the restored ledger alone, and against the checkpoints that it reaches.

        What is wrong with it was so in the store that was signed: it is said, and a person decides.
        """
        ledger = Ledger(engine, self._reader.region)
        size = ledger.head().size
        reached = [each for each in self._checkpoints if each.size <= size]
        try:
            check_ledger(ledger, checkpoints=reached, keys=self._reader.keys)
        except Refused as refusal:
            if refusal.code == "wrong-checkpoint":
                raise
            last = size if refusal.seq is None else refusal.seq
            return size, LedgerFault(code=refusal.code, why=str(refusal), last_valid=last - 1)
        return size, None

    @contextmanager
    def _phase(self, name: str) -> Iterator[Count]:
        started, amount = self._clock(), 0

        def count(done: int) -> None:
            nonlocal amount
            amount = done
            self._progress(name, done)

        yield count
        self._phases.append(Phase(name=name, seconds=self._clock() - started, amount=amount))


@contextmanager
def _read_back(engine: Engine, count: Count) -> Iterator[ReadBack]:
    with LeafSpool() as found, read(engine) as connection:
        reading = ReadBack(connection, COLLECTIONS, found, count)
        with reading.helped():
            yield reading


def _heal(reading: ReadBack, course: Course) -> tuple[int, int]:
    """Read every document back: how many there are, and how many were erased.

    Raises:
        RestoreMismatch: what is there is not what must be; names the first difference.
    """
    documents = reading.finish()
    if reading.found.same(course.now):
        return documents, 0
    return documents, _erased(course, reading.found)


@contextmanager
def _naming(target: Engine) -> Iterator[None]:
    """Name the database that does not take what is built: it is not the one that serves."""
    try:
        yield
    except StoreUnavailable as error:
        where = f"the database that is being built, {target.url.render_as_string()}"
        raise StoreUnavailable(error.kind, f"{where}: {error.detail}") from error


@contextmanager
def _without_collection() -> Iterator[None]:
    """Hundreds of thousands of rows pass, none in a cycle: looking for cycles costs a third."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _upcast(course: Course, root: bytes) -> Upcast | None:
    if course.made is None:
        return None
    return Upcast(
        versions=tuple(sorted(course.older)), documents=course.upcast, state_root=root.hex()
    )


def _erased(course: Course, found: LeafSpool) -> int:
    """How many documents are not there because their tenant's key is destroyed.

    Raises:
        RestoreMismatch: any other difference.
    """
    erased = 0
    for key, wanted, there in course.now.difference(found):
        if there != ABSENT or key not in (course.erased or ()):
            rest = islice(course.now.difference(found), 1000)
            raise RestoreMismatch(
                f"document {key.hex()[:16]} should be {wanted.hex()[:16]}, the database has "
                f"{there.hex()[:16]}; documents that differ: {sum(1 for _ in rest)} or more"
            )
        erased += 1
    return erased


def _require_empty(engine: Engine) -> None:
    with read(engine) as connection:
        for collection in COLLECTIONS:
            count = connection.execute(select(func.count()).select_from(collection.table)).scalar()
            if count:
                raise TargetNotEmpty(f"the target's table {collection.name} has {count} rows")
