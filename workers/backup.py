"""One region's backup, wired from its addresses: what follows the primary and ships its changes."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prometheus_client import Gauge
from sqlalchemy import Engine

from activities.recovery import RecoveryActivities, fence_store
from activities.snapshot_reads import SnapshotReadActivities
from activities.tenant_restore import TenantActivities
from models.addresses import BackupAddress, RegionAddresses
from models.backup_file import BackupDamaged
from models.changelog import ChangelogBroken
from models.config import Config, load_config
from models.verifier import Refused
from stores.backup_layout import manifests
from stores.changelog import NotProtected, identity
from stores.checkpoints import CheckpointFiles, default_directory
from stores.deadline import within
from stores.envelope import Envelopes
from stores.key_backup import KeyBackup
from stores.keys import load_key
from stores.objects import ObjectError
from stores.pace import Pace
from stores.pointer import Pointer, PrimaryPointer
from stores.sealing import BackupSeals
from stores.shipping import Shipper, lag_after
from stores.snapshots import SnapshotMismatch, Snapshotter
from stores.sql import StoreUnavailable, create_all, open_engine, open_existing
from stores.state_tree import StateTree
from stores.tenant_keys import TenantKeys, ensure_region_key
from stores.validation import RotationFile
from stores.witness import HeadRefused, Witness, open_head
from workers.backup_gauges import BackupGauges
from workers.backup_places import open_objects
from workers.process import build_id
from workers.settings import primary_pointer

log = logging.getLogger("chainring.backup")

LAG = Gauge("chainring_backup_lag_seconds", "Age of the oldest change not backed up", ["region"])
LAG_CHANGES = Gauge("chainring_backup_lag_changes", "Changes that are not backed up", ["region"])
BROKEN = Gauge("chainring_backup_broken", "1 while a region's backup cannot go on", ["region"])

CATCH_UP_S = 20.0
"""What a primary that hardly answers gets to give its last changes."""

_LATER = (StoreUnavailable, NotProtected, ObjectError, OSError)
"""What passes by itself: tried again at the next round."""

CANNOT_GO_ON = (BackupDamaged, ChangelogBroken, HeadRefused, SnapshotMismatch)
"""What does not: a person has to look at the store, or at its backup."""


class RegionBackup:
    """Follows one region's primary, and fences those that were it before.

    Args:
        clock: Unix seconds, by which the lag is told.

    Raises:
        KeyFileError: a key is missing or open to others.
        StoreUnavailable: the tenants' keys cannot be opened.
    """

    def __init__(
        self,
        addresses: RegionAddresses,
        backup: BackupAddress,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.region = addresses.region
        self._configured = addresses
        self._clock = clock
        self.work = backup.work
        self.objects = open_objects(backup)
        self.witness = Witness(backup.witness)
        self.key = load_key(addresses.signing_key)
        self.pointer: PrimaryPointer = primary_pointer(self.region)
        engine = open_engine(backup.tenant_keys)
        create_all(engine)
        self.region_key = ensure_region_key(backup.region_key)
        self._keys = KeyBackup(self.region, self.objects, TenantKeys(engine, self.region_key))
        self.seals = BackupSeals(Envelopes(self._keys.keys), self.region_key)
        self._every = self.config().backup.changelog_interval_seconds
        self._fenced: set[str] = set()
        self._based: set[str] = set()
        self._tree: StateTree | None = None
        self._following = ""
        self._distrust = ("", "")
        self._shipper: Shipper | None = None
        self._lock = threading.RLock()
        self._gauges = BackupGauges(self.region, self.objects, self.rotation)
        self._keys_lock = threading.Lock()  # one of its own: a store may hang and keep the other

    def config(self) -> Config:
        """The fleet's configuration as it is now."""
        return load_config(self._configured.config.read_text())

    @property
    def checkpoints(self) -> CheckpointFiles:
        """Those of the region's ledger that are kept outside of its store."""
        return CheckpointFiles(default_directory(self.key.path), self.region)

    @property
    def rotation(self) -> RotationFile:
        """How far the backup's validation is."""
        return RotationFile(self.work / "validation.json")

    @property
    def certificates(self) -> Path:
        """Where certificates are kept beside the backup."""
        return self.work / "certificates"

    def activities(self) -> RecoveryActivities:
        """What the region's recovery workflows run."""
        return RecoveryActivities(
            self.region,
            primary=self.primary,
            pointer=self.pointer,
            follower=self,
            objects=self.objects,
            witness=self.witness,
            key=self.key,
            checkpoints=self.checkpoints,
            unseal=self._unseal,
            certificates=self.certificates,
            version=build_id(),
        )

    def snapshot_reads(self, directory: Path) -> SnapshotReadActivities:
        """What has reads answered in buffered mode; ``directory``: of the mode file."""
        return SnapshotReadActivities(
            self.region,
            directory,
            primary=self.primary,
            objects=self.objects,
            witness=self.witness,
            keys=self.key.trusted(self.region),
            unseal=self._unseal,
        )

    def tenant_activities(self) -> TenantActivities:
        """What restores of single tenants run."""
        return TenantActivities(
            self.region,
            primary=self.primary,
            follower=self,
            objects=self.objects,
            witness=self.witness,
            key=self.key,
            unseal=self._unseal,
            quarantine=self.work / "quarantine",
            mode=self._configured.recovery,
            version=build_id(),
        )

    def primary(self) -> Pointer:
        """The region's primary. The first one is remembered before it can be lost.

        Raises:
            StoreUnavailable, NotProtected: it was never seen.
        """
        found = self.pointer.read()
        if found is not None:
            return found
        database = self._configured.database
        engine = open_existing(database)
        try:
            seen = identity(engine, self.region)
        finally:
            engine.dispose()
        pointer = Pointer(store=seen.id, epoch=seen.epoch, database=database)
        self.pointer.move(pointer)
        return pointer

    def snapshotter(self) -> Snapshotter:
        """See `activities.recovery.Follower`."""
        share = self.config().backup.snapshot_work_percent / 100
        with self._lock:
            shipper = self._follow()
            return self._snapshotter(shipper, share)

    def _snapshotter(self, shipper: Shipper, share: float) -> Snapshotter:
        return Snapshotter(shipper.engine, shipper, pace=partial(Pace, share), directory=self.work)

    def catch_up(self) -> None:
        """See `activities.recovery.Follower`."""
        with contextlib.suppress(StoreUnavailable, NotProtected, *CANNOT_GO_ON):
            within(CATCH_UP_S, self.secure)

    @property
    def distrusted(self) -> str:
        """Why the primary's documents are not those that were signed; "" as long as they are."""
        store, why = self._distrust
        return why if store == self.primary().store else ""

    def secure(self) -> None:
        """Bring everything that the primary holds into its backup, with a snapshot to begin with.

        Raises:
            BackupDamaged, ChangelogBroken, HeadRefused, SnapshotMismatch: the backup cannot go on.
            StoreUnavailable, NotProtected, ObjectError, OSError: try again later.
        """
        with self._lock:
            shipper = self._follow()
            self._have_a_base(shipper)
            shipper.ship_all()

    def round(self) -> None:
        """Ship what there is, measure what there is not, fence what was the primary before."""
        with self._lock:
            try:
                self.secure()
            finally:
                self._measure()
        self._keep_keys()  # one may have been destroyed
        BROKEN.labels(self.region).set(0)
        self._distrust = ("", "")
        self._fence_former()
        self._gauges.tell(self.primary().store)

    def _measure(self) -> None:
        """Say how far the backup is behind: above all while the bucket does not take anything.

        Where the backup ends is taken from outside of it. A store that does not answer is what
        probes tell of.
        """
        with contextlib.suppress(StoreUnavailable, NotProtected, Refused):
            engine = self._open(self.primary())
            try:
                lag = lag_after(engine, self._witnessed(), self._clock)
            finally:
                engine.dispose()
            LAG.labels(self.region).set(lag.seconds)
            LAG_CHANGES.labels(self.region).set(lag.changes)

    def _witnessed(self) -> int:
        """The last change of the primary that is in its backup."""
        note = self.witness.head(self.region, self.primary().store)
        return 0 if note is None else open_head(note, self.key.trusted(self.region)).size

    def run(self, stopping: threading.Event) -> None:
        """Ship until told to stop; what goes wrong is said once, and tried again."""
        said = ""
        while not stopping.is_set():
            try:
                self.round()
                said = ""
            except _LATER as error:
                said = _say(said, f"region {self.region}: the backup waits: {error}")
            except Exception as error:  # also what nobody foresaw: a thread that ends says nothing
                BROKEN.labels(self.region).set(1)
                if isinstance(error, ChangelogBroken | SnapshotMismatch):
                    self._distrust = (self._following, str(error))
                said = _say(said, f"region {self.region}: the backup cannot go on: {error}")
            stopping.wait(self._every)
        with self._lock:
            self._close()

    def _follow(self) -> Shipper:
        """The shipper of the primary as it is now."""
        primary = self.primary()
        if self._shipper is None or self._following != primary.store:
            self._close()
            engine = self._open(primary)
            with self._keys_lock:
                self._keys.take_over()  # or what is shipped would be sealed by other keys
            self._tree = StateTree(self.work / f"{primary.store}.tree")
            self._shipper = Shipper(
                engine,
                self.region,
                self.objects,
                self._tree,
                self.key,
                self.witness,
                self.seals.seal,
                clock=self._clock,
                before_put=self._keep_keys,
            )
            self._following = primary.store
        return self._shipper

    def _open(self, primary: Pointer) -> Engine:
        """The primary's database.

        Raises:
            StoreUnavailable: it is not there, or does not answer.
            NotProtected: it is another store's.
        """
        engine = open_existing(primary.database)
        seen = identity(engine, self.region)
        if seen.id != primary.store:
            engine.dispose()
            raise NotProtected(
                f"the database is store {seen.id}, the primary is {primary.store}: restore it"
            )
        return engine

    def _have_a_base(self, shipper: Shipper) -> None:
        """A new store has a snapshot at once: without one its changelog leads nowhere."""
        store = self._following
        if store in self._based:
            return
        if not any(True for _ in manifests(self.objects, self.region, store)):
            made = self._snapshotter(shipper, 1.0).snapshot()  # what is shipped waits for it
            log.info("region %s: first snapshot of store %s, %s", self.region, store, made.name)
        self._based.add(store)

    def _fence_former(self) -> None:
        primary = self.primary()
        for database in primary.former:
            if database not in self._fenced:
                with contextlib.suppress(StoreUnavailable, NotProtected):
                    fence_store(database, self.region, primary.epoch)
                    self._fenced.add(database)

    def _keep_keys(self) -> None:
        with self._keys_lock:
            self._keys.keep()

    def _unseal(self, tenant: str, sealed: bytes, bound_to: bytes) -> bytes | None:
        """Unseal also where the tenants' keys were lost together with the store."""
        with self._keys_lock:
            self._keys.take_over()
        return self.seals.unseal(tenant, sealed, bound_to)

    def _close(self) -> None:
        if self._tree is not None:
            self._tree.close()
        if self._shipper is not None:
            self._shipper.engine.dispose()
        self._tree = self._shipper = None


def _say(said: str, words: str) -> str:
    if words != said:
        log.error("%s", words)
    return words
