"""All that a region's backup holds, store by store, as far as retention is concerned with it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from models.backup_file import BackupDamaged
from models.backup_retention import Item, Segment, Snapshot, StoreBackup
from models.checkpoint import PublicKey
from models.manifest import Manifest, ManifestError, read_manifest
from models.verifier import Refused
from stores.backup_chunks import lost_chunk
from stores.backup_layout import bad_objects, claimed_epoch, manifests, segments, stores
from stores.object_check import check_head
from stores.objects import (
    ObjectDamaged,
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    ObjectTooLarge,
)

_T = TypeVar("_T")
Beat = Callable[[], object]
"""Called all the time."""


def inventory(
    objects: ObjectStore, region: str, keys: Sequence[PublicKey], beat: Beat
) -> list[StoreBackup]:
    """Every store that has a backup.

    Args:
        keys: of the region, which sign its heads.

    Raises:
        ObjectsUnavailable: the backup cannot be read now.
    """
    reader = _Reader(objects, region, keys, beat)
    return [reader.store(store) for store in stores(objects, region)]


class _Reader:
    def __init__(
        self, objects: ObjectStore, region: str, keys: Sequence[PublicKey], beat: Beat
    ) -> None:
        self._objects = objects
        self._region = region
        self._keys = keys
        self._beat = beat

    def store(self, store: str) -> StoreBackup:
        prefix = f"{self._region}/{store}"
        bad = bad_objects(self._objects, self._region, store)
        listed = _beating(self._objects.list(f"{prefix}/chunks/"), self._beat)
        chunks = {info.name: info for info in listed}
        snapshots = []
        for each in _beating(manifests(self._objects, self._region, store), self._beat):
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
                for each in _beating(segments(self._objects, self._region, store), self._beat)
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
