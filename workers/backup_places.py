"""The object store of a region's backup, opened by its address."""

from pathlib import Path

from models.addresses import BackupAddress
from stores.objects import ObjectStore
from stores.objects_gcs import GcsObjects
from stores.objects_local import LocalObjects


def open_objects(backup: BackupAddress) -> ObjectStore:
    """The object store that the addresses name."""
    if not backup.objects.startswith("gs://"):
        return LocalObjects(Path(backup.objects))
    return GcsObjects(backup.objects.removeprefix("gs://"), endpoint=backup.objects_endpoint)
