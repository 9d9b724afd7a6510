"""Choosing what to restore from: a signed snapshot, and the segments that lead on to the goal.

Nothing in the backup is believed. The head to reach comes from outside; every manifest and segment
must carry a head that the region signed, and the chain must lead from one to the next. What does
not is passed over and named, and the restore goes on from what is left, as far as that goes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from models.backup_file import BackupDamaged, BackupFile, Unseal, decode
from models.changelog import Change, ChangelogBroken, Entry, chain_over, split_cores
from models.checkpoint import Checkpoint, PublicKey
from models.manifest import Manifest, ManifestError, read_manifest
from models.restore import Finding, Goal
from models.upcasting import UPCASTERS, Upcasters
from models.verifier import Refused
from stores.backup_chunks import lost_chunk
from stores.backup_layout import (
    ManifestName,
    SegmentName,
    bad_objects,
    manifests,
    segment_name,
    segments,
)
from stores.objects import ObjectDamaged, ObjectMissing, ObjectStore, ObjectTooLarge
from stores.witness import open_head, state_ledger

_DAMAGE = (BackupDamaged, ObjectDamaged, ObjectMissing, ObjectTooLarge)


class NothingToRestore(Exception):
    """There is no snapshot that stands; the message says what was found instead."""


class GoalUnknown(ValueError):
    """The goal lies past everything that was signed."""


@dataclass
class Findings:
    """What was wrong with the backup, as it is found."""

    list: "list[Finding]" = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        self.list.append(Finding(where=where, what=what))


@dataclass(frozen=True)
class Base:
    """The snapshot to begin with."""

    name: str
    manifest: Manifest


@dataclass(frozen=True)
class Link:
    """A segment that stands, and follows the one before it."""

    name: str
    file: BackupFile
    entries: list[Entry | Change]
    first: int
    last: int
    chain_before: bytes
    chain: bytes
    head: Checkpoint
    schema: int

    @property
    def note(self) -> str:
        """Its head, as signed."""
        return str(self.file.header["head"])

    def chain_after(self, changes: int) -> bytes:
        """The chain hash after the first of its changes."""
        if changes == self.last - self.first + 1:
            return self.chain
        cores = islice(split_cores(self.file.cores), changes)
        return chain_over(self.chain_before, cores)


class BackupReader:
    """One store's backup, read with the public keys of its region and the keys of its tenants.

    Args:
        oldest_first: begin with the oldest snapshot that stands, so that most is replayed.
    """

    def __init__(
        self,
        objects: ObjectStore,
        region: str,
        store: str,
        keys: Sequence[PublicKey],
        unseal: Unseal,
        *,
        oldest_first: bool = False,
        upcasters: Upcasters = UPCASTERS,
    ) -> None:
        self.objects = objects
        self.region = region
        self.store = store
        self.findings = Findings()
        self.keys = keys
        self.unseal = unseal
        self.upcasters = upcasters
        self._oldest_first = oldest_first
        self._bad: set[str] | None = None

    def opening(self, unseal: Unseal) -> "BackupReader":
        """The same backup, of which ``unseal`` opens something else."""
        return BackupReader(
            *(self.objects, self.region, self.store, self.keys, unseal),
            oldest_first=self._oldest_first,
            upcasters=self.upcasters,
        )

    def expected(self, note: bytes) -> Checkpoint:
        """The head to reach, checked.

        Raises:
            models.verifier.Refused: it is not signed by the region, or is another store's.
        """
        head = open_head(note, self.keys)
        if head.ledger != state_ledger(self.region, self.store):
            raise Refused("wrong-ledger", f"the expected head is that of {head.ledger}")
        return head

    def base(self, *, before: int) -> Base:
        """The newest snapshot that stands and holds nothing after change ``before``, or the oldest.

        Raises:
            NothingToRestore: there is none.
            SchemaUnknown: it was made by a newer release.
        """
        found = manifests(self.objects, self.region, self.store)
        for name in sorted(found, key=lambda each: each.seq, reverse=not self._oldest_first):
            if name.seq <= before and (manifest := self._manifest(name)) is not None:
                return Base(name.object.name, manifest)
        said = "; ".join(f"{each.where}: {each.what}" for each in self.findings.list)
        raise NothingToRestore(
            f"no snapshot of store {self.store} of {self.region} at or before change {before} "
            f"stands{': ' + said if said else ''}"
        )

    def base_for(self, goal: Goal, expected: Checkpoint) -> Base:
        """The newest snapshot from which the goal can be reached.

        Raises:
            GoalUnknown: it lies past the expected head.
            NothingToRestore: there is none.
        """
        if goal.seq is not None and goal.seq > expected.size:
            raise GoalUnknown(f"seq: {goal.seq} is past the head, {expected.size}")
        base = self.base(before=expected.size if goal.seq is None else goal.seq)
        while _is_past(base, goal):
            base = self.base(before=base.manifest.seq - 1)
        return base

    def links(self, start: int, chain: bytes, *, until: int) -> Iterator[Link]:
        """The segments from after change ``start`` to ``until``, as far as they stand."""
        known: dict[int, list[SegmentName]] = {}
        for each in segments(self.objects, self.region, self.store):
            known.setdefault(each.first, []).append(each)
        while start < until:
            link = self._next(known.get(start + 1, []), chain)
            if link is None:
                return
            yield link
            start, chain = link.last, link.chain

    def _next(self, candidates: list[SegmentName], chain: bytes) -> Link | None:
        for name in sorted(candidates, key=lambda each: each.last, reverse=True):
            link = self._link(name, chain)
            if link is not None:
                return link
        return None

    def _link(self, name: SegmentName, chain: bytes) -> Link | None:
        try:
            file = decode(self.objects.get(name.object.name, limit=name.object.size))
            return self._checked(name, file, chain)
        except (
            BackupDamaged,
            ChangelogBroken,
            ObjectDamaged,
            ObjectMissing,
            ObjectTooLarge,
            Refused,
        ) as error:
            self.findings.add(name.object.name, str(error))
            return None

    def _checked(self, name: SegmentName, file: BackupFile, chain: bytes) -> Link:
        schema = self.upcasters.check(file.header.get("schema"))
        head = self.expected(str(file.header.get("head")).encode())
        changes = file.changes
        if [change.seq for change in changes] != list(range(name.first, name.last + 1)):
            raise BackupDamaged(f"does not hold the changes {name.first} to {name.last}")
        after = chain_over(chain, split_cores(file.cores))
        if (head.size, head.head) != (name.last, after.hex()):
            raise BackupDamaged(
                f"its changes make the chain {after.hex()[:16]} after {name.last}; signed is "
                f"{head.head[:16]} after {head.size}"
            )
        own = segment_name(self.region, self.store, name.first, name.last, after)
        if name.object.name != own:  # a certificate that names it would not stand
            raise BackupDamaged(f"is a copy: its changes are those of {own}")
        return Link(
            name.object.name,
            file,
            file.entries(self.unseal),
            name.first,
            name.last,
            chain,
            after,
            head,
            schema,
        )

    def _manifest(self, name: ManifestName) -> Manifest | None:
        try:
            data = self.objects.get(name.object.name, limit=name.object.size)
            manifest = read_manifest(data)
            self._check_manifest(name, data, manifest)
        except (
            ManifestError,
            BackupDamaged,
            ObjectDamaged,
            ObjectMissing,
            ObjectTooLarge,
            Refused,
        ) as error:
            self.findings.add(name.object.name, str(error))
            return None
        if self._bad is None:
            self._bad = bad_objects(self.objects, self.region, self.store)
        if lost := lost_chunk(self.objects, manifest, self._bad):
            self.findings.add(name.object.name, f"its chunk {lost} is bad")
            return None
        return manifest

    def _check_manifest(self, name: ManifestName, data: bytes, manifest: Manifest) -> None:
        if hashlib.sha256(data).hexdigest()[:32] not in name.object.name:
            raise BackupDamaged("its bytes are not those that its name says")
        self.upcasters.check(manifest.schema_version)
        head = self.expected(manifest.head.encode())
        said = (manifest.region, manifest.store, manifest.seq, manifest.chain, manifest.state_root)
        signed = (self.region, self.store, head.size, head.head, head.root.hex())
        if said != signed or manifest.seq != name.seq:
            raise BackupDamaged("it says something else than its signed head")


def _is_past(base: Base, goal: Goal) -> bool:
    """Whether the snapshot was taken after the time or the receipt that is wanted."""
    if goal.at is not None:
        return base.manifest.created_at > goal.at
    return goal.receipt is not None and base.manifest.receipts > goal.receipt
