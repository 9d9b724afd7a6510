"""A bucket that is away, for an hour or in a drain: writes go on, and nothing is lost.

The clock is the test's own: the hour takes no time.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sim_world import REGION, World
from test_recovery_metrics import ALERTS
from yaml import safe_load

from activities.failover import DrainWaits
from models.recovery import (
    BuildStore,
    Drained,
    DrainStore,
    FailOverRequest,
    PublishStore,
    RestoreRequest,
)
from models.restore import Goal
from stores.backup_layout import segments
from stores.ledger import Ledger
from stores.objects import ObjectsUnavailable
from stores.primary import SPOOL, PrimaryFile
from stores.restore import Restorer, Target
from stores.restore_plan import BackupReader
from stores.spool import Spool
from stores.spool_files import open_spool
from stores.sql import StoreUnavailable, open_engine

DRAIN = DrainStore(actor="ana", reason="disk lost", workflow="failover/1", rebuilt=True)
MINUTE_MS = 60_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, 1, lambda name: f"sqlite:///{tmp_path}/{name}.db")
    with made.running():
        made.backup.round()
        yield made


def put(world: World, key: str) -> None:
    world.serve(lambda keys: keys.put(key, key.encode()), "acme")


def there(world: World) -> set[str]:
    """The keys of the primary, each with its own value."""
    found = world.documents(world.primary().database).items()
    return {doc[2] for doc, value in found if doc[0] == "kv" and value == doc[2].encode()}


def restored(world: World, store: str) -> None:
    """Lose the primary, and have another one restored from the bucket."""
    world.lose(world.primary().database)
    request = RestoreRequest(actor="ana", reason="disk lost")
    step = BuildStore(request=request, restored=store, workflow="restore/1")
    built = world.activity("build_store", step)
    publish = PublishStore(
        report=built.report,
        restored=store,
        actor="ana",
        reason="disk lost",
        workflow="restore/1",
        latest=True,
        replaces=built.replaces,
    )
    world.activity("publish_store", publish)


def lag() -> float:
    found = REGISTRY.get_sample_value("chainring_backup_lag_seconds", {"region": REGION})
    assert found is not None
    return found


def lag_alerts() -> dict[str, float]:
    """The seconds that each alert on the lag allows."""
    groups = safe_load(ALERTS.read_text())["groups"]
    asked = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    found = {
        name: re.fullmatch(r"chainring_backup_lag_seconds > (\d+)", expr)
        for name, expr in asked.items()
    }
    return {name: float(match[1]) for name, match in found.items() if match is not None}


# An hour.


@pytest.mark.parametrize("restarts", [False, True])
def test_writes_go_on_for_an_hour_without_the_bucket_and_all_are_shipped_after_it(
    world: World, restarts: bool
) -> None:
    alerts = lag_alerts()
    assert alerts.keys() == {"ChainringBackupLags", "ChainringBackupFarBehind"}
    assert lag() == 0
    world.bucket.unreachable = True
    for minute in range(60):
        put(world, f"k{minute}")
        if restarts and minute in (10, 40):
            world.stop_recovery()  # another one knows the lag as well
        with pytest.raises(ObjectsUnavailable):
            world.backup.round()
        assert lag() == minute * 60
        for limit in alerts.values():
            assert (lag() > limit) == (minute * 60 > limit)
        world.faults.now_ms += MINUTE_MS
    assert there(world) == {f"k{minute}" for minute in range(60)}

    world.bucket.unreachable = False
    world.backup.round()
    assert lag() == 0
    restored(world, "b" * 32)
    assert there(world) == {f"k{minute}" for minute in range(60)}


# A drain.


@pytest.fixture
def buffered(world: World) -> World:
    """A region that has lost its store, has buffered two writes, and has another store."""
    put(world, "before")
    world.backup.round()
    world.activity("degrade_region", FailOverRequest(actor="ana", reason="disk lost"))
    put(world, "one")
    put(world, "two")
    restored(world, "b" * 32)
    return world


def drain(world: World) -> Drained:
    """An attempt of the activity; the gateway has seen the mode that is in force before it."""
    result = world.activity("drain_buffer", DRAIN)
    assert isinstance(result, Drained)
    return result


def let_go(world: World) -> None:
    """What the gateway does as soon as the region is draining."""
    serving = world.writer.mode._serving
    if serving is not None and serving.buffer is not None:
        serving.buffer.close()


def at_the_second_secure(world: World, trouble: Callable[[], None]) -> None:
    """The region drains, its writes are in the store, and now must get into the backup."""
    real, calls = world.backup.secure, [0]

    def secure() -> None:
        calls[0] += 1
        if calls[0] == 1:
            let_go(world)
        if calls[0] == 2:
            trouble()
        real()

    world.backup.secure = secure  # type: ignore[method-assign]


def drained_by(world: World) -> list[Any]:
    engine = open_engine(world.primary().database)
    found = Ledger(engine, REGION).read(kinds=["region.drained"])
    bodies = [each.receipt.body for each in found]
    engine.dispose()
    return bodies


def judge(world: World, drained: Drained, count: int) -> None:
    """Served from the store again, which has what was acknowledged; the buffer has nothing."""
    assert world.mode().mode == "normal"
    assert (drained.acknowledged, drained.applied, drained.pending) == (count, count, 0)
    assert drained.conflicts == 0 and drained.proof.drained.count == count
    left = open_spool(world.path / SPOOL)
    assert left is not None and not left.records


def test_a_drain_waits_for_the_bucket_and_writes_are_taken_meanwhile(buffered: World) -> None:
    world = buffered
    world.bucket.unreachable = True
    for number in range(3):
        with pytest.raises(ObjectsUnavailable):
            drain(world)
        assert world.mode().mode == "buffered"
        put(world, f"meanwhile {number}")
    world.bucket.unreachable = False
    at_the_second_secure(world, lambda: None)
    judge(world, drain(world), 5)
    assert there(world) == {"before", "one", "two", *(f"meanwhile {n}" for n in range(3))}


@pytest.mark.parametrize("what", ["bucket", "store"])
def test_what_goes_away_in_a_drain_has_the_region_take_writes_again(
    buffered: World, what: str
) -> None:
    """All was made in the new store; then the backup does not take it, or the store is gone."""
    world = buffered

    def away() -> None:
        if what == "bucket":
            world.bucket.unreachable = True
        else:
            world.cut_off(world.primary().database, away=True)

    at_the_second_secure(world, away)
    with pytest.raises((ObjectsUnavailable, StoreUnavailable)):
        drain(world)
    assert world.mode().mode == "buffered" and "the drain waits" in world.mode().why
    put(world, "two")  # over what is drained already
    put(world, "meanwhile")
    with pytest.raises((ObjectsUnavailable, StoreUnavailable)):
        drain(world)  # before it stops the writes
    put(world, "later")

    world.bucket.unreachable = False
    world.bring_back(world.primary().database)
    at_the_second_secure(world, lambda: None)
    judge(world, drain(world), 5)
    assert there(world) == {"before", "one", "two", "meanwhile", "later"}
    said = [body["proof"]["acknowledged"] for body in drained_by(world)]
    assert [each["last"] for each in said] == [2, 5]  # the second counts the first one's as well
    world.stop_writer()  # the gateway follows the primary; the writer here is begun anew
    put(world, "after")
    assert "after" in there(world)


def test_an_attempt_that_another_one_has_put_back_does_not_say_that_all_is_well(
    buffered: World,
) -> None:
    world = buffered

    def another() -> None:  # an attempt that was taken for dead fails, and has the region buffer on
        found = world.mode()
        wanted = found.model_copy(update={"mode": "buffered", "epoch": found.epoch + 1})
        PrimaryFile(world.path, REGION).switch(wanted)

    at_the_second_secure(world, another)
    with pytest.raises(DrainWaits):
        drain(world)
    put(world, "meanwhile")
    at_the_second_secure(world, lambda: None)
    drained = drain(world)
    assert world.mode().mode == "normal" and drained.pending == 0
    assert there(world) == {"before", "one", "two", "meanwhile"}


# Into the backup, as segments.


def test_the_buffer_is_in_the_bucket_as_segments_before_it_is_cleared(
    buffered: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the bucket alone leads to at the moment when the buffer is cleared."""
    world = buffered
    real, seen = Spool.clear, list[set[str]]()

    def clear(spool: Spool, last: int, chain: bytes) -> None:
        seen.append(of_the_bucket(world, tmp_path / "alone.db"))
        real(spool, last, chain)

    monkeypatch.setattr(Spool, "clear", clear)
    names = {each.object.name for each in segments(world.bucket.real, REGION, "b" * 32)}
    at_the_second_secure(world, lambda: None)
    judge(world, drain(world), 2)
    assert seen == [{"before", "one", "two"}]
    added = [
        each.object
        for each in segments(world.bucket.real, REGION, "b" * 32)
        if each.object.name not in names
    ]
    assert added
    for each in added:  # each was written once, and is read back whole
        assert world.bucket.real.get(each.name, each.size)


def of_the_bucket(world: World, file: Path) -> set[str]:
    """The keys of a store that is restored from the bucket to its witnessed head."""
    backup, store = world.backup, world.primary().store
    note = backup.witness.head(REGION, store)
    assert note is not None
    public = [backup.key.public(REGION)]
    reader = BackupReader(world.bucket.real, REGION, store, public, backup._unseal)
    url = f"sqlite:///{file}"
    with world.faults.paused():
        engine = open_engine(url)
        report = Restorer(reader).restore(Target(engine, "c" * 32, 9), note, Goal())
        engine.dispose()
    assert report.complete and report.segments
    return {doc[2] for doc in world.documents(url) if doc[0] == "kv"}
