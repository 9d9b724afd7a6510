"""Buffered writes and their drain: the KV's semantics, exactly once, no conflict decided."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from models.buffer import DrainReport, buffered_version, versions_end, versions_start
from models.tables_buffer import BufferConflictRow
from stores.buffered_kv import Base, Buffer, BufferedKV
from stores.drain import DrainIncomplete, conflicts_of, drain, drain_and_clear
from stores.kv import ABSENT, LARGEST_VALUE, KvError, KvValue, Placed, TenantKV, VersionConflict
from stores.spool import Spool, SpoolClosed, SpoolFull, SpoolLimits, SpoolUnavailable
from stores.spool_files import open_spool, read_spool
from stores.sql import StoreUnavailable, create_all, open_engine, read, table

pytest_plugins = ["databases"]

DRAINER = Path(__file__).with_name("drainer.py")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool", epoch=3)
    yield opened
    opened.close()


@pytest.fixture
def base(tmp_path: Path) -> Engine:
    """The state of the region some time before."""
    engine = open_engine(f"sqlite:///{tmp_path}/base.db")
    create_all(engine)
    return engine


def buffer_over(spool: Spool | None, base: Engine | None, **more) -> Buffer:
    return Buffer(
        spool, None if base is None else Base(lambda t: TenantKV(base, t), 1000.0), **more
    )


def contents_of(spool: Spool):
    contents = read_spool(spool.directory)
    assert contents is not None
    return contents


# What a client sees.


def test_reads_see_the_buffer_over_the_base(spool: Spool, base: Engine):
    before = TenantKV(base, "a")
    for key in ("kept", "changed", "removed"):
        before.put(key, b"old " + key.encode())
    kv = BufferedKV(buffer_over(spool, base), "a")
    changed = kv.put("changed", b"new")
    added = kv.put("added", b"")
    assert kv.delete("removed") is True

    assert kv.get("kept") == before.get("kept")
    assert kv.get("changed") == KvValue(b"new", changed)
    assert kv.get("added") == KvValue(b"", added)
    assert kv.get("removed") is None and kv.delete("removed") is False
    assert kv.delete("never") is False
    assert BufferedKV(buffer_over(None, base), "b").get("changed") is None
    assert [(each.key, each.size) for each in kv.list().keys] == [
        ("added", 0),
        ("changed", 3),
        ("kept", 8),
    ]
    assert added > changed > 3
    assert spool.last == 3  # what was not there was not removed


def test_listing_is_that_of_one_store(spool: Spool, base: Engine):
    rng = random.Random(3)
    kv, before = BufferedKV(buffer_over(spool, base), "a"), TenantKV(base, "a")
    names = [f"{p}/{n}" for p in ("x", "y", "é") for n in range(12)]
    model = {}
    for name in rng.sample(names, 20):
        before.put(name, b"b")
        model[name] = 1
    for name in rng.sample(names, 24):
        if rng.random() < 0.4:
            kv.delete(name)
            model.pop(name, None)
        else:
            kv.put(name, b"bb")
            model[name] = 2
    for prefix in ("", "x", "y/1", "é", "none"):
        for limit in (1, 3, 100):
            seen, after = [], None
            while True:
                page = kv.list(prefix, after=after, limit=limit)
                seen += [(each.key, each.size) for each in page.keys]
                after = page.after
                if after is None:
                    break
            wanted = sorted((k for k in model if k.startswith(prefix)), key=str.encode)
            assert seen == [(key, model[key]) for key in wanted]


def test_conditions_are_decided_on_buffer_and_base(spool: Spool, base: Engine):
    old = TenantKV(base, "a").put("k", b"old")
    kv = BufferedKV(buffer_over(spool, base), "a")
    for expected in (ABSENT, old + 1):
        with pytest.raises(VersionConflict) as refused:
            kv.put("k", b"x", expected_version=expected)
        assert refused.value.found == old
    first = kv.put("k", b"1", expected_version=old)
    with pytest.raises(VersionConflict):
        kv.delete("k", expected_version=old)
    assert kv.delete("k", expected_version=first)
    assert kv.put("k", b"2", expected_version=ABSENT) > first
    with pytest.raises(VersionConflict):
        kv.put("k", b"3", expected_version=ABSENT)


def test_of_many_that_compare_one_wins(spool: Spool, base: Engine):
    kv = BufferedKV(buffer_over(spool, base), "a")
    won: list[int] = []

    def create() -> None:
        with contextlib.suppress(VersionConflict):
            won.append(kv.put("once", b"x", expected_version=ABSENT))

    threads = [threading.Thread(target=create) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(won) == 1 and spool.last == 1


def test_without_a_base_only_the_buffer_answers(spool: Spool):
    kv = BufferedKV(buffer_over(spool, None), "a")
    version = kv.put("k", b"v")
    assert kv.get("k") == KvValue(b"v", version)
    assert kv.put("k", b"w", expected_version=version) > version
    for ask in (
        lambda: kv.get("other"),
        kv.list,
        lambda: kv.delete("other"),
        lambda: kv.put("other", b"", expected_version=ABSENT),
    ):
        with pytest.raises(StoreUnavailable, match="no older state"):
            ask()


def test_wrong_arguments_are_those_of_the_kv(spool: Spool, base: Engine):
    kv = BufferedKV(buffer_over(spool, base), "a")
    for wrong in (
        lambda: kv.put("", b""),
        lambda: kv.put("k", b"x" * (LARGEST_VALUE + 1)),
        lambda: kv.get("a\0b"),
        lambda: kv.list(limit=0),
        lambda: BufferedKV(buffer_over(None, base), "A"),
    ):
        with pytest.raises(KvError):
            wrong()
    assert spool.last == 0


def test_the_buffer_is_there_after_a_restart(spool: Spool, base: Engine):
    kv = BufferedKV(buffer_over(spool, base), "a")
    TenantKV(base, "a").put("gone", b"x")
    version = kv.put("k", b"v")
    kv.delete("gone")
    spool.close()
    again = Spool(spool.directory, epoch=4)
    kv = BufferedKV(buffer_over(again, base), "a")
    assert (kv.get("k"), kv.get("gone")) == (KvValue(b"v", version), None)
    assert kv.put("k", b"w", expected_version=version) == buffered_version(4, 3)
    again.close()
    reading = buffer_over(None, base, records=contents_of(again).records)
    assert BufferedKV(reading, "a").get("k").value == b"w"
    with pytest.raises(SpoolClosed, match="being drained"):
        BufferedKV(reading, "a").put("k", b"x")


def test_what_the_disk_refused_was_never_there(
    spool: Spool, base: Engine, monkeypatch: pytest.MonkeyPatch
):
    kv = BufferedKV(buffer_over(spool, base), "a")

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail)
        with pytest.raises(SpoolUnavailable):
            kv.put("k", b"lost", expected_version=ABSENT)
    assert kv.get("k") is None
    assert kv.put("k", b"kept", expected_version=ABSENT) == buffered_version(3, 1)


def test_a_full_buffer_refuses(tmp_path: Path, base: Engine):
    spool = Spool(tmp_path / "small", epoch=1, limits=SpoolLimits(records=2))
    buffer = buffer_over(spool, base)
    kv = BufferedKV(buffer, "a")
    kv.put("k", b"1")
    assert buffer.fill == 0.5
    kv.put("k", b"2")
    with pytest.raises(SpoolFull):
        kv.put("k", b"3")
    assert kv.get("k").value == b"2"
    spool.close()


def test_age_is_that_of_the_base(base: Engine):
    assert buffer_over(None, base, clock=lambda: 1042.9).age == 42
    assert buffer_over(None, base, clock=lambda: 900.0).age == 0
    assert buffer_over(None, None).age is None


def test_versions_of_epochs_do_not_meet():
    last = buffered_version(7, 100_000)
    assert versions_start(last) < buffered_version(7, 0) < last < versions_end(last)
    assert versions_end(last) + 1 < buffered_version(8, 0)
    assert buffered_version((1 << 17) - 1, 1) < 1 << 53
    with pytest.raises(ValueError, match="epoch"):
        Buffer(_Epoch(1 << 17), None)  # type: ignore[arg-type]


class _Epoch:
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch


# The drain.


def test_a_drain_makes_each_write_under_its_version(engine: Engine, spool: Spool):
    live = TenantKV(engine, "a")
    old = live.put("k", b"old")
    live.put("gone", b"x")
    kv = BufferedKV(buffer_over(spool, engine), "a")
    version = kv.put("k", b"new", expected_version=old)
    kv.put("twice", b"1")
    twice = kv.put("twice", b"2")
    kv.delete("gone")
    BufferedKV(buffer_over(spool, engine), "b").put("k", b"of b")

    report = drain(engine, contents_of(spool), rebuilt=False)

    assert (report.applied, report.repeated, report.conflicts) == (5, 0, 0)
    assert live.get("k") == KvValue(b"new", version)
    assert live.get("twice") == KvValue(b"2", twice)
    assert live.get("gone") is None
    assert live.used_bytes() == len(b"knewtwice2")
    assert TenantKV(engine, "b").get("k").value == b"of b"
    later = live.put("k", b"later", expected_version=version)
    assert twice < later < buffered_version(4, 0)


def test_a_drain_again_changes_nothing(engine: Engine, spool: Spool):
    kv = BufferedKV(buffer_over(spool, engine), "a")
    for number in range(10):
        kv.put(f"k{number % 3}", str(number).encode())
    first = drain(engine, contents_of(spool), rebuilt=False)
    TenantKV(engine, "a").put("k0", b"later")
    kv.put("k5", b"also")
    again = drain_and_clear(engine, spool, rebuilt=False)
    assert TenantKV(engine, "a").get("k0").value == b"later"
    assert (first.applied, again.applied, again.repeated, again.conflicts) == (10, 11, 10, 0)
    assert again.drained.count == 11
    assert (again.proof.drained.count, again.proof.pending.count) == (11, 0)
    assert again.drained.after == again.proof.acknowledged.after
    third = drain_and_clear(engine, spool, rebuilt=False)
    assert (third.applied, third.drained.count, third.proof) == (11, 0, again.proof)


def test_a_conflict_is_kept_whole_and_decided_by_nobody(engine: Engine, spool: Spool, base):
    live, before = TenantKV(engine, "a"), TenantKV(base, "a")
    for key in ("cond", "plain", "removed", "same"):
        live.put(key, b"seen")
        before.put(key, b"seen")
    kv = BufferedKV(buffer_over(spool, base), "a")
    cond = before.get("cond").version
    kv.put("cond", b"mine", expected_version=cond)
    kv.put("plain", b"mine")
    kv.delete("removed")
    kv.put("same", b"mine")
    kv.put("new", b"mine", expected_version=ABSENT)
    for key in ("cond", "plain", "removed", "new"):
        live.put(key, b"theirs")

    report = drain_and_clear(engine, spool, rebuilt=False)

    assert (report.applied, report.conflicts) == (1, 4)
    assert [(each.key, each.why, each.removes) for each in report.first_conflicts] == [
        ("cond", "expectation", False),
        ("plain", "changed", False),
        ("removed", "changed", True),
        ("new", "expectation", False),
    ]
    for key in ("cond", "plain", "removed", "new"):
        assert live.get(key).value == b"theirs"
    assert live.get("same").value == b"mine"
    conflicts = table(BufferConflictRow)
    with read(engine) as connection:
        kept = connection.execute(
            select(conflicts.c.key, conflicts.c.value).order_by(conflicts.c.number)
        ).all()
    assert [tuple(row) for row in kept] == [
        (b"cond", b"mine"),
        (b"plain", b"mine"),
        (b"removed", None),
        (b"new", b"mine"),
    ]
    first = report.first_conflicts[0]
    assert (first.expected, first.seen) == (cond, cond)
    assert first.found == live.get("cond").version


def test_over_a_rebuilt_store_a_write_without_a_condition_follows(
    engine: Engine, spool: Spool, base: Engine
):
    live = TenantKV(engine, "a")
    for key in ("plain", "cond", "unseen"):
        TenantKV(base, "a").put(key, b"of the snapshot")
        live.put(key, b"of the snapshot")
        live.put(key, b"written after it")
    kv = BufferedKV(buffer_over(spool, base), "a")
    kv.put("plain", b"mine")
    kv.put("cond", b"mine", expected_version=TenantKV(base, "a").get("cond").version)
    BufferedKV(buffer_over(spool, None), "a").put("unseen", b"mine")

    report = drain(engine, contents_of(spool), rebuilt=True)

    assert (report.applied, [each.key for each in report.first_conflicts]) == (2, ["cond"])
    assert live.get("plain").value == live.get("unseen").value == b"mine"


def test_marks_that_a_restore_has_lost_do_no_harm(engine: Engine, spool: Spool):
    kv = BufferedKV(buffer_over(spool, engine), "a")
    version = kv.put("k", b"v")
    with TenantKV(engine, "a").transaction() as connection:
        placed = {b"k": Placed(b"v", version)}
        TenantKV(engine, "a").place(connection, placed, clock=versions_end(version))
    report = drain(engine, contents_of(spool), rebuilt=False)
    assert (report.applied, report.conflicts) == (1, 0)


def test_a_store_that_dies_is_drained_into_when_it_is_back(
    engine: Engine, spool: Spool, monkeypatch: pytest.MonkeyPatch
):
    kv = BufferedKV(buffer_over(spool, engine), "a")
    for number in range(600):
        kv.put(f"k{number}", b"v")
    parts = []

    def die(done: int, _of: int) -> None:
        parts.append(done)
        if done > 300:
            raise StoreUnavailable("unreachable", "died")

    with pytest.raises(StoreUnavailable):
        drain_and_clear(engine, spool, rebuilt=False, progress=die)
    assert spool.proof().pending.count == 600
    report = drain_and_clear(engine, spool, rebuilt=False)
    assert (parts, report.applied, report.repeated) == ([500], 600, 500)


def test_a_mark_that_is_missing_keeps_the_spool(
    engine: Engine, spool: Spool, monkeypatch: pytest.MonkeyPatch
):
    BufferedKV(buffer_over(spool, engine), "a").put("k", b"v")
    monkeypatch.setattr("stores.drain._make", lambda *_, **__: 0)
    with pytest.raises(DrainIncomplete, match="1 records, 0 of them"):
        drain_and_clear(engine, spool, rebuilt=False)
    assert spool.proof().pending.count == 1


@pytest.mark.parametrize("step", range(14))
def test_a_drain_killed_at_any_step_applies_each_write_once(tmp_path: Path, step: int):
    """The process dies before or after each commit, and before and after the spool is cleared."""
    url = f"sqlite:///{tmp_path}/live.db"
    engine = open_engine(url)
    create_all(engine)
    live = TenantKV(engine, "a")
    live.put("theirs", b"")
    spool = Spool(tmp_path / "spool", epoch=2)
    buffer = buffer_over(spool, engine)
    for number in range(12):
        kv = BufferedKV(buffer, "abc"[number % 3])
        kv.put(f"k{number % 5}", str(number).encode())
    BufferedKV(buffer, "a").put("theirs", b"mine")
    live.put("theirs", b"changed")
    whole = spool.proof().acknowledged
    spool.close()

    killed = subprocess.run(
        [sys.executable, DRAINER, url, spool.directory, str(step)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode in (0, -signal.SIGKILL), killed.stderr
    assert step > 9 or killed.returncode == -signal.SIGKILL
    done = subprocess.run(
        [sys.executable, DRAINER, url, spool.directory, "-1"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    report = DrainReport.model_validate_json(done.stdout)

    assert (report.applied, report.conflicts) == (12, 1)
    assert (report.proof.drained, report.proof.pending.count) == (whole, 0)
    for number in range(7, 12):
        kv = TenantKV(engine, "abc"[number % 3])
        assert kv.get(f"k{number % 5}").value == str(number).encode()
    assert live.get("theirs").value == b"changed"
    assert len(conflicts_of(engine, report.proof.spool)) == 1
    with read(engine) as connection:
        marks = table(BufferConflictRow)
        assert connection.execute(select(func.count()).select_from(marks)).scalar_one() == 1
    left = open_spool(spool.directory)
    assert left is not None and not left.records
    engine.dispose()
