"""What of a backup may go: whatever the clocks do, no moment within the retention is lost."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.backup_retention import (
    Item,
    Limits,
    Now,
    Plan,
    RetentionRefused,
    Segment,
    Snapshot,
    StoreBackup,
    plan,
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(retention=10 * DAY, step=12 * HOUR)
EVERY = 6 * HOUR


def at(moment: datetime) -> Now:
    return Now(moment, moment)


def history(
    epoch: int, begin: datetime, count: int, *, lost: frozenset[int] = frozenset(), every=EVERY
) -> StoreBackup:
    """A store that was snapshotted every few hours; ten changes in between, in two segments.

    Chunk ``n`` belongs to snapshots n and n+1; chunk ``all`` to each of them.
    """
    store = f"{epoch:032x}"
    snapshots, segments, chunks = [], [], {}
    for number in range(count):
        taken = begin + number * every
        seq = number * 10
        names = frozenset(
            {f"c/{store}/{number}", f"c/{store}/{max(0, number - 1)}", f"c/{store}/a"}
        )
        for name in names:
            chunks.setdefault(name, Item(name, 1, taken))
        item = Item(f"m/{store}/{seq}", 1, taken)
        snapshots.append(Snapshot(item, seq, taken, names, sound=number not in lost))
        for first in (seq + 1, seq + 6):
            name = f"s/{store}/{first}"
            segments.append(Segment(Item(name, 1, taken + every / 2), first, first + 4))
    return StoreBackup(store, epoch, tuple(snapshots), tuple(segments), tuple(chunks.values()))


def after(stores: list[StoreBackup], made: Plan) -> list[StoreBackup]:
    """What is left when a plan was carried out."""
    gone = {item.name for item in made.remove}
    return [
        replace(
            each,
            snapshots=tuple(s for s in each.snapshots if s.item.name not in gone),
            segments=tuple(s for s in each.segments if s.item.name not in gone),
            chunks=tuple(c for c in each.chunks if c.name not in gone),
        )
        for each in stores
    ]


def restorable(store: StoreBackup, moment: datetime) -> bool:
    """Whether a sound snapshot until then is there with its chunks, and the segments after it."""
    there = {chunk.name for chunk in store.chunks}
    bases = [
        each
        for each in store.snapshots
        if each.sound and each.said and each.said <= moment and (each.chunks or set()) <= there
    ]
    if not bases:
        return False
    reached = max(each.seq for each in bases)
    last = max((s.last for s in store.segments if s.item.stored <= moment), default=reached)
    for segment in store.segments:
        if segment.first <= reached + 1 <= segment.last:
            reached = segment.last
    return reached >= last


STORES = st.lists(st.integers(1, 60), min_size=1, max_size=4)


@given(STORES, st.frozensets(st.integers(0, 59)), st.integers(0, 12))
def test_every_moment_within_the_retention_stays_restorable(
    counts: list[int], lost: frozenset[int], idle: int
) -> None:
    begin, stores = START, []
    for epoch, count in enumerate(counts, start=1):
        stores.append(history(epoch, begin, count, lost=lost))
        begin += count * EVERY
    now = begin - EVERY + idle * HOUR
    made = plan(stores, at(now), LIMITS)
    left = after(stores, made)

    moment = max(START, now - LIMITS.retention)
    while moment <= now:
        for whole, rest in zip(stores, left, strict=True):
            if any(each.said == moment for each in whole.snapshots) or whole is stores[-1]:
                assert restorable(rest, moment) >= restorable(whole, moment)
        moment += EVERY
    newest = stores[-1].snapshots[-1].item.name
    assert newest not in {item.name for item in made.remove}
    for rest in left:
        there = {chunk.name for chunk in rest.chunks}
        assert all((each.chunks or set()) <= there for each in rest.snapshots)


@given(STORES, st.frozensets(st.integers(0, 59)))
def test_a_plan_is_stable_and_doing_it_twice_removes_nothing_more(
    counts: list[int], lost: frozenset[int]
) -> None:
    begin, stores = START, []
    for epoch, count in enumerate(counts, start=1):
        stores.append(history(epoch, begin, count, lost=lost))
        begin += count * EVERY
    now = at(begin)
    made = plan(stores, now, LIMITS)
    left = after(stores, made)
    assert plan(left, now, LIMITS).remove == ()
    if made.base:
        assert plan(stores, now, LIMITS, base=made.base.name).remove == made.remove


@given(
    st.integers(0, 200),
    st.timedeltas(-400 * DAY, 400 * DAY),
    st.integers(20, 200),
    st.booleans(),
)
def test_a_clock_that_jumps_once_removes_nothing_that_is_wanted(
    when: int, jump: timedelta, count: int, shared: bool
) -> None:
    """``shared``: the object store has the same wrong clock, as a directory on the machine has."""
    true = history(1, START, count)
    snapshots = []
    for number, each in enumerate(true.snapshots):
        off = jump if number >= when else timedelta(0)
        taken = START + number * EVERY
        stored = taken + (off if shared else timedelta(0))
        item = replace(each.item, stored=stored)
        snapshots.append(replace(each, said=taken + off, item=item))
    now = START + count * EVERY
    wrong = now + jump
    told = Now(wrong, wrong if shared else now)
    try:
        made = plan([replace(true, snapshots=tuple(snapshots))], told, LIMITS)
    except RetentionRefused:
        return
    if made.base:
        taken = START + made.base.seq // 10 * EVERY
        assert now - taken >= LIMITS.retention


@given(st.timedeltas(timedelta(minutes=16), 400 * DAY), st.booleans())
def test_a_local_clock_that_is_alone_with_its_time_is_refused(jump: timedelta, back: bool) -> None:
    store = history(1, START, 80)
    now = START + 80 * EVERY
    with pytest.raises(RetentionRefused):
        plan([store], Now(now - jump if back else now + jump, now), LIMITS)


def test_both_clocks_far_ahead_of_the_newest_snapshot_are_refused() -> None:
    store = history(1, START, 80)
    with pytest.raises(RetentionRefused, match="newest snapshot"):
        plan([store], at(START + 80 * EVERY + 2 * DAY), LIMITS)


def test_both_clocks_behind_what_is_kept_are_refused() -> None:
    with pytest.raises(RetentionRefused, match="still ahead"):
        plan([history(1, START, 80)], at(START + 70 * EVERY), LIMITS)


def test_a_snapshot_of_two_times_is_refused_as_long_as_it_is_wanted() -> None:
    store = history(1, START, 80)
    odd = list(store.snapshots)
    odd[70] = replace(odd[70], said=(odd[70].said or START) - 2 * DAY)
    with pytest.raises(RetentionRefused, match="says"):
        plan([replace(store, snapshots=tuple(odd))], at(START + 80 * EVERY), LIMITS)
    odd[70] = store.snapshots[70]
    odd[3] = replace(odd[3], said=START + 9 * DAY)
    made = plan([replace(store, snapshots=tuple(odd))], at(START + 80 * EVERY), LIMITS)
    assert made.base and made.remove


def test_time_without_snapshots_counts_for_little() -> None:
    store = history(1, START, 10, every=5 * DAY)
    made = plan([store], at(START + 45 * DAY), LIMITS)
    assert made.base is None and made.remove == ()


def test_a_former_store_goes_as_a_whole_when_a_later_one_is_old_enough() -> None:
    former = history(1, START, 20)
    later = history(2, START + 20 * EVERY, 80)
    now = at(START + 100 * EVERY)
    made = plan([former, later], now, LIMITS)
    gone = {item.name for item in made.remove}
    assert {item.name for item in former.chunks} <= gone
    assert {each.item.name for each in former.snapshots} <= gone
    assert made.base and made.base.epoch == 2
    early = plan([former, history(2, START + 20 * EVERY, 20)], at(START + 40 * EVERY), LIMITS)
    assert {item.name for item in early.remove}.isdisjoint({"m/" + former.store + "/190"})


def test_stores_without_a_place_in_the_order_are_kept() -> None:
    one, twin = history(1, START, 80), replace(history(1, START, 80), store="f" * 32)
    nobody = replace(history(3, START, 5), epoch=None)
    made = plan([one, twin, nobody], at(START + 80 * EVERY), LIMITS)
    assert made.remove == () and len(made.notes) == 3


def test_chunks_stay_where_a_kept_snapshot_cannot_be_read() -> None:
    store = history(1, START, 80)
    broken = list(store.snapshots)
    broken[75] = replace(broken[75], said=None, chunks=None, sound=False)
    made = plan([replace(store, snapshots=tuple(broken))], at(START + 80 * EVERY), LIMITS)
    gone = {item.name for item in made.remove}
    assert gone and gone.isdisjoint({chunk.name for chunk in store.chunks})
    assert any("cannot be read" in note for note in made.notes)


def test_a_copy_of_a_chunk_that_is_wanted_stays() -> None:
    store = history(1, START, 80)
    newest = store.snapshots[-1]
    [wanted] = [name for name in newest.chunks or () if name.endswith("/79")]
    spare = Item(f"{wanted}-1.chunk", 1, START)
    made = plan([replace(store, chunks=(*store.chunks, spare))], at(START + 80 * EVERY), LIMITS)
    assert spare.name not in {item.name for item in made.remove}


def test_marks_go_with_what_they_are_about() -> None:
    store = history(1, START, 80)
    old, new = store.snapshots[0].item, store.snapshots[-1].item
    marks = ((Item("b/old", 1, START), old.name), (Item("b/new", 1, START), new.name))
    made = plan([replace(store, marks=marks)], at(START + 80 * EVERY), LIMITS)
    gone = {item.name for item in made.remove}
    assert "b/old" in gone and "b/new" not in gone


def test_a_base_that_was_shown_and_is_wanted_again_is_refused() -> None:
    store = history(1, START, 80)
    with pytest.raises(RetentionRefused, match="is not a snapshot"):
        plan([store], at(START + 80 * EVERY), LIMITS, base=store.snapshots[-1].item.name)
