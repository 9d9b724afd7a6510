"""A large store: writes while it is snapshotted, and how a restore grows with it.

    scripts/bench snapshot [--documents 1000000] [--rate 500] [--share 25]

The snapshot is taken by a process of its own, as in production. It is held and let go on in turn,
so that writes alone and writes beside it are timed within the same minutes: what else the machine
does then is in both. It is never held while it copies the store, which a writer could feel. A
write's time counts from when it was due, so that one that had to wait for another is not forgotten;
where the writer alone does not keep up, the figures say nothing, and the table says so.

Restores run in a fresh process each, whose peak memory is what the system says.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench_recovery import KEYS_A_TENANT, VALUE_BYTES, Bench, Row, _insert

from stores.kv import TenantKV, value_digest
from stores.pace import Pace
from stores.snapshots import Snapshotter
from stores.sql import open_scratch, settle

BATCH = 10_000
WINDOW_S = 5.0
LATE_MS = 1_000.0
"""A writer that is so late with more than one write of a hundred does not keep up."""


def fill(bench: Bench, count: int) -> None:
    """Documents in batches, so that memory does not grow with the store."""
    for start in range(0, count, BATCH):
        _insert(bench.engine, list(_rows(start, min(BATCH, count - start))))


def _rows(start: int, count: int) -> Iterator[Row]:
    for number in range(start, start + count):
        tenant = f"t{number // KEYS_A_TENANT:06d}"
        key = f"order/{number % KEYS_A_TENANT:04d}".encode()
        value = os.urandom(VALUE_BYTES // 2).hex().encode()
        yield tenant, key, value, value_digest(tenant, key, value), 1


class Gate:
    """Holds the snapshot between two chunks when it is told to; what it is held does not count."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.held_s = 0.0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            (self._open.set if line.strip() == "go" else self._open.clear)()

    def passing(self, documents: int) -> None:
        if documents and not self._open.is_set():
            since = time.monotonic()
            print("held", flush=True)
            self._open.wait()
            self.held_s += time.monotonic() - since

    def clock(self) -> float:
        return time.monotonic() - self.held_s


def snapshot(directory: str, share: float) -> float:
    bench, gate = _bench(directory), Gate()
    pace = partial(Pace, share, clock=gate.clock)
    with bench.shipper() as shipper:
        Snapshotter(bench.engine, shipper, pace=pace).snapshot(gate.passing)
    return gate.held_s


def restore(directory: str, _share: float) -> float:
    bench = _bench(directory)
    url = f"sqlite:///{directory}/restored-{os.getpid()}.db"
    target = open_scratch(url)
    report = bench.restore(target)
    target.dispose()
    settle(url)
    assert report.complete
    return 0.0


def _bench(directory: str) -> Bench:
    return Bench(Path(directory), f"sqlite:///{directory}/source.db")


class Used(NamedTuple):
    """What a process took: seconds by the clock and of the processor, and its peak in MiB."""

    seconds: float
    cpu: float
    peak: float


class Process:
    """One of the two above in a process of its own."""

    def __init__(self, what: str, directory: Path, share: float = 1.0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--only", what, str(directory), "--share", str(100 * share)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.held = threading.Event()
        self.used: Used | None = None
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == "held":
                self.held.set()
            else:
                self.used = Used(*json.loads(line))

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self.held.clear()
        with contextlib.suppress(BrokenPipeError):  # it has just ended
            print(word, file=self._process.stdin, flush=True)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> Used:
        self._process.wait()
        self._reader.join()
        assert self.used is not None, "the process failed"
        return self.used


def only(what: str, directory: str, share: float) -> None:
    import resource  # noqa: PLC0415 - of the process that is measured

    started = time.perf_counter()
    held = {"snapshot": snapshot, "restore": restore}[what](directory, share)
    taken = time.perf_counter() - started - held
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([taken, time.process_time(), peak]), flush=True)


class Writer:
    """Writes at a rate; a write's time counts from when it was due."""

    def __init__(self, bench: Bench, rate: int) -> None:
        self._kv = TenantKV(bench.engine, "acme")
        self._value = os.urandom(VALUE_BYTES)
        self._rate = rate
        self._number = 0
        self._began = time.perf_counter()

    def write(self) -> float:
        """The next one, when it is due; the milliseconds it took."""
        due = self._began + self._number / self._rate
        time.sleep(max(0.0, due - time.perf_counter()))
        self._kv.put(f"k{self._number % 5_000}", self._value)
        self._number += 1
        return 1000 * (time.perf_counter() - due)

    def catch_up(self) -> list[float]:
        """Until no write has to wait for one before it, or the writer will not get there."""
        times: list[float] = []
        until = time.perf_counter() + WINDOW_S
        while time.perf_counter() < until:
            times.append(self.write())
            if times[-1] < 1000 / self._rate:
                break
        return times

    def window(self) -> list[float]:
        until = time.perf_counter() + WINDOW_S
        times = []
        while time.perf_counter() < until:
            times.append(self.write())
        return times


@dataclass
class Writes:
    """Times of writes, window by window: alone, and beside the snapshot."""

    alone: list[list[float]]
    beside: list[list[float]]

    @property
    def ratio(self) -> float:
        """How much later a write is beside the snapshot, by all of them."""
        return _p99(_all(self.beside)) / _p99(_all(self.alone))

    @property
    def pairs(self) -> float:
        """The same by the middle one of neighbouring windows, which a busy second does not move."""
        pairs = zip(self.alone, self.beside, strict=False)
        return statistics.median(_p99(beside) / _p99(alone) for alone, beside in pairs)

    @property
    def keeps_up(self) -> bool:
        return _p99(_all(self.alone)) < LATE_MS


def alternate(writer: Writer, begin: Callable[[], Process]) -> tuple[Writes, Process]:
    """Write until a process that begins now has ended, holding it half of the time."""
    found = Writes([writer.window()], [])
    process = begin()
    while process.running:
        times = writer.window()
        process.tell("stop")
        while process.running and not process.held.is_set():
            times.append(writer.write())
        found.beside.append(times + writer.catch_up())
        found.alone.append(writer.window())
        if process.running:
            process.tell("go")
    return found, process


def _all(windows: list[list[float]]) -> list[float]:
    return [each for window in windows for each in window]


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


class Result(NamedTuple):
    documents: int
    writes: Writes
    snapshot: Used
    at_once: Used
    restored: Used


def measure(count: int, rate: int, share: float) -> Result:
    with tempfile.TemporaryDirectory() as name:
        bench = _bench(name)
        with bench.shipper() as shipper:
            shipper.ship()  # its tree is there from when the store was small
            fill(bench, count)
            shipper.ship_all()
        begin = partial(Process, "snapshot", Path(name), share)
        writes, process = alternate(Writer(bench, rate), begin)
        taken = process.wait()
        with bench.shipper() as shipper:
            shipper.ship_all()
        bench.engine.dispose()
        again = Process("snapshot", Path(name)).wait()
        restored = Process("restore", Path(name)).wait()
        return Result(count, writes, taken, again, restored)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=500, help="writes a second")
    parser.add_argument("--share", type=float, default=25, help="per cent, see backup.snapshot_...")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        only(asked.only[0], asked.only[1], asked.share / 100)
        return
    counts = (asked.documents // 10, asked.documents)
    results = [measure(count, asked.rate, asked.share / 100) for count in counts]
    print("| documents | write p99 alone | beside a snapshot | ratio | middle of pairs | windows |")
    print("|--:|--:|--:|--:|--:|--:|")
    for count, writes, *_ in results:
        alone, beside = _p99(_all(writes.alone)), _p99(_all(writes.beside))
        void = "" if writes.keeps_up else " (void: the writer alone does not keep up)"
        print(
            f"| {count:,} | {alone:.2f} ms | {beside:.2f} ms | {writes.ratio:.2f}{void} "
            f"| {writes.pairs:.2f} | {len(writes.beside)} |"
        )
    print(f"\n{asked.rate} writes/s go on all the time; target of the ratio: 2 or less.\n")
    print(
        "| documents | snapshot beside writes | of processor | at once, most chunks there | peak |"
    )
    print("|--:|--:|--:|--:|--:|")
    for count, _, taken, again, _ in results:
        peak = max(taken.peak, again.peak)
        print(
            f"| {count:,} | {taken.seconds:.1f} s | {taken.cpu:.1f} s | {again.seconds:.1f} s "
            f"| {peak:.0f} MiB |"
        )
    print("\n| documents | restore | a thousand | peak memory |\n|--:|--:|--:|--:|")
    for count, *_, restored in results:
        each = 1e6 * restored.seconds / count
        print(f"| {count:,} | {restored.seconds:.1f} s | {each:.1f} ms | {restored.peak:.0f} MiB |")


if __name__ == "__main__":
    main()
