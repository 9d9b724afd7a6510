"""The spool: nothing acknowledged is lost, nothing damaged is believed, no bound is crossed."""

import errno
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.spool import FRAME_OVERHEAD, HEADER_SIZE, OutageProof, SpoolDamaged
from stores.spool import (
    Spool,
    SpoolClosed,
    SpoolFull,
    SpoolLimits,
    SpoolOwned,
    SpoolUnavailable,
    StaleOwner,
)
from stores.spool_files import MARK, open_spool, read_spool

WRITER = Path(__file__).with_name("spool_writer.py")


def payloads(directory: Path) -> list[bytes]:
    contents = open_spool(directory)
    assert contents is not None
    return [each.payload for each in contents.records]


def fill(directory: Path, count: int, *, epoch: int = 1) -> list[bytes]:
    spool = Spool(directory, epoch=epoch)
    written = [f"record {each}".encode() * (each % 5 + 1) for each in range(count)]
    for each in written:
        spool.append(each)
    spool.close()
    return written


def segment(directory: Path) -> Path:
    return max(directory.glob("*.spool"))


def test_records_survive_in_order(tmp_path: Path):
    written = fill(tmp_path, 20)
    assert payloads(tmp_path) == written
    spool = Spool(tmp_path, epoch=1)
    assert (spool.last, spool.append(b"next")) == (20, 21)
    spool.close()
    assert payloads(tmp_path) == [*written, b"next"]


def test_an_empty_record_is_a_record(tmp_path: Path):
    spool = Spool(tmp_path, epoch=1)
    assert spool.append(b"") == 1
    spool.close()
    assert payloads(tmp_path) == [b""]


def test_there_is_one_owner(tmp_path: Path):
    spool = Spool(tmp_path, epoch=1)
    with pytest.raises(SpoolOwned):
        Spool(tmp_path, epoch=2)
    spool.close()
    spool.close()
    Spool(tmp_path, epoch=2).close()
    with pytest.raises(StaleOwner, match=r"epoch: 1 is stale.*owner of 2"):
        Spool(tmp_path, epoch=1)
    Spool(tmp_path, epoch=2).close()


def test_a_closed_spool_takes_nothing(tmp_path: Path):
    spool = Spool(tmp_path, epoch=1)
    spool.close()
    with pytest.raises(SpoolClosed):
        spool.append(b"x")


def test_owners_follow_one_another_in_one_chain(tmp_path: Path):
    written = []
    for epoch in (1, 2, 2, 5):
        spool = Spool(tmp_path, epoch=epoch)
        for number in range(epoch % 3):
            written.append(f"{epoch}/{number}".encode())
            spool.append(written[-1])
        proof = spool.proof()
        spool.close()
    assert payloads(tmp_path) == written
    assert (proof.epoch, proof.pending.count, proof.drained.count) == (5, len(written), 0)


@pytest.mark.parametrize("by", ["records", "bytes"])
def test_a_full_spool_refuses_and_keeps_what_it_has(tmp_path: Path, by: str):
    size = 10 + FRAME_OVERHEAD
    limits = SpoolLimits(records=5) if by == "records" else SpoolLimits(bytes=size * 5 + 9)
    spool = Spool(tmp_path, epoch=1, limits=limits)
    for number in range(5):
        assert spool.fill == pytest.approx(number / 5, abs=0.04)
        spool.append(b"0123456789")
    for _ in range(3):
        with pytest.raises(SpoolFull, match=str(getattr(limits, by))):
            spool.append(b"0123456789")
    spool.close()
    spool = Spool(tmp_path, epoch=1, limits=limits)
    with pytest.raises(SpoolFull):
        spool.append(b"0123456789")
    proof = spool.proof()
    spool.clear(5, bytes.fromhex(proof.acknowledged.after))
    assert (spool.fill, spool.append(b"0123456789")) == (0.0, 6)
    spool.close()


def test_the_bounds_hold_for_writers_that_come_at_once(tmp_path: Path):
    spool = Spool(tmp_path, epoch=1, limits=SpoolLimits(records=50))
    kept: list[int] = []
    refused: list[str] = []

    def write() -> None:
        for _ in range(10):
            try:
                kept.append(spool.append(b"x"))
            except SpoolFull:
                refused.append("full")

    run_threads(write, 16)
    assert (sorted(kept), len(refused)) == (list(range(1, 51)), 110)
    spool.close()


def run_threads(target, count: int) -> None:
    threads = [threading.Thread(target=target) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def test_writers_share_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spool = Spool(tmp_path, epoch=1)
    flushes = []
    real = os.fsync

    def slow(handle: int) -> None:
        flushes.append(handle)
        time.sleep(0.01)
        real(handle)

    monkeypatch.setattr(os, "fsync", slow)
    run_threads(lambda: [spool.append(b"x") for _ in range(5)], 16)
    spool.close()
    assert len(payloads(tmp_path)) == 80
    assert len(flushes) < 40


# What the disk holds after a crash.


@pytest.mark.parametrize("cut", [1, 20, 31, 59, FRAME_OVERHEAD - 1, FRAME_OVERHEAD + 3])
def test_a_torn_tail_is_cut_off(tmp_path: Path, cut: int):
    written = fill(tmp_path, 5)
    whole = segment(tmp_path).read_bytes()
    spool = Spool(tmp_path, epoch=1)
    spool.append(b"the torn one")
    spool.close()
    torn = segment(tmp_path).read_bytes()[: len(whole) + cut]
    segment(tmp_path).write_bytes(torn)
    (tmp_path / MARK).unlink()  # as after a power loss: it was not flushed

    spool = Spool(tmp_path, epoch=1)
    assert spool.last == 5
    spool.append(b"after")
    spool.close()
    assert payloads(tmp_path) == [*written, b"after"]


def test_a_tail_of_zeros_is_cut_off(tmp_path: Path):
    written = fill(tmp_path, 5)
    with segment(tmp_path).open("ab") as file:
        file.write(bytes(5000))
    Spool(tmp_path, epoch=1).close()
    assert payloads(tmp_path) == written


@pytest.mark.parametrize("marked", [True, False])
def test_a_bit_flip_anywhere_is_found_and_named(tmp_path: Path, marked: bool):
    fill(tmp_path, 12)
    path = segment(tmp_path)
    whole = path.read_bytes()
    mark = (tmp_path / MARK).read_bytes()
    contents = open_spool(tmp_path)
    assert contents is not None
    last = len(whole) - len(contents.records[-1].payload) - FRAME_OVERHEAD
    rng = random.Random(7)
    for _ in range(400):
        at = rng.randrange(len(whole) if marked else last)
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        (tmp_path / MARK).write_bytes(mark if marked else b"")
        with pytest.raises(SpoolDamaged, match="header" if at < HEADER_SIZE else "record"):
            Spool(tmp_path, epoch=1)
        assert path.read_bytes() == bytes(changed)


def test_an_acknowledged_record_that_is_cut_off_is_damage(tmp_path: Path):
    fill(tmp_path, 5)
    path = segment(tmp_path)
    whole = path.read_bytes()
    for end in (HEADER_SIZE, len(whole) - 1, len(whole) - 200):
        path.write_bytes(whole[:end])
        with pytest.raises(SpoolDamaged, match="record"):
            Spool(tmp_path, epoch=1)


def test_a_segment_that_is_missing_or_anothers_is_damage(tmp_path: Path):
    fill(tmp_path / "a", 3, epoch=1)
    fill(tmp_path / "a", 3, epoch=2)
    fill(tmp_path / "a", 3, epoch=3)
    fill(tmp_path / "b", 3, epoch=1)
    names = sorted((tmp_path / "a").glob("*.spool"))
    for path, message in ((names[0], "1 to 3 are missing"), (names[1], "does not end with")):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(SpoolDamaged, match=message):
            Spool(tmp_path / "a", epoch=3)
        path.write_bytes(content)
    names[0].write_bytes(segment(tmp_path / "b").read_bytes())
    with pytest.raises(SpoolDamaged, match="different spools"):
        Spool(tmp_path / "a", epoch=3)


# Disks that fail.


@pytest.mark.parametrize("threads", [1, 8])
def test_a_full_disk_refuses_the_write_and_leaves_the_spool_whole(tmp_path: Path, threads: int):
    done = subprocess.run(
        [sys.executable, WRITER, tmp_path, str(threads), "9000"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.split(b"\n")[1:-1]
    assert lines.count(b"refused SpoolUnavailable") == threads
    assert acknowledged_are_there(tmp_path, lines) > 10
    spool = Spool(tmp_path, epoch=1)
    spool.append(b"there is room again")
    spool.close()


def acknowledged_are_there(directory: Path, lines: list[bytes]) -> int:
    kept = payloads(directory)
    told = [line.split(b" ", 1) for line in lines if not line.startswith(b"refused")]
    assert all(kept[int(number) - 1] == payload for number, payload in told)
    return len(told)


def test_a_short_write_is_taken_back_and_the_spool_goes_on(tmp_path: Path, monkeypatch):
    spool = Spool(tmp_path, epoch=1)
    spool.append(b"before")
    real = os.pwrite
    room = [30]

    def full(handle: int, data: bytes, at: int) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(handle, bytes(data)[: room[0]], at)
        room[0] -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        for _ in range(3):
            with pytest.raises(SpoolUnavailable, match="No space left"):
                spool.append(b"refused")
    assert spool.append(b"after") == 2
    spool.close()
    assert payloads(tmp_path) == [b"before", b"after"]


def test_after_a_flush_that_failed_nothing_is_acknowledged_any_more(tmp_path: Path, monkeypatch):
    spool = Spool(tmp_path, epoch=1)
    spool.append(b"before")

    def fail(_handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(SpoolUnavailable, match="Input/output error"):
            spool.append(b"refused")
    with pytest.raises(SpoolUnavailable, match="opened anew"):
        spool.append(b"refused too")
    spool.close()
    assert payloads(tmp_path) == [b"before"]


# Processes that die.


def test_every_acknowledged_record_survives_kill_9(tmp_path: Path):
    rng = random.Random(11)
    total = 0
    lines: list[bytes] = []
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, WRITER, tmp_path, "6", "0"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        timer = threading.Timer(rng.uniform(0.005, 0.15), process.kill)
        timer.start()
        lines += process.stdout.read().split(b"\n")[:-1]
        process.wait()
        timer.join()
        total = acknowledged_are_there(tmp_path, lines)
        proof = open_spool(tmp_path)
        assert proof is not None and proof.last >= total
    assert total > 100


# A reader beside the owner, and clearing.


def test_a_reader_sees_what_is_acknowledged_and_no_more(tmp_path: Path):
    assert read_spool(tmp_path) is None
    spool = Spool(tmp_path, epoch=1)
    spool.append(b"one")
    found = read_spool(tmp_path)
    assert found is not None and found.last == 1 and found.proof() == spool.proof()
    path = segment(tmp_path)
    spool.append(b"two")
    mark = (tmp_path / MARK).read_bytes()
    spool.append(b"three")
    (tmp_path / MARK).write_bytes(mark)
    found = read_spool(tmp_path)
    assert found is not None and found.last == 2 and path.exists()
    spool.close()


def test_clearing_needs_the_exact_end(tmp_path: Path):
    spool = Spool(tmp_path, epoch=1)
    spool.append(b"one")
    old = spool.proof()
    spool.append(b"two")
    for last, chain in ((1, old.acknowledged.after), (2, old.acknowledged.after)):
        with pytest.raises(SpoolUnavailable, match="last record is 2"):
            spool.clear(last, bytes.fromhex(chain))
    proof = spool.proof()
    spool.clear(2, bytes.fromhex(proof.acknowledged.after))
    spool.clear(2, bytes.fromhex(proof.acknowledged.after))
    assert spool.append(b"three") == 3
    after = spool.proof()
    assert (after.acknowledged.count, after.drained.count, after.pending.count) == (3, 2, 1)
    assert after.drained.after == proof.acknowledged.after
    spool.close()
    again = Spool(tmp_path, epoch=4)
    assert again.proof().pending == after.pending
    again.close()
    assert payloads(tmp_path) == [b"three"]


def test_a_crash_while_clearing_loses_and_doubles_nothing(tmp_path: Path):
    fill(tmp_path, 3, epoch=1)
    fill(tmp_path, 3, epoch=2)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.spool")}
    spool = Spool(tmp_path, epoch=2)
    proof = spool.proof()
    spool.clear(6, bytes.fromhex(proof.acknowledged.after))
    spool.append(b"seven")
    spool.close()
    for kept in ([0], [1], [0, 1], []):  # the old files that were not yet removed
        for index, (name, content) in enumerate(sorted(before.items())):
            if index in kept:
                (tmp_path / name).write_bytes(content)
        assert payloads(tmp_path) == [b"seven"]
        (tmp_path / ".0001.spool.half").write_bytes(b"")
        Spool(tmp_path, epoch=2).close()
        assert len([*tmp_path.glob("*.spool*")]) == 1
        assert not [*tmp_path.glob(".*.spool.*")]


def test_a_proof_that_does_not_add_up_is_none(tmp_path: Path):
    fill(tmp_path, 3)
    contents = open_spool(tmp_path)
    assert contents is not None
    proof = contents.proof().model_dump()
    for part, field, value in (
        ("pending", "count", 2),
        ("acknowledged", "last", 4),
        ("drained", "after", "0" * 63 + "1"),
        ("pending", "after", "0" * 63 + "1"),
    ):
        changed = {**proof, part: {**proof[part], field: value}}
        with pytest.raises(ValueError, match=r"count|chain|drained|pending"):
            OutageProof.model_validate(changed)


# Whole histories.

STEPS = st.one_of(
    st.tuples(st.just("append"), st.binary(max_size=40)),
    st.tuples(st.just("kill"), st.integers(0, 200)),
    st.tuples(st.just("reopen"), st.integers(0, 2)),
    st.tuples(st.just("clear"), st.just(0)),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEPS, max_size=40))
def test_any_history_keeps_what_was_acknowledged(tmp_path_factory, steps):
    directory = tmp_path_factory.mktemp("spool")
    spool, epoch = Spool(directory, epoch=1), 1
    kept: list[bytes] = []
    drained = 0
    for step, argument in steps:
        if step == "append":
            kept.append(argument)
            assert spool.append(argument) == len(kept)
        elif step == "clear":
            spool.clear(len(kept), bytes.fromhex(spool.proof().acknowledged.after))
            drained = len(kept)
        else:
            if step == "kill":  # in the middle of a write that nobody was told of
                path = segment(directory)
                spool.close()
                with path.open("ab") as file:
                    file.write(b"\0\0\0\xff" + bytes(argument))
            else:
                spool.close()
                epoch += argument
            spool = Spool(directory, epoch=epoch)
        proof = spool.proof()
        assert (proof.acknowledged.count, proof.drained.count) == (len(kept), drained)
        assert payloads(directory) == kept[drained:]
    spool.close()
