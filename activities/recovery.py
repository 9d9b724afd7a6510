"""Effects of recovery in one region: snapshot, restore beside the store, publish, throw away."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine
from temporalio import activity

from activities.errors import final_errors
from activities.heartbeats import alive, beat
from models.backup_file import Unseal
from models.checkpoint import open_checkpoint
from models.claim import LARGEST_CLAIM, Claim, read_claim
from models.receipts import Draft
from models.recovery import (
    BuildStore,
    BuiltStore,
    CertifyStore,
    Published,
    PublishStore,
    SnapshotReport,
    SnapshotRequest,
)
from models.restore import RestoreReport
from models.restore_certificate import Times
from stores.backup_end import newest_head
from stores.backup_layout import epoch_name, manifests
from stores.certifying import certify, keep_certificate
from stores.changelog import NotProtected, fence
from stores.checkpoints import CheckpointFiles
from stores.deadline import within
from stores.keys import SigningKey
from stores.ledger import Ledger
from stores.objects import ObjectStore
from stores.pins import pinned
from stores.pointer import Pointer, PointerError, PrimaryPointer
from stores.processes import ProcessStore
from stores.region_state import jump_generation
from stores.restore import Restorer, StoreWentOn, Target
from stores.restore_plan import BackupReader, NothingToRestore
from stores.restore_target import (
    create_target,
    drop_target,
    target_url,
    thrown_away_on_error,
    without_password,
)
from stores.shards import ShardStore
from stores.snapshots import Snapshotter
from stores.sql import StoreUnavailable, open_engine, open_scratch, settle, write
from stores.witness import Witness, open_head

ROUTES_AHEAD = 100_000
"""The lost store may have published routes that its backup does not know: count on far above them,
or the routes of the restored one would pass for old."""


FENCE_S = 30.0
"""A former primary that hangs is fenced when it answers again; nothing waits for that."""

BUSY = ("locked", "overloaded")
"""Kinds of `StoreUnavailable` of a store that is there."""


class Follower(Protocol):
    """What follows the region's primary; it may be gone just now."""

    def snapshotter(self) -> Snapshotter:
        """Raises `StoreUnavailable` where the primary does not answer."""

    def catch_up(self) -> None:
        """Ship what the primary still has to give; does nothing where it gives nothing.

        Raises `ObjectError` or `OSError` where the backup does not take it.
        """


class RecoveryActivities:
    """What the recovery worker does for one region.

    Args:
        certificates: directory where certificates are kept beside the backup.
        version: the build that certificates name.
    """

    def __init__(
        self,
        region: str,
        *,
        primary: Callable[[], Pointer],
        pointer: PrimaryPointer,
        follower: Follower,
        objects: ObjectStore,
        witness: Witness,
        key: SigningKey,
        checkpoints: CheckpointFiles,
        unseal: Unseal,
        certificates: Path,
        version: str,
    ) -> None:
        self._region = region
        self._primary = primary
        self._pointer = pointer
        self._follower = follower
        self._objects = objects
        self._witness = witness
        self._key = key
        self._checkpoints = checkpoints
        self._unseal = unseal
        self._certificates = certificates
        self._version = version

    @activity.defn
    @final_errors
    def snapshot_region(self, request: SnapshotRequest) -> SnapshotReport:
        """Snapshot the primary as it is now."""
        made = self._follower.snapshotter().snapshot(activity.heartbeat)
        manifest = made.manifest
        return SnapshotReport(
            region=self._region,
            store=manifest.store,
            seq=manifest.seq,
            documents=manifest.documents,
            chunks=len(manifest.chunks),
            new_chunks=made.new_chunks,
            state_root=manifest.state_root,
            manifest=made.name,
        )

    @activity.defn
    @final_errors
    @alive
    def build_store(self, step: BuildStore) -> BuiltStore:
        """Restore into a database beside the primary; begun again it starts anew."""
        request, primary = step.request, self._primary()
        self._follower.catch_up()
        source = request.store or self._backed_up(primary)
        keys = self._key.trusted(self._region)
        note = request.head.encode() if request.head else self._newest_head(source)
        if note is None:
            raise NothingToRestore(
                f"head: no signed head of store {source} was witnessed, and none is given"
            )
        reader = BackupReader(self._objects, self._region, source, keys, self._unseal)
        url = target_url(primary.database, step.restored)
        notes = list(self._checkpoints.notes())
        restorer = Restorer(
            reader,
            checkpoints=[open_checkpoint(each, keys) for each in notes],
            progress=beat,
        )
        epoch = self._free_epoch(primary.epoch, step.restored, source)
        try:
            with thrown_away_on_error(url):
                create_target(url)
                report = self._build(restorer, url, epoch, step, note)
                settle(url)
        except NothingToRestore as error:
            former = self._restored_from(source, primary.epoch)
            hint = f"; what it was restored from may be had: store {former}" if former else ""
            raise NothingToRestore(f"{error}{hint}") from None
        wanted = notes[-1].decode() if notes and report.receipts_expected else ""
        return BuiltStore(
            report=report, head=note.decode(), checkpoint=wanted, replaces=primary.store
        )

    def _build(
        self, restorer: Restorer, url: str, epoch: int, step: BuildStore, note: bytes
    ) -> RestoreReport:
        """Restore into an empty database; nothing of it is durable yet."""
        engine = open_scratch(url)
        try:
            target = Target(engine, step.restored, epoch)
            with pinned(self._objects, self._region, step.workflow, beat=beat):
                return restorer.restore(target, note, step.request.goal)
        finally:
            engine.dispose()

    @activity.defn
    @final_errors
    @alive
    def certify_store(self, step: CertifyStore) -> str:
        """Sign the certificate and keep it here and in the backup; where it is here."""
        built = step.built
        data = certify(
            built.report,
            self._key,
            kind="drill" if step.drill else "restore",
            expected_head=built.head.encode(),
            times=Times(started_at=step.started, finished_at=step.finished),
            code_version=self._version,
            checkpoint=built.checkpoint.encode() or None,
            acceptance=step.accepted,
        )
        store = built.report.restored_store
        path = keep_certificate(self._objects, self._certificates, self._region, store, data)
        return str(path)

    @activity.defn
    @final_errors
    @alive
    def publish_store(self, step: PublishStore) -> Published:
        """Fence the old primary, write the receipt into the new one, and point at it."""
        primary = self._primary()
        if primary.store != step.restored:
            if step.replaces not in ("", primary.store):
                raise PointerError(f"{primary.store} became the primary while the restore ran")
            url = target_url(primary.database, step.restored)
            epoch = step.report.epoch
            claim = Claim(epoch=epoch, store=step.restored, source=step.report.source_store)
            self._objects.put(epoch_name(self._region, epoch), claim.encoded())
            self._fence_former(primary, epoch)
            if step.latest:
                self._require_all(primary, step)
            self._record(url, step)
            former = (*primary.former, primary.database)
            found = Pointer(store=step.restored, epoch=epoch, database=url, former=former)
            self._pointer.move(found, replaces=primary)
            primary = found
        return Published(
            region=self._region,
            store=primary.store,
            epoch=primary.epoch,
            database=without_password(primary.database),
        )

    @activity.defn
    @final_errors
    @alive
    def discard_store(self, restored: str) -> bool:
        """Throw away what a restore built; false when it is the primary by now."""
        primary = self._primary()
        if primary.store == restored:
            return False
        drop_target(target_url(primary.database, restored))
        return True

    def _claim(self, epoch: int) -> Claim | None:
        """Whose an epoch is; None where nobody has claimed it."""
        name = epoch_name(self._region, epoch)
        if self._objects.stat(name) is None:
            return None
        return read_claim(self._objects.get(name, LARGEST_CLAIM))

    def _free_epoch(self, epoch: int, restored: str, source: str) -> int:
        """The next epoch that nobody else has claimed: a publication may have been given up."""
        while True:
            epoch += 1
            claim = self._claim(epoch)
            if claim in (None, Claim(epoch=epoch, store=restored, source=source)):
                return epoch

    def _backed_up(self, primary: Pointer) -> str:
        """The primary, or while nothing of it was backed up the store it was restored from."""
        store, epoch = primary.store, primary.epoch
        while not self._has_backup(store):
            source = self._restored_from(store, epoch)
            if source is None:
                return primary.store
            store, epoch = source, epoch - 1
        return store

    def _has_backup(self, store: str) -> bool:
        witnessed = self._witness.head(self._region, store) is not None
        return witnessed or any(True for _ in manifests(self._objects, self._region, store))

    def _restored_from(self, store: str, epoch: int) -> str | None:
        claim = self._claim(epoch)
        return claim.source or None if claim is not None and claim.store == store else None

    def _fence_former(self, primary: Pointer, epoch: int) -> None:
        """Fence what was the primary; where it is gone, it is fenced as soon as it is back.

        Raises:
            StoreUnavailable: it is there, and too busy to be fenced.
        """
        try:
            fence_store(primary.database, self._region, epoch)
        except StoreUnavailable as error:
            if error.kind in BUSY:
                raise

    def _newest_head(self, store: str) -> bytes | None:
        keys = self._key.trusted(self._region)
        return newest_head(self._objects, self._witness, self._region, store, keys)

    def _require_all(self, primary: Pointer, step: PublishStore) -> None:
        """See that what was the primary took no write after the head that was restored.

        One that is gone may have: while the restore ran, a buffer was drained into it, say.

        Raises:
            StoreWentOn: it did; what it took is in the backup by now.
        """
        self._follower.catch_up()
        note = self._newest_head(primary.store)
        if note is None:  # it is gone, and nothing of it was ever backed up
            return
        head = open_head(note, self._key.trusted(self._region))
        if head.size > step.report.expected_seq:
            raise StoreWentOn(
                f"store {primary.store} took changes {step.report.expected_seq + 1} to "
                f"{head.size} after the restore began; it takes no more: restore once more"
            )

    def _record(self, url: str, step: PublishStore) -> None:
        """The first receipt of the restored store says what it is and who made it the primary."""
        report = step.report
        body = {
            "goal": report.goal.model_dump(mode="json"),
            "source_store": report.source_store,
            "restored_store": report.restored_store,
            "epoch": report.epoch,
            "reached_seq": report.reached_seq,
            "expected_seq": report.expected_seq,
            "state_root": report.state_root,
            "manifest": report.base_manifest,
            "gap": None if report.gap is None else report.gap.model_dump(mode="json"),
            "ledger_fault": None
            if report.ledger_fault is None
            else report.ledger_fault.model_dump(mode="json"),
            "accepted": None if step.accepted is None else step.accepted.model_dump(mode="json"),
            "receipts": report.receipts,
            "receipts_expected": report.receipts_expected,
            "erased": report.erased,
            "reason": step.reason,
        }
        draft = Draft(
            kind="region.restored",
            actor=step.actor,
            subject=self._region,
            idempotency_key=f"restore/{report.restored_store}",
            workflow_id=step.workflow,
            body=body,
        )
        engine = open_engine(url)
        try:
            ledger = Ledger(engine, self._region, epoch=Ledger(engine, self._region).head().epoch)
            if ledger.find(draft.idempotency_key) is None:
                _put_to_work(engine, self._region, ledger)
            ledger.append([draft])
        finally:
            engine.dispose()


def _put_to_work(engine: Engine, region: str, ledger: Ledger) -> None:
    """Bring what is not in a backup in line with what is: processes, and the count of routes."""
    shards = ShardStore(engine, ledger, region)
    processes = ProcessStore(engine)
    for release in shards.active_releases():
        processes.want(release)
    with write(engine) as connection:
        jump_generation(connection, region, ROUTES_AHEAD)


def fence_store(database: str, region: str, epoch: int) -> None:
    """Have a former primary refuse every write.

    Raises:
        StoreUnavailable: it does not answer, or is not there now.
    """
    with contextlib.suppress(NotProtected):  # something else is in its place by now
        within(FENCE_S, partial(_fence, database, region, epoch))


def _fence(database: str, region: str, epoch: int) -> None:
    if database.startswith("sqlite:///") and not Path(database.removeprefix("sqlite:///")).exists():
        raise StoreUnavailable("unreachable", f"{database} is not there")  # opening would make it
    engine = open_engine(database)
    try:
        fence(engine, region, epoch=epoch, why=f"epoch {epoch} is another store's")
    finally:
        engine.dispose()
