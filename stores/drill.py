"""Rehearsing a restore: what is restored, by what, and how it is held against the live store."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from models.backup_file import BackupDamaged, Unseal
from models.changelog import ChangelogBroken
from models.checkpoint import open_checkpoint
from models.drill import Comparison, DrillKind
from models.restore import Goal, RestoreReport
from stores.backup_layout import claimed_epoch, manifests, store_name, stores
from stores.changelog import NotProtected
from stores.checkpoints import CheckpointFiles
from stores.keys import SigningKey
from stores.objects import ObjectStore
from stores.restore import Progress, Restorer, Target
from stores.restore_plan import BackupReader, NothingToRestore
from stores.snapshots import LiveState, Snapshotter
from stores.sql import StoreUnavailable
from stores.witness import HeadRefused, Witness


class Live(Protocol):
    """What follows the region's primary, which may be gone just now."""

    def snapshotter(self) -> Snapshotter:
        """Raises `StoreUnavailable` or `NotProtected` where the primary does not answer."""


@dataclass(frozen=True)
class Drilled:
    """A store that was built and proved, what it was held against, and what it was made of."""

    report: RestoreReport
    head: bytes
    checkpoint: bytes | None
    used: tuple[str, ...]
    compared: Comparison


@dataclass(frozen=True)
class _Seen:
    """The live store as it was when the drill began, or why it could not be read."""

    state: LiveState | None
    why: str = ""
    wrong: bool = False


class Driller:
    """Restores one region's backup on the side.

    Args:
        unseal: by the region's own keys.
        unsealing_from_backup: by the keys of the backup alone.
    """

    def __init__(
        self,
        region: str,
        *,
        live: Live,
        objects: ObjectStore,
        witness: Witness,
        key: SigningKey,
        checkpoints: CheckpointFiles,
        unseal: Unseal,
        unsealing_from_backup: Callable[[], AbstractContextManager[Unseal]],
    ) -> None:
        self._region = region
        self._live = live
        self._objects = objects
        self._witness = witness
        self._trusted = key.trusted(region)
        self._checkpoints = checkpoints
        self._unseal = unseal
        self._unsealing_from_backup = unsealing_from_backup

    def drill(self, kind: DrillKind, primary: str, target: Target, progress: Progress) -> Drilled:
        """Restore to the newest signed head, and compare with the live store after that change.

        Args:
            primary: id of the store that is the region's; a yearly drill finds it by itself.

        Raises:
            as `Restorer.restore`, and KeyDamaged where the backup of the keys is.
        """
        notes = list(self._checkpoints.notes())  # before the head: it holds their receipts
        seen = self._look(progress)
        store = self._newest_store() if kind == "yearly" else primary
        live = seen.state if seen.state is not None and seen.state.store == store else None
        note = live.head.encode() if live else self._witness.head(self._region, store)
        if note is None:
            raise NothingToRestore(f"head: no signed head of store {store} was witnessed")
        with self._unsealing(kind) as unseal:
            reader = BackupReader(
                self._objects,
                self._region,
                store,
                self._trusted,
                unseal,
                oldest_first=kind == "monthly",
            )
            restorer = Restorer(
                reader,
                checkpoints=[open_checkpoint(each, self._trusted) for each in notes],
                progress=progress,
            )
            report = restorer.restore(target, note, Goal())
        return Drilled(
            report=report,
            head=note,
            checkpoint=notes[-1] if notes and report.receipts_expected else None,
            used=_used(kind, report),
            compared=_compared(seen, report),
        )

    def _look(self, progress: Progress) -> _Seen:
        try:
            state = self._live.snapshotter().live_state(lambda done: progress("live store", done))
        except (StoreUnavailable, NotProtected) as error:
            return _Seen(None, f"it does not answer: {error}")
        except (BackupDamaged, ChangelogBroken, HeadRefused) as error:
            return _Seen(None, f"it does not follow from what was signed: {error}", wrong=True)
        return _Seen(state)

    def _newest_store(self) -> str:
        """The store of the highest epoch that has a snapshot, by the backup alone."""
        found: dict[str, int] = {}
        for store in stores(self._objects, self._region):
            if any(True for _ in manifests(self._objects, self._region, store)):
                found[store] = self._epoch(store)
        if not found:
            raise NothingToRestore(f"the backup of {self._region} has no snapshot of any store")
        newest = max(found.values())
        named = sorted(store for store, epoch in found.items() if epoch == newest)
        if len(named) > 1:
            raise NothingToRestore(f"epoch {newest} is that of {' and '.join(named)}")
        return named[0]

    def _epoch(self, store: str) -> int:
        epoch = claimed_epoch(self._objects, self._region, store)
        if epoch is None:
            raise NothingToRestore(f"{store_name(self._region, store)}: names no epoch")
        return epoch

    @contextmanager
    def _unsealing(self, kind: DrillKind) -> Iterator[Unseal]:
        alone = kind == "yearly"
        with self._unsealing_from_backup() if alone else nullcontext(self._unseal) as unseal:
            yield unseal


def _used(kind: DrillKind, report: RestoreReport) -> tuple[str, ...]:
    keys = "the backup of the tenants' keys, under the region's key"
    return (
        f"snapshot {report.base_manifest}",
        f"{len(report.segments)} segments of the changelog",
        keys if kind == "yearly" else "the tenants' keys of the running region",
        "the signed head and the ledger's checkpoints that are kept outside of the store",
    )


def _compared(seen: _Seen, report: RestoreReport) -> Comparison:
    if (live := seen.state) is None:
        return Comparison(same=False if seen.wrong else None, why=seen.why)
    root = live.root.hex()
    if live.store != report.source_store:
        why = f"the live store is {live.store}, the backup's newest is {report.source_store}"
        return Comparison(same=False, seq=live.seq, live_root=root, why=why)
    if report.reached_seq != live.seq:
        why = f"after change {live.seq} it was read, {report.reached_seq} was restored"
        return Comparison(same=None, seq=live.seq, live_root=root, why=why)
    same = root == report.state_root
    why = "" if same else f"after change {live.seq} its documents make another state root"
    return Comparison(same=same, seq=live.seq, live_root=root, why=why)
