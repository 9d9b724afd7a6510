"""Restoring a region's store from its backup, beside the live one, with every check on the way.

What the store must be follows from the signed chain by digests alone; what it has become is read
back from the database at the end, every document of it. Both state roots must be the same, and the
signed one. Nothing is published here.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from models.changelog import ABSENT
from models.checkpoint import Checkpoint
from models.documents import SCHEMA_VERSION
from models.restore import Gap, Goal, Phase, RestoreReport
from stores.chain_check import check_ledger
from stores.changelog import StoreIdentity, adopt
from stores.collections import COLLECTIONS, Collection
from stores.document_scan import scan_rows
from stores.leaf_spool import LeafSpool
from stores.ledger import Ledger
from stores.restore_build import Builder, Count, Course
from stores.restore_plan import BackupReader, Base
from stores.sql import create_all, read, write

Progress = Callable[[str, int], None]
"""Called with the phase's name and how much of it is done, at least once a chunk or segment."""


class TargetNotEmpty(Exception):
    """A restore never writes over anything."""


class GoalUnknown(ValueError):
    """The goal lies past everything that was signed."""


class RestoreMismatch(Exception):
    """What was restored is not what was signed."""


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
            models.verifier.Refused: the expected head, or a receipt, does not stand.
        """
        self._phases = []
        with self._phase("choose") as count:
            expected = self._reader.expected(expected_note)
            if goal.seq is not None and goal.seq > expected.size:
                raise GoalUnknown(f"seq: {goal.seq} is past the head, {expected.size}")
            base = self._base(expected, goal)
            count(1)
        create_all(target.engine)
        _require_empty(target.engine)
        with LeafSpool() as leaves, _without_collection():
            course = self._build(target.engine, base, expected, goal, leaves)
            return self._prove(target, base, expected, goal, course)

    def _base(self, expected: Checkpoint, goal: Goal) -> Base:
        before = expected.size if goal.seq is None else min(goal.seq, expected.size)
        base = self._reader.base(before=before)
        while _is_past(base, goal):
            base = self._reader.base(before=base.manifest.seq - 1)
        return base

    def _build(
        self, engine: Engine, base: Base, expected: Checkpoint, goal: Goal, leaves: LeafSpool
    ) -> Course:
        manifest = base.manifest
        chain = bytes.fromhex(manifest.chain)
        course = Course(manifest.seq, chain, leaves)
        until = expected.size if goal.seq is None else min(goal.seq, expected.size)
        links = self._reader.links(manifest.seq, chain, until=until)
        region, objects = self._reader.region, self._reader.objects
        builder = Builder(engine, region, objects, self._reader.unseal, goal, links)
        with self._phase("load snapshot") as count:
            builder.load(manifest, course, count)
        with self._phase("replay changelog") as count:
            builder.replay(course, count)
            count(course.changes)
        return course

    def _prove(
        self, target: Target, base: Base, expected: Checkpoint, goal: Goal, course: Course
    ) -> RestoreReport:
        with self._phase("healing check") as count:
            root = course.leaves.root()
            note = self._compare_signed(base, course, expected, root)
            documents, erased = self._heal(target.engine, course, count)
        with self._phase("verify receipts") as count:
            receipts = self._verify_receipts(target.engine)
            count(receipts)
        with self._phase("adopt"):
            identity = StoreIdentity(target.store, self._reader.region, target.epoch, False, "")
            with write(target.engine, lock="schema") as connection:
                adopt(connection, identity, seq=course.seq)
        wanted = _wanted(goal, expected, course)
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
            segments=tuple(link.name for link in course.links),
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
            gap=self._gap(course.seq, wanted),
            findings=tuple(self._reader.findings.list),
            phases=tuple(self._phases),
            schema_version=SCHEMA_VERSION,
        )

    def _gap(self, reached: int, wanted: int) -> Gap | None:
        if reached >= wanted:
            return None
        why = "; ".join(f"{each.where}: {each.what}" for each in self._reader.findings.list)
        return Gap(first=reached + 1, last=wanted, why=why or "no segment leads on from there")

    def _compare_signed(self, base: Base, course: Course, expected: Checkpoint, root: bytes) -> str:
        """The note that signs the state root for exactly this change; empty when none does.

        Raises:
            RestoreMismatch: another one is.
        """
        made = (root.hex(), course.chain.hex())
        manifest, note = base.manifest, ""
        signed = [(manifest.seq, manifest.state_root, manifest.chain, manifest.head)]
        signed += [
            (link.head.size, link.head.root.hex(), link.head.head, link.note)
            for link in course.links
        ]
        signed.append((expected.size, expected.root.hex(), expected.head, ""))
        for seq, wanted, chain, said in signed:
            if seq != course.seq:
                continue
            if (wanted, chain) != made:
                raise RestoreMismatch(
                    f"after change {seq} the state root is signed as {wanted[:16]}, the backup "
                    f"makes it {root.hex()[:16]}"
                )
            note = said or note
        return note

    def _heal(self, engine: Engine, course: Course, count: Count) -> tuple[int, int]:
        """Read every document back: how many there are, and how many were erased.

        Raises:
            RestoreMismatch: what is there is not what must be; names the first difference.
        """
        with LeafSpool() as found, read(engine) as connection:
            documents = 0
            for collection in COLLECTIONS:
                documents += _read_back(connection, collection, found)
                count(documents)
            if found.same(course.leaves):
                return documents, 0
            return documents, _erased(course, found)

    def _verify_receipts(self, engine: Engine) -> int:
        """Check the restored ledger alone, and against the checkpoints that it reaches."""
        ledger = Ledger(engine, self._reader.region)
        size = ledger.head().size
        reached = [each for each in self._checkpoints if each.size <= size]
        check_ledger(ledger, checkpoints=reached)
        return size

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
def _without_collection() -> Iterator[None]:
    """Hundreds of thousands of rows pass, none in a cycle: looking for cycles costs a third."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_back(connection: Connection, collection: Collection, found: LeafSpool) -> int:
    amount, add = 0, found.add
    prefix = f"{collection.name}\0"
    for part in scan_rows(connection, collection):
        for row in part:
            add(sha256((prefix + row[0]).encode()).digest(), sha256(row[1].encode()).digest())
        if collection.payload is not None:
            _check_values(collection, part)
        amount += len(part)
    return amount


def _check_values(collection: Collection, part: Sequence[tuple[Any, ...]]) -> None:
    """The image covers a value's digest, not the value: check that they belong together."""
    for found, _image, tenant, key, digest, _version, value in part:
        if sha256(b"%b\0%b\0%b" % (tenant.encode(), key, value)).digest() != digest:
            raise RestoreMismatch(
                f"{collection.name} {found:.200}: the value is not that of its digest"
            )


def _erased(course: Course, found: LeafSpool) -> int:
    """How many documents are not there because their tenant's key is destroyed.

    Raises:
        RestoreMismatch: any other difference.
    """
    erased = 0
    for key, wanted, there in course.leaves.difference(found):
        if there != ABSENT or key not in course.erased:
            rest = islice(course.leaves.difference(found), 1000)
            raise RestoreMismatch(
                f"document {key.hex()[:16]} should be {wanted.hex()[:16]}, the database has "
                f"{there.hex()[:16]}; documents that differ: {sum(1 for _ in rest)} or more"
            )
        erased += 1
    return erased


def _wanted(goal: Goal, expected: Checkpoint, course: Course) -> int:
    """The change to reach: where the goal turned out to lie, or as far as it could have been."""
    if course.stopped:
        return course.seq
    return expected.size if goal.seq is None else goal.seq


def _is_past(base: Base, goal: Goal) -> bool:
    """Whether the snapshot was taken after the time or the receipt that is wanted."""
    if goal.at is not None:
        return base.manifest.created_at > goal.at
    return goal.receipt is not None and base.manifest.receipts > goal.receipt


def _require_empty(engine: Engine) -> None:
    with read(engine) as connection:
        for collection in COLLECTIONS:
            count = connection.execute(select(func.count()).select_from(collection.table)).scalar()
            if count:
                raise TargetNotEmpty(f"the target's table {collection.name} has {count} rows")
