"""Reads while a region's store is down: its newest snapshot, restored on the side for reading."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from temporalio import activity

from activities.errors import final_errors
from activities.heartbeats import alive, beat
from models.backup_file import Unseal
from models.checkpoint import PublicKey
from models.recovery import CloseSnapshot, OpenedSnapshot
from models.restore import Goal
from stores.changelog import fence
from stores.objects import ObjectStore
from stores.pointer import Pointer
from stores.primary import PrimaryFile
from stores.restore import Restorer, Target
from stores.restore_plan import BackupReader, Base, NothingToRestore
from stores.restore_target import create_target, drop_target, target_url
from stores.sql import open_engine, open_scratch, settle
from stores.witness import Witness


class SnapshotReadActivities:
    """What the recovery worker does for a region's reads in buffered mode.

    Args:
        directory: where the region's mode file is.
    """

    def __init__(
        self,
        region: str,
        directory: Path,
        *,
        primary: Callable[[], Pointer],
        objects: ObjectStore,
        witness: Witness,
        keys: Sequence[PublicKey],
        unseal: Unseal,
    ) -> None:
        self._region = region
        self._file = PrimaryFile(directory, region)
        self._primary = primary
        self._objects = objects
        self._witness = witness
        self._keys = keys
        self._unseal = unseal

    @activity.defn
    @final_errors
    @alive
    def open_snapshot(self, scratch: str) -> OpenedSnapshot:
        """Have the buffer answer for what was in the store as well, as of its newest snapshot.

        The snapshot that a failover before has opened is as good. What could not be brought to its
        end is removed.
        """
        found = self._file.read()
        if found.mode == "buffered" and found.snapshot and found.snapshot_at:
            return OpenedSnapshot(database=found.snapshot, at=found.snapshot_at)
        primary = self._primary()
        url = target_url(primary.database, scratch)
        create_target(url)
        try:
            base = self._restore(url, primary, scratch)
            opened = OpenedSnapshot(database=_public(url), at=base.manifest.created_at)
            self._show(opened)
        except BaseException:
            drop_target(url)
            raise
        return opened

    @activity.defn
    @final_errors
    @alive
    def close_snapshot(self, step: CloseSnapshot) -> int:
        """Remove the scratch stores that are not read any more; how many they are."""
        primary = self._primary()
        urls = {target_url(primary.database, step.scratch)}
        if step.opened is not None:
            name = make_url(step.opened.database).database
            urls.add(_private(make_url(primary.database).set(database=name)))
        unread = urls - {_private(make_url(primary.database))}
        unread = {each for each in unread if _public(each) != self._file.read().snapshot}
        for each in unread:
            drop_target(each)
        return len(unread)

    def _restore(self, url: str, primary: Pointer, scratch: str) -> Base:
        """Restore the newest snapshot that stands, with every check; it takes no writes."""
        note = self._witness.head(self._region, primary.store)
        if note is None:
            raise NothingToRestore(f"no signed head of store {primary.store} was witnessed")
        base = self._reader(primary).base(before=self._reader(primary).expected(note).size)
        engine = open_scratch(url)
        try:
            restorer = Restorer(self._reader(primary), progress=beat)
            restorer.restore(
                Target(engine, scratch, primary.epoch), note, Goal(seq=base.manifest.seq)
            )
        finally:
            engine.dispose()
        settle(url)
        engine = open_engine(url)
        try:
            fence(engine, self._region, epoch=primary.epoch + 1, why="a snapshot, for reading")
        finally:
            engine.dispose()
        return base

    def _reader(self, primary: Pointer) -> BackupReader:
        return BackupReader(self._objects, self._region, primary.store, self._keys, self._unseal)

    def _show(self, opened: OpenedSnapshot) -> None:
        """Have the gateway read it, unless the region buffers no more.

        Raises:
            StalePrimary: something else was changed meanwhile; try again.
        """
        found = self._file.read()
        if found.mode != "buffered":
            raise NothingToRestore(f"the region is {found.mode}: no snapshot is read any more")
        read = {"snapshot": opened.database, "snapshot_at": opened.at}
        self._file.switch(found.model_copy(update={"epoch": found.epoch + 1, **read}))


def _public(url: str) -> str:
    """The address without its password, which the gateway has from its own environment."""
    return _private(make_url(url)._replace(password=None))  # `set` takes None for no change


def _private(url: URL) -> str:
    return url.render_as_string(hide_password=False)
