"""Removing from a backup what no moment within its retention needs.

Certificates, claims on epochs and stores, and the tenants' keys are never looked at here.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from models.backup_retention import (
    Item,
    Limits,
    Now,
    Plan,
    plan,
)
from models.checkpoint import PublicKey
from models.config_recovery import Backup
from models.prune import KINDS, PlannedRemoval, Pruned
from stores.backup_inventory import Beat, inventory
from stores.objects import (
    GenerationMismatch,
    ObjectRetained,
    ObjectStore,
)
from stores.pins import Pinned, PruneClaim, store_now, sweep

FIRST = 20
"""Names that a plan or a report shows."""


def limits_of(config: Backup) -> Limits:
    """How the configuration keeps a backup."""
    every = timedelta(hours=config.snapshot_interval_hours)
    return Limits(
        retention=timedelta(days=config.retention_days),
        step=2 * every,
        stale=max(timedelta(hours=12), 3 * every),
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

        Done again it goes on where it was. What is held or was changed stays, and is named, and so
        is a reader of the backup, before whom it stops.

        Raises:
            RetentionRefused: the clocks do not agree any more, or the base is wanted again.
            ObjectsUnavailable: try again.
        """

        def alone() -> None:
            claim.check()
            beat()

        removal = _Removal(self._objects, alone)
        reader = ""
        try:
            alone()
            removal.carry_out(self._plan(base, alone))
        except Pinned as pinned:
            reader = str(pinned)
        else:  # by clocks that the plan believed
            sweep(self._objects, self._region, store_now(self._objects, self._region))
        finally:
            claim.release()
        return removal.result(reader)

    def _plan(self, base: str | None, beat: Beat) -> Plan:
        moment = store_now(self._objects, self._region)
        local = self._clock()
        seen = inventory(self._objects, self._region, self._keys, beat)
        return plan(seen, Now(local, moment), self._limits(), base=base)


class _Removal:
    """Removes what a plan has, and counts."""

    def __init__(self, objects: ObjectStore, alone: Beat) -> None:
        self._objects = objects
        self._alone = alone
        self._counts: Counter[str] = Counter()
        self._size = 0
        self._refused: list[str] = []

    def carry_out(self, made: Plan) -> None:
        """Remove until all is gone; `Pinned` from ``alone`` stops it between two objects."""
        still_named: set[str] = set()
        for item in made.remove:
            self._alone()
            if item.name in still_named:
                self._refused.append(f"{item.name}: a snapshot that is held needs it")
                continue
            try:
                self._objects.delete(item.name, if_generation=item.generation)
            except (GenerationMismatch, ObjectRetained) as error:
                self._refused.append(str(error))
                still_named |= made.chunks_of.get(item.name, frozenset())
                continue
            self._counts[_kind(item)] += 1
            self._size += item.size

    def result(self, reader: str) -> Pruned:
        """What went so far."""
        return Pruned(
            counts=dict(self._counts),
            bytes=self._size,
            refused=len(self._refused),
            first_refused=tuple(each[:500] for each in self._refused[:FIRST]),
            reader=reader,
        )


def _kind(item: Item) -> str:
    return item.name.split("/")[2]
