"""Who reads a backup, and who prunes it: never at the same time, in any number of processes.

A reader puts a pin into the bucket and then looks for a claim; a pruner puts a claim and then looks
for pins. The bucket orders these, so one of the two sees the other: the pruner gives way at once,
the reader waits until the claim is gone. Both carry a lease, for a process that died; it is
measured by the object store's own clock from what it says of objects just written.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from models.canonical import canonical
from stores.objects import (
    ObjectError,
    ObjectInfo,
    ObjectRetained,
    ObjectStore,
    ObjectsUnavailable,
)

PIN_LEASE = timedelta(hours=13)
"""Longer than any attempt that reads a backup may take."""

CLAIM_LEASE = timedelta(minutes=2)
RENEW_S = 20.0
LAPSE_S = 90.0
"""A claim that was not renewed for so long may have let a reader by."""

LOOK_S = 3.0
"""How often a pruner looks for new readers."""


_OVER = ".over"


class Pinned(Exception):
    """Somebody reads the backup; nothing of it may go now."""


class PruningStuck(ObjectsUnavailable):
    """A pruner does not give way; try again."""


@contextmanager
def pinned(
    objects: ObjectStore,
    region: str,
    holder: str,
    *,
    beat: Callable[[], object] = lambda: None,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[None]:
    """Nothing that is in the backup is pruned within the block.

    Args:
        beat: called while a pruner is waited for.

    Raises:
        ObjectsUnavailable: the backup cannot be used now, or a pruner goes on and on.
    """
    name = f"{region}/pins/{secrets.token_hex(8)}.json"
    started = time.monotonic()
    pin = objects.put(name, canonical({"holder": holder[:500]}))
    try:
        deadline = started + 2 * CLAIM_LEASE.total_seconds()
        while _alive(objects, _claims(region), CLAIM_LEASE, _since(pin, started)):
            if time.monotonic() > deadline:
                raise PruningStuck(f"region {region}: a pruner does not give way")
            beat()
            sleep(0.5)
        yield
    finally:
        _release(objects, pin)


class PruneClaim:
    """A pruner's right to remove something, from the first `check` on until a reader comes.

    What was planned under it holds as long as it never lapsed: `check` is called all the time.

    Args:
        holder: the workflow, for whoever looks into the bucket.
    """

    def __init__(
        self,
        objects: ObjectStore,
        region: str,
        holder: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objects = objects
        self._region = region
        self._holder = holder
        self._clock = clock
        self._claim: ObjectInfo | None = None
        self._renewed = self._looked = 0.0

    def check(self) -> None:
        """Still alone, and all the time since the first call?

        Raises:
            Pinned: no; names a reader.
        """
        now = self._clock()
        if self._claim is not None and now - self._renewed > LAPSE_S:
            raise Pinned(f"the claim lapsed: {now - self._renewed:.0f} s without a look")
        if self._claim is None or now - self._renewed > RENEW_S:
            self._renew()
        elif now - self._looked > LOOK_S:
            self._look(self._claim)

    def release(self) -> None:
        """Let readers go on."""
        if self._claim is not None:
            _release(self._objects, self._claim)
        self._claim = None

    def _renew(self) -> None:
        before = self._clock()
        name = f"{_claims(self._region)}{secrets.token_hex(8)}.json"
        fresh = self._objects.put(name, canonical({"holder": self._holder[:500]}))
        self.release()
        self._claim, self._renewed = fresh, before
        self._look(fresh)

    def _look(self, claim: ObjectInfo) -> None:
        self._looked = self._clock()
        now = claim.created + timedelta(seconds=self._looked - self._renewed)
        found = _alive(self._objects, f"{self._region}/pins/", PIN_LEASE, now)
        if found:
            raise Pinned(f"{found[0].name} since {found[0].created:%Y-%m-%d %H:%M:%SZ}")


def store_now(objects: ObjectStore, region: str) -> datetime:
    """The object store's own clock, by an object that is written for it and removed again."""
    name = f"{region}/clock/{secrets.token_hex(8)}.json"
    probe = objects.put(name, b"{}")
    with suppress(ObjectError):
        objects.delete(name, if_generation=probe.generation)
    return probe.created


def sweep(objects: ObjectStore, region: str, now: datetime) -> int:
    """Remove pins, claims and clocks whose lease has ended; how many."""
    count = 0
    leases = {"pins": PIN_LEASE, "pruning": CLAIM_LEASE, "clock": CLAIM_LEASE}
    for kind, lease in leases.items():
        for found in objects.list(f"{region}/{kind}/"):
            if found.created + lease < now:
                with suppress(ObjectRetained):
                    objects.delete(found.name, if_generation=found.generation)
                    count += 1
    return count


def _claims(region: str) -> str:
    return f"{region}/pruning/"


def _since(info: ObjectInfo, started: float) -> datetime:
    """The store's clock by now: since before it wrote an object."""
    return info.created + timedelta(seconds=time.monotonic() - started)


def _release(objects: ObjectStore, info: ObjectInfo) -> None:
    """Take a pin or claim back; a bucket that lets nothing go is told that it is over."""
    with suppress(ObjectError):  # its lease ends by itself
        try:
            objects.delete(info.name, if_generation=info.generation)
        except ObjectRetained:
            objects.put(f"{info.name}{_OVER}", b"{}")


def _alive(objects: ObjectStore, prefix: str, lease: timedelta, now: datetime) -> list[ObjectInfo]:
    found = list(objects.list(prefix))
    over = {each.name.removesuffix(_OVER) for each in found if each.name.endswith(_OVER)}
    return [
        each
        for each in found
        if each.created + lease > now and each.name.removesuffix(_OVER) not in over
    ]
