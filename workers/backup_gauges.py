"""Metrics of a region's backup beside its lag: snapshots, validation, bad objects.

They are read off the backup itself, so that they hold whoever made a snapshot, and after a restart.
"""

import time
from collections.abc import Callable

from prometheus_client import Gauge

from stores.backup_layout import bad_objects, manifests
from stores.objects import ObjectStore
from stores.validation import RotationFile

SNAPSHOT_AT = Gauge(
    "chainring_snapshot_last_timestamp_seconds",
    "Unix time of the primary's newest snapshot",
    ["region"],
)
READ_AT = Gauge(
    "chainring_backup_read_timestamp_seconds",
    "Unix time of the last validation of a part of the backup",
    ["region"],
)
BAD = Gauge("chainring_backup_bad_objects", "Objects of the primary's backup found bad", ["region"])
EVERY_S = 60.0
"""How often the backup is listed for them."""


class BackupGauges:
    """Tells one region's metrics.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        region: str,
        objects: ObjectStore,
        rotation: RotationFile,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._region = region
        self._objects = objects
        self._rotation = rotation
        self._clock = clock
        self._next = 0.0

    def tell(self, store: str) -> None:
        """Read the backup of the primary, unless that was a moment ago.

        Raises:
            ObjectError, OSError: it is away; the metrics stay as they were, and grow old.
        """
        now = self._clock()
        if now < self._next:
            return
        created = [each.object.created for each in manifests(self._objects, self._region, store)]
        bad = bad_objects(self._objects, self._region, store)
        if created:
            SNAPSHOT_AT.labels(self._region).set(max(created).timestamp())
        BAD.labels(self._region).set(len(bad))
        if (read := self._rotation.read().at) is not None:
            READ_AT.labels(self._region).set(read.timestamp())
        self._next = now + EVERY_S
