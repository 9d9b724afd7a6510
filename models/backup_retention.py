"""What of a backup may go: everything before the snapshot that the oldest wanted moment needs.

The order of snapshots is that of epochs and changes, which are signed; it needs no clock. How old a
snapshot is, is counted along that order: from one snapshot to the next by the smaller step of two
clocks (the writer's and the object store's), and never by more than `Limits.step`. A clock that
jumps ahead therefore ages nothing, and one that is seen to be wrong stops the plan.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

NONE = timedelta(0)


class RetentionRefused(Exception):
    """Nothing may be removed by these clocks; the message says what does not agree."""


@dataclass(frozen=True)
class Limits:
    """How long a backup is kept, and how far clocks are believed.

    Attributes:
        step: the most that a snapshot is older than the next one, however long it took.
        skew: by how much two clocks may differ.
        stale: the age of the newest snapshot from which on the local clock is not believed.
    """

    retention: timedelta
    step: timedelta
    skew: timedelta = timedelta(minutes=15)
    stale: timedelta = timedelta(hours=12)

    @property
    def wanted(self) -> timedelta:
        """The age of a base: one step more, which is what a single wrong jump can add."""
        return self.retention + self.step


@dataclass(frozen=True, slots=True)
class Item:
    """An object of a store's backup, at the generation that was seen."""

    name: str
    generation: int
    stored: datetime
    size: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A manifest. ``said`` and ``chunks`` are its own words, None where it cannot be read.

    Attributes:
        sound: it stands, and all its chunks are there: a restore can begin with it.
    """

    item: Item
    seq: int
    said: datetime | None
    chunks: frozenset[str] | None
    sound: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the changelog; both numbers are inclusive."""

    item: Item
    first: int
    last: int


@dataclass(frozen=True)
class StoreBackup:
    """All of one store's backup; ``epoch`` is None where nothing says it."""

    store: str
    epoch: int | None
    snapshots: tuple[Snapshot, ...] = ()
    segments: tuple[Segment, ...] = ()
    chunks: tuple[Item, ...] = ()
    marks: tuple[tuple[Item, str], ...] = ()
    """Objects that say that another one is bad, with that one's name."""


@dataclass(frozen=True)
class Now:
    """The same moment by the local clock and by the object store's."""

    local: datetime
    store: datetime


@dataclass(frozen=True)
class Base:
    """The oldest snapshot that is kept, and how old it is at least."""

    store: str
    epoch: int
    seq: int
    name: str
    age: timedelta


@dataclass(frozen=True)
class Plan:
    """What goes, in this order: nothing that is left names something that went before it.

    Attributes:
        base: None where nothing is old enough; then nothing goes.
        chunks_of: the chunks of each snapshot that goes, for one that turns out to be held.
        notes: what is kept although it may be old, and why.
    """

    base: Base | None
    remove: tuple[Item, ...]
    chunks_of: dict[str, frozenset[str]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Dated:
    store: str
    epoch: int
    snapshot: Snapshot
    said: datetime
    stored: datetime


def plan(
    stores: Sequence[StoreBackup], now: Now, limits: Limits, *, base: str | None = None
) -> Plan:
    """What may go by now.

    Args:
        base: the manifest that an earlier plan kept as the oldest; nothing that it needs goes.

    Raises:
        RetentionRefused: the clocks do not agree, or ``base`` is not old enough any more.
    """
    ordered, notes = _ordered(stores)
    dated = _dated(ordered)
    ages = _ages(dated, now, limits)
    old = [
        number
        for number, (each, age) in enumerate(zip(dated, ages, strict=True))
        if each.snapshot.sound and age >= limits.wanted
    ]
    chosen = [n for n in old if base in (None, dated[n].snapshot.item.name)]
    if base is not None and not chosen:
        raise RetentionRefused(f"{base}: is not a snapshot that all older ones may go for")
    first = chosen[-1] if chosen else 0
    _check_clocks(dated[first:], now, limits)
    if not chosen:
        return Plan(None, (), {}, tuple(notes))
    at = dated[first]
    kept = Base(at.store, at.epoch, at.snapshot.seq, at.snapshot.item.name, ages[first])
    before = {each.snapshot.item.name for each in dated[:first]}
    gone = [_of_store(each, kept, before, at.stored, notes) for each in ordered]
    kinds = zip(*(each.parts for each in gone), strict=True)
    flat = [item for parts in kinds for items in parts for item in items]
    chunks_of = {name: chunks for each in gone for name, chunks in each.chunks_of.items()}
    return Plan(kept, tuple(flat), chunks_of, tuple(notes))


@dataclass(frozen=True)
class _Gone:
    parts: tuple[list[Item], list[Item], list[Item], list[Item]]
    chunks_of: dict[str, frozenset[str]]


def _of_store(
    store: StoreBackup, base: Base, before: set[str], since: datetime, notes: list[str]
) -> _Gone:
    """What of one store lies before the base."""
    assert store.epoch is not None
    if store.epoch > base.epoch:
        return _Gone(([], [], [], []), {})
    whole = store.epoch < base.epoch
    snapshots = [
        each for each in store.snapshots if whole or each.item.name in before or each.seq < base.seq
    ]
    segments = [each.item for each in store.segments if whole or each.last <= base.seq]
    items = [each.item for each in snapshots]
    going = {item.name for item in items}
    kept = [each for each in store.snapshots if each.item.name not in going]
    chunks = _unnamed(store, kept, since, whole=whole, notes=notes)
    names = {item.name for item in (*items, *segments, *chunks)}
    marks = [mark for mark, name in store.marks if whole or name in names]
    chunks_of = {each.item.name: each.chunks or frozenset() for each in snapshots}
    return _Gone((items, segments, chunks, marks), chunks_of)


def _unnamed(
    store: StoreBackup,
    kept: Sequence[Snapshot],
    since: datetime,
    *,
    whole: bool,
    notes: list[str],
) -> list[Item]:
    """Chunks that no kept snapshot names, and that no snapshot since the base can have made."""
    if whole:
        return list(store.chunks)
    named: set[str] = set()
    for each in kept:
        if each.chunks is None:
            notes.append(f"{each.item.name}: cannot be read; all chunks of its store are kept")
            return []
        named |= each.chunks
    stems = {_stem(name) for name in named}
    return [
        chunk
        for chunk in store.chunks
        if chunk.name not in named and _stem(chunk.name) not in stems and chunk.stored < since
    ]


def _stem(chunk: str) -> str:
    """The documents that a chunk is named by: its copies hold the same."""
    return chunk.rpartition("/")[2].removesuffix(".chunk").partition("-")[0]


def _ordered(stores: Sequence[StoreBackup]) -> tuple[list[StoreBackup], list[str]]:
    """Stores in the order of their epochs, without those that have no place in it."""
    notes = []
    epochs = [each.epoch for each in stores]
    ordered = []
    for each in sorted(stores, key=lambda one: (one.epoch or 0, one.store)):
        if each.epoch is None:
            notes.append(f"store {each.store}: names no epoch; all of it is kept")
        elif epochs.count(each.epoch) > 1:
            notes.append(f"store {each.store}: another has epoch {each.epoch} too; it is kept")
        else:
            ordered.append(each)
    return ordered, notes


def _dated(stores: Iterable[StoreBackup]) -> list[_Dated]:
    """Snapshots that can be read, in the order in which they were taken."""
    found = [
        _Dated(store.store, store.epoch or 0, each, each.said, each.item.stored)
        for store in stores
        for each in store.snapshots
        if each.said is not None
    ]
    return sorted(
        found, key=lambda one: (one.epoch, one.snapshot.seq, one.stored, one.snapshot.item.name)
    )


def _ages(dated: Sequence[_Dated], now: Now, limits: Limits) -> list[timedelta]:
    """How old each snapshot is at least."""
    steps = list(_steps(dated, now, limits))
    counted, ages = NONE, list[timedelta]()
    for each, step in zip(reversed(dated), reversed(steps), strict=True):
        counted += step
        ages.append(min(counted, now.local - each.said, now.store - each.stored))
    return ages[::-1]


def _steps(dated: Sequence[_Dated], now: Now, limits: Limits) -> Iterator[timedelta]:
    times = [(each.said, each.stored) for each in dated] + [(now.local, now.store)]
    for (said, stored), (next_said, next_stored) in pairwise(times):
        yield max(NONE, min(next_said - said, next_stored - stored, limits.step))


def _check_clocks(dated: Sequence[_Dated], now: Now, limits: Limits) -> None:
    """Refuse clocks that contradict each other, or what is kept."""
    skew = limits.skew
    if abs(now.local - now.store) > skew:
        raise RetentionRefused(
            f"the local clock says {_at(now.local)}, the object store's {_at(now.store)}"
        )
    for each in dated:
        name = each.snapshot.item.name
        if each.said > now.local + skew or each.stored > now.store + skew:
            raise RetentionRefused(f"{name}: is of {_at(max(each.said, each.stored))}, still ahead")
        if abs(each.said - each.stored) > skew:
            raise RetentionRefused(
                f"{name}: says {_at(each.said)}, and was stored at {_at(each.stored)}"
            )
    for one, two in pairwise(dated):
        if min(two.said - one.said, two.stored - one.stored) < -skew:
            raise RetentionRefused(
                f"{two.snapshot.item.name}: is of {_at(two.said)}, the one before it of "
                f"{_at(one.said)}"
            )
    if dated and now.local - dated[-1].said > limits.stale:
        raise RetentionRefused(
            f"the newest snapshot is of {_at(dated[-1].said)}, and it is {_at(now.local)}: the "
            "clock has jumped, or nothing is backed up any more"
        )


def _at(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%SZ}"
