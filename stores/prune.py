"""Removing from a backup what no moment within its retention needs.

Certificates, claims on epochs and stores, and the tenants' keys are never looked at here.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from models.backup_file import BackupDamaged
from models.backup_retention import (
    Item,
    Limits,
    Now,
    Plan,
    Segment,
    Snapshot,
    StoreBackup,
    plan,
)
from models.checkpoint import PublicKey
from models.config_recovery import Backup
from models.manifest import Manifest, ManifestError, read_manifest
from models.prune import KINDS, PlannedRemoval, Pruned
from models.verifier import Refused
from stores.backup_chunks import lost_chunk
from stores.backup_layout import (
    bad_objects,
    claimed_epoch,
    manifests,
    segments,
    stores,
)
from stores.object_check import check_head
from stores.objects import (
    GenerationMismatch,
    ObjectDamaged,
    ObjectInfo,
    ObjectMissing,
    ObjectRetained,
    ObjectStore,
    ObjectTooLarge,
)
from stores.pins import PruneClaim, store_now, sweep

_T = TypeVar("_T")
Beat = Callable[[], object]
"""Called all the time."""

FIRST = 20
"""Names that a plan or a report shows."""


def limits_of(config: Backup) -> Limits:
    """How the configuration keeps a backup."""
    every = timedelta(hours=config.snapshot_interval_hours)
    return Limits(
        retention=timedelta(days=config.retention_days),
        step=2 * every,
        stale=max(timedelta(days=1), 3 * every),
    )


class Pruner:
    """Plans and prunes one region's backup.

    Args:
        keys: of the region, which sign its heads.
        clock: the local one.
    """

    def __init__(
        self,
        objects: ObjectStore,
        region: str,
        keys: Sequence[PublicKey],
        limits: Callable[[], Limits],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._objects = objects
        self._region = region
        self._keys = keys
        self._limits = limits
        self._clock = clock

    def plan(self, beat: Beat = lambda: None) -> PlannedRemoval:
        """What may go now.

        Raises:
            RetentionRefused: the clocks do not agree.
            ObjectsUnavailable: the backup cannot be read now.
        """
        made = self._plan(None, beat)
        if made.base is None:
            return PlannedRemoval(notes=made.notes[:FIRST])
        digest = hashlib.sha256()
        for item in made.remove:
            digest.update(f"{item.name} {item.generation}\n".encode())
        counts = Counter(_kind(item) for item in made.remove)
        return PlannedRemoval(
            base=made.base.name,
            base_seq=made.base.seq,
            store=made.base.store,
            age_days=made.base.age.days,
            counts={kind: counts[kind] for kind in KINDS if counts[kind]},
            bytes=sum(item.size for item in made.remove),
            digest=digest.hexdigest(),
            first=tuple(item.name for item in made.remove[:FIRST]),
            notes=made.notes[:FIRST],
        )

    def prune(self, base: str, claim: PruneClaim, beat: Beat = lambda: None) -> Pruned:
        """Remove what the plan with this base has, each at the generation that was seen.

        Done again it goes on where it was. What is held or was changed stays, and is named.

        Raises:
            RetentionRefused: the clocks do not agree any more, or the base is wanted again.
            Pinned: somebody reads the backup; what went is gone.
            ObjectsUnavailable: try again.
        """

        def alone() -> None:
            claim.check()
            beat()

        try:
            alone()
            return self._remove(self._plan(base, alone), alone)
        finally:
            claim.release()

    def _remove(self, made: Plan, alone: Beat) -> Pruned:
        counts: Counter[str] = Counter()
        size, refused, still_named = 0, list[str](), set[str]()
        for item in made.remove:
            alone()
            if item.name in still_named:
                refused.append(f"{item.name}: a snapshot that is held needs it")
                continue
            try:
                self._objects.delete(item.name, if_generation=item.generation)
            except (GenerationMismatch, ObjectRetained) as error:
                refused.append(str(error))
                still_named |= made.chunks_of.get(item.name, frozenset())
                continue
            counts[_kind(item)] += 1
            size += item.size
        return Pruned(
            counts=dict(counts),
            bytes=size,
            refused=len(refused),
            first_refused=tuple(each[:500] for each in refused[:FIRST]),
        )

    def _plan(self, base: str | None, beat: Beat) -> Plan:
        moment = store_now(self._objects, self._region)
        local = self._clock()
        sweep(self._objects, self._region, moment)
        seen = [self._store(store, beat) for store in stores(self._objects, self._region)]
        return plan(seen, Now(local, moment), self._limits(), base=base)

    def _store(self, store: str, beat: Beat) -> StoreBackup:
        prefix = f"{self._region}/{store}"
        bad = bad_objects(self._objects, self._region, store)
        listed = _beating(self._objects.list(f"{prefix}/chunks/"), beat)
        chunks = {info.name: info for info in listed}
        snapshots = []
        for each in _beating(manifests(self._objects, self._region, store), beat):
            manifest = self._manifest(each.object, store)
            sound = manifest is not None and self._stands(manifest, chunks, bad)
            snapshots.append(
                Snapshot(
                    item=_item(each.object),
                    seq=each.seq,
                    said=manifest.created_at if manifest else None,
                    chunks=frozenset(ref.name for ref in manifest.chunks) if manifest else None,
                    sound=sound,
                )
            )
        return StoreBackup(
            store=store,
            epoch=claimed_epoch(self._objects, self._region, store),
            snapshots=tuple(snapshots),
            segments=tuple(
                Segment(_item(each.object), each.first, each.last)
                for each in _beating(segments(self._objects, self._region, store), beat)
            ),
            chunks=tuple(_item(info) for info in chunks.values()),
            marks=tuple(
                (_item(info), f"{prefix}/{info.name.removeprefix(f'{prefix}/bad/')[:-5]}")
                for info in self._objects.list(f"{prefix}/bad/")
            ),
        )

    def _manifest(self, info: ObjectInfo, store: str) -> Manifest | None:
        try:
            manifest = read_manifest(self._objects.get(info.name, info.size))
            check_head(manifest, self._region, store, self._keys)
        except (
            BackupDamaged,
            ManifestError,
            ObjectDamaged,
            ObjectMissing,
            ObjectTooLarge,
            Refused,
        ):
            return None
        return manifest

    def _stands(self, manifest: Manifest, chunks: dict[str, ObjectInfo], bad: set[str]) -> bool:
        """Whether each of its chunks is there as it names it, or a copy of it is."""
        for ref in manifest.chunks:
            found = chunks.get(ref.name)
            if found is None or found.sha256 != ref.sha256:
                return False
        return not (bad and lost_chunk(self._objects, manifest, bad))


def _beating(items: Iterable[_T], beat: Beat) -> Iterator[_T]:
    """The same items, with a sign of life before each."""
    for item in items:
        beat()
        yield item


def _item(info: ObjectInfo) -> Item:
    return Item(info.name, info.generation, info.created, info.size)


def _kind(item: Item) -> str:
    return item.name.split("/")[2]
