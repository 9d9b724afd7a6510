"""The backup of the tenants' keys: one object, always the newest, sealed by the region's key.

Older ones are never kept: each is a copy of the keys that were destroyed since.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from models.backup_file import Unseal
from stores.envelope import Envelopes
from stores.objects import ObjectStore
from stores.sealing import BackupSeals
from stores.sql import create_all, open_engine
from stores.tenant_keys import RegionKey, TenantKeys

LARGEST = 1024 * 1024 * 1024


class KeyBackup:
    """Keeps the backup of one region's keys, and takes it over where the keys are lost."""

    def __init__(self, region: str, objects: ObjectStore, keys: TenantKeys) -> None:
        self.keys = keys
        self._name = f"{region}/tenant-keys"
        self._objects = objects
        self._taken_over = False
        self._kept: tuple[int, int] | None = None

    def take_over(self) -> None:
        """Once a process: add the keys and tombstones that the backup has and this place has not.

        Raises:
            KeyDamaged: the backup is not of this region, or was changed.
            ObjectsUnavailable: try again later.
        """
        if self._taken_over:
            return
        found = self._objects.stat(self._name)
        if found is not None:
            self.keys.restore(self._objects.get(self._name, LARGEST))
        self._taken_over = True

    def keep(self) -> None:
        """Back up the keys where one was made or destroyed since.

        Before anything leaves that a new one seals; and what is destroyed goes here, too.

        Raises:
            GenerationMismatch, ObjectsUnavailable: see `back_up`.
        """
        made = self.keys.count()
        if made != self._kept:
            self.back_up()
            self._kept = made

    def back_up(self) -> None:
        """Replace the backup by the keys as they are now.

        Raises:
            GenerationMismatch: another process did so at the same time; its copy is as new.
            ObjectsUnavailable: try again later.
        """
        found = self._objects.stat(self._name)
        generation = 0 if found is None else found.generation
        self._objects.put(self._name, self.keys.export(), if_generation=generation)


def unsealing_from_backup(
    region: str, objects: ObjectStore, region_key: RegionKey
) -> Callable[[], AbstractContextManager[Unseal]]:
    """How to unseal with the keys of the backup alone, in a place that is gone afterwards.

    Entering raises `KeyDamaged` where the backup is not of this region, or was changed.
    """

    @contextmanager
    def unsealing() -> Iterator[Unseal]:
        with tempfile.TemporaryDirectory(prefix="chainring-keys-") as directory:
            engine = open_engine(f"sqlite:///{Path(directory) / 'keys.db'}")
            try:
                create_all(engine)
                keys = TenantKeys(engine, region_key)
                KeyBackup(region, objects, keys).take_over()
                yield BackupSeals(Envelopes(keys), region_key).unseal
            finally:
                engine.dispose()

    return unsealing
