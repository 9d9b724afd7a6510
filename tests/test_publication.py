"""What a restore must not lose when it takes over: each was once lost by a simulated history."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sim_faults import Killed
from sim_world import REGION, World
from temporalio.exceptions import ApplicationError

from activities.failover import FailOverActivities
from models.changelog import ChangelogBroken
from models.recovery import (
    BuildStore,
    BuiltStore,
    Drained,
    DrainStore,
    FailOverRequest,
    PublishStore,
    RestoreRequest,
    SnapshotRequest,
)
from stores.backup_layout import segments
from stores.changelog import identity
from stores.changelog_sql import removal_sql, trigger_sql
from stores.fleet import Asked
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.objects import ObjectsUnavailable
from stores.pointer import Pointer, PointerError, PrimaryPointer
from stores.primary import SPOOL
from stores.spool_files import open_spool
from stores.sql import StoreUnavailable, open_engine, write
from stores.witness import Witness

REQUEST = RestoreRequest(actor="ana", reason="disk lost")
DRAIN = DrainStore(actor="ana", reason="disk lost", workflow="failover/1", rebuilt=True)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, 1, lambda name: f"sqlite:///{tmp_path}/{name}.db")
    with made.running():
        made.backup.round()
        yield made


def build(world: World, restored: str) -> BuiltStore:
    step = BuildStore(request=REQUEST, restored=restored, workflow="restore/1")
    built = world.activity("build_store", step)
    assert isinstance(built, BuiltStore)
    return built


def publish(world: World, built: BuiltStore) -> Any:
    step = PublishStore(
        report=built.report,
        restored=built.report.restored_store,
        actor="ana",
        reason="disk lost",
        workflow="restore/1",
        latest=True,
        replaces=built.replaces,
    )
    return world.activity("publish_store", step)


def put(world: World, key: str, value: bytes) -> None:
    world.serve(lambda keys: keys.put(key, value), "acme")


def value(world: World, key: str) -> bytes | None:
    return world.documents(world.primary().database).get(("kv", "acme", key))


def store(letter: str) -> str:
    return letter * 32


def test_writes_made_while_a_restore_ran_are_in_the_next_one(world: World) -> None:
    built = build(world, store("b"))
    put(world, "late", b"1")
    with pytest.raises(ApplicationError, match="after the restore began") as refused:
        publish(world, built)
    assert refused.value.type == "StoreWentOn"
    with pytest.raises(StoreUnavailable, match="fenced"):
        put(world, "later", b"2")
    publish(world, build(world, store("b")))
    assert world.primary().store == store("b")
    assert value(world, "late") == b"1"


def test_what_a_store_had_backed_up_before_it_was_lost_is_in_the_next_one(world: World) -> None:
    """The backup went on after the restore had read it, and the store is not there to ask."""
    built = build(world, store("b"))
    put(world, "late", b"1")
    world.backup.round()
    world.lose(world.primary().database)
    with pytest.raises(ApplicationError, match="after the restore began") as refused:
        publish(world, built)
    assert refused.value.type == "StoreWentOn"
    world.activity("discard_store", store("b"))
    publish(world, build(world, store("c")))
    assert value(world, "late") == b"1"


def test_what_was_shipped_and_not_witnessed_is_restored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recovery process died right after a segment was put, and the store soon after."""
    put(world, "late", b"1")

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Witness, "admit", die)
        with pytest.raises(Killed):
            world.backup.round()
    world.lose(world.primary().database)
    built = build(world, store("b"))
    assert built.report.complete and built.report.root_signed
    publish(world, built)
    assert value(world, "late") == b"1"


def test_nothing_is_published_while_nobody_knows_what_the_store_took(world: World) -> None:
    built = build(world, store("b"))
    put(world, "late", b"1")
    real = world.backup.secure

    def cut_off() -> None:
        world.bucket.unreachable = True
        real()

    world.backup.secure = cut_off  # type: ignore[method-assign]
    with pytest.raises(ObjectsUnavailable):
        publish(world, built)
    assert world.primary().store != store("b")


def test_a_store_that_comes_back_is_fenced_however_long_it_was_away(world: World) -> None:
    old = world.primary()
    world.cut_off(old.database, away=True)
    publish(world, build(world, store("b")))
    world.backup.round()
    world.bring_back(old.database)
    world.backup.round()
    engine = open_engine(old.database)
    with pytest.raises(StoreUnavailable, match="fenced"):
        TenantKV(engine, "acme").put("zombie", b"1")
    engine.dispose()


def test_a_store_lost_before_its_first_snapshot_is_restored_from_the_one_before(
    world: World,
) -> None:
    put(world, "kept", b"1")
    publish(world, build(world, store("b")))
    world.lose(world.primary().database)
    built = build(world, store("c"))
    assert built.report.complete and built.report.source_store != world.primary().store
    publish(world, built)
    assert value(world, "kept") == b"1"


def test_an_epoch_of_a_publication_that_was_given_up_is_passed_over(world: World) -> None:
    built = build(world, store("b"))
    put(world, "late", b"1")
    with pytest.raises(ApplicationError):
        publish(world, built)  # has claimed its epoch
    world.activity("discard_store", store("b"))
    publish(world, build(world, store("c")))
    assert world.primary().epoch == built.report.epoch + 1


def test_of_two_restores_at_once_one_is_published(world: World) -> None:
    first, second = build(world, store("b")), build(world, store("c"))
    publish(world, first)
    with pytest.raises(ApplicationError, match="became the primary"):
        publish(world, second)
    assert world.primary().store == store("b")


def test_the_pointer_goes_on_from_the_store_that_was_replaced(tmp_path: Path) -> None:
    pointer = PrimaryPointer(tmp_path / "primary.json")
    first, second, third = (
        Pointer(store=store(letter), epoch=epoch, database="sqlite:///x.db")
        for epoch, letter in enumerate("abc", start=1)
    )
    pointer.move(first)
    pointer.move(second, replaces=first)
    pointer.move(second, replaces=first)
    with pytest.raises(PointerError, match="another store"):
        pointer.move(third, replaces=first)
    assert pointer.read() == second


def fail_over_to(world: World, restored: str) -> None:
    """Buffer a write, and restore the store."""
    world.activity("degrade_region", FailOverRequest(actor="ana", reason="disk lost"))
    put(world, "buffered", b"1")
    publish(world, build(world, restored))
    world.stop_writer()


def test_the_buffer_is_kept_until_the_backup_has_what_was_in_it(world: World) -> None:
    fail_over_to(world, store("b"))
    world.backup.round()
    world.bucket.unreachable = True
    with pytest.raises(ObjectsUnavailable):
        world.activity("drain_buffer", DRAIN)
    contents = open_spool(world.path / SPOOL)
    assert contents is not None and len(contents.records) == 1

    world.bucket.unreachable = False
    drained = world.activity("drain_buffer", DRAIN)
    assert (drained.acknowledged, drained.applied, drained.pending) == (1, 1, 0)
    world.lose(world.primary().database)
    publish(world, build(world, store("c")))
    assert value(world, "buffered") == b"1"


@pytest.mark.parametrize("kill", range(0, 60, 6))
def test_a_drain_that_was_killed_says_in_the_end_what_it_did(world: World, kill: int) -> None:
    fail_over_to(world, store("b"))
    world.faults.arm(kill)
    try:
        world.activity("drain_buffer", DRAIN)
    except Killed:
        world.stop_recovery()
    world.faults.disarm()
    drained = world.activity("drain_buffer", DRAIN)
    assert isinstance(drained, Drained)
    assert (drained.acknowledged, drained.applied, drained.pending) == (1, 1, 0)
    assert world.mode().mode == "normal"
    engine = open_engine(world.primary().database)
    receipts = [each for each in Ledger(engine, REGION).read() if each.kind == "region.drained"]
    assert len(receipts) == 1
    assert identity(engine, REGION).id == store("b")
    engine.dispose()


def _newest_flipped(world: World) -> str:
    """Damage the last segment of the primary's backup."""
    found = list(segments(world.bucket.real, REGION, world.primary().store))[-1].object
    data = bytearray(world.bucket.real.get(found.name, found.size))
    data[-20] ^= 1
    world.bucket.real.delete(found.name, if_generation=found.generation)
    world.bucket.real.put(found.name, bytes(data))
    return found.name


def test_a_flipped_bit_in_what_the_region_sealed_is_a_gap(world: World) -> None:
    world.writer.fleet.create_tenant("new", Asked(actor="ana", key="t1"))
    world.backup.round()
    name = _newest_flipped(world)
    report = build(world, store("b")).report
    assert report.gap is not None and [each.where for each in report.findings] == [name]


def _lose_recovery(world: World, *, keys: bool = True) -> None:
    """The recovery process's machine is lost: state trees, and the tenants' keys."""
    world.stop_recovery()
    for path in [*world.home.glob("backup/*.tree*"), *world.home.glob("tenant-keys.db*")]:
        if keys or "tree" in path.name:
            path.unlink()


def test_a_lost_state_tree_does_not_need_the_end_of_the_backup(world: World) -> None:
    put(world, "a", b"1")
    world.backup.round()
    _newest_flipped(world)
    _lose_recovery(world, keys=False)
    put(world, "b", b"2")
    world.backup.round()
    world.activity("discard_store", store("f"))
    assert world.backup._shipper is not None and world.backup._shipper.lag().changes == 0


def test_store_and_tenants_keys_lost_together_come_back(world: World) -> None:
    put(world, "kept", b"1")
    world.backup.secure()  # its tenant's key is new
    _lose_recovery(world)
    world.lose(world.primary().database)
    publish(world, build(world, store("b")))
    assert value(world, "kept") == b"1"


@pytest.mark.parametrize("kill", range(0, 24, 2))
def test_a_state_tree_whose_building_was_killed_is_built_anew(world: World, kill: int) -> None:
    put(world, "a", b"1")
    _lose_recovery(world, keys=False)
    world.faults.arm(kill)
    try:
        world.backup.round()
    except Killed:
        pass
    finally:
        world.faults.disarm()
        world.stop_recovery()
    put(world, "b", b"2")
    world.backup.round()
    publish(world, build(world, store("b")))
    assert (value(world, "a"), value(world, "b")) == (b"1", b"2")


def test_a_tenants_key_is_in_the_backup_before_what_it_seals(world: World) -> None:
    """The machine of the recovery process is lost in the moment in which a segment is there."""
    world.stop_recovery()
    put(world, "kept", b"1")
    real = world.bucket.put

    def killed(name: str, *given: Any, **named: Any) -> Any:
        made = real(name, *given, **named)
        if name.endswith(".seg"):
            raise Killed(name)
        return made

    world.bucket.put = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        world.backup.round()
    world.bucket.put = real  # type: ignore[method-assign]
    _lose_recovery(world)
    world.backup.round()
    world.lose(world.primary().database)
    publish(world, build(world, store("b")))
    assert value(world, "kept") == b"1"


def test_a_drain_begun_again_on_a_restored_store_finds_no_conflict(world: World) -> None:
    """The first drain's store was lost; of two writes of a key it had made the later one."""
    fail_over_to(world, store("b"))
    put(world, "buffered", b"2")
    world.stop_writer()
    real = FailOverActivities._record

    def cut_off(*given: Any) -> Any:
        world.backup.secure()
        world.bucket.unreachable = True
        return real(*given)

    FailOverActivities._record = cut_off  # type: ignore[method-assign]
    with pytest.raises(ObjectsUnavailable):
        world.activity("drain_buffer", DRAIN)
    FailOverActivities._record = real  # type: ignore[method-assign]
    world.bucket.unreachable = False
    world.stop_recovery()
    world.lose(world.primary().database)
    publish(world, build(world, store("c")))
    drained = world.activity("drain_buffer", DRAIN)
    assert (drained.acknowledged, drained.applied, drained.conflicts) == (2, 2, 0)
    assert value(world, "buffered") == b"2"


def test_damage_behind_a_lost_state_tree_is_said_again_and_again(world: World) -> None:
    put(world, "a", b"1")
    world.backup.round()
    _lose_recovery(world, keys=False)
    engine = open_engine(world.primary().database)
    with write(engine) as connection:
        for statement in removal_sql("sqlite"):
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("UPDATE kv_entry SET version = version + 1")
        for statement in trigger_sql("sqlite"):
            connection.exec_driver_sql(statement)
    engine.dispose()
    for _ in range(2):
        with pytest.raises(ChangelogBroken, match="without a trace"):
            world.backup.round()


def test_a_value_that_rotted_gets_into_no_snapshot(world: World) -> None:
    """The image holds the value's digest alone: a snapshot of the rot could not be restored."""
    put(world, "kept", b"1")
    world.backup.round()
    engine = open_engine(world.primary().database)
    with write(engine) as connection:
        for statement in removal_sql("sqlite"):
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("UPDATE kv_entry SET value = x'00'")
        for statement in trigger_sql("sqlite"):
            connection.exec_driver_sql(statement)
    engine.dispose()
    with pytest.raises(ApplicationError, match="the value is not that of its digest"):
        world.activity("snapshot_region", SnapshotRequest())
    publish(world, build(world, store("b")))
    assert value(world, "kept") == b"1"
