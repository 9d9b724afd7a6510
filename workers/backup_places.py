"""The places of a region's backup, opened by their addresses."""

from pathlib import Path

from sqlalchemy import Engine

from models.addresses import BackupAddress
from stores.objects import ObjectStore
from stores.objects_gcs import GcsObjects
from stores.objects_local import LocalObjects
from stores.sql import StoreUnavailable, open_engine


def open_objects(backup: BackupAddress) -> ObjectStore:
    """The object store that the addresses name."""
    if not backup.objects.startswith("gs://"):
        return LocalObjects(Path(backup.objects))
    return GcsObjects(backup.objects.removeprefix("gs://"), endpoint=backup.objects_endpoint)


def open_existing(database: str) -> Engine:
    """An engine on a database that is there: SQLite would make a new one in place of a lost one.

    Raises:
        StoreUnavailable: it is not.
    """
    if database.startswith("sqlite:///"):
        path = Path(database.removeprefix("sqlite:///"))
        if not path.exists():
            raise StoreUnavailable("unreachable", f"{path} is not there")
    return open_engine(database)
