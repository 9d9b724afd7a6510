"""A large store: writes while it is snapshotted, and how a restore grows with it.

    scripts/bench snapshot [--documents 1000000] [--rate 500] [--share 10]

The snapshot is taken by a process of its own, as in production. It is held and let go on in turn,
so that writes alone and writes beside it are timed within the same minutes: what else the machine
does then is in both. It is never held while it copies the store, which a writer could feel; its
process ships all the time, held or not, as the one in production does. A
write's time counts from when it was due, so that one that had to wait for another is not forgotten.
A pair of windows counts only where the writer alone kept up; the table says how many did.

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
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench_recovery import KEYS_A_TENANT, VALUE_BYTES, Bench, Row, _insert

from stores.kv import TenantKV, value_digest
from stores.pace import Pace
from stores.shipping import Shipper
from stores.snapshots import Snapshotter
from stores.sql import open_scratch, settle

BATCH = 10_000
WINDOW_S = 5.0
SHIPPED_EVERY_S = 2.0
LATE_MS = 100.0
"""A writer that is so late with a window's last write did not keep up."""


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
        self.held_s = 0.0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            (self._open.set if line.strip() == "go" else self._open.clear)()
        os._exit(1)  # who would let it go on has died

    def passing(self, documents: int) -> None:
        if documents and not self._open.is_set():
            self.hold()

    def hold(self) -> None:
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
        over = threading.Event()
        following = threading.Thread(target=_follow, args=(shipper, over))
        shipper.ship_all()
        following.start()
        gate.hold()  # until a window alone is over
        Snapshotter(bench.engine, shipper, pace=pace).snapshot(gate.passing)
        over.set()
        following.join()
    return gate.held_s


def _follow(shipper: Shipper, over: threading.Event) -> None:
    """Ship all the time, as the process that takes snapshots does."""
    while not over.wait(SHIPPED_EVERY_S):
        shipper.ship_all()


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
        self.told = False
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
        self.told = word == "stop"
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

    def window(self, more: Callable[[], bool] = lambda: False) -> list[float]:
        """Milliseconds of each write of some seconds, and of further ones for as long as asked."""
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < WINDOW_S * self._rate or more():
            due = began + len(times) / self._rate
            time.sleep(max(0.0, due - time.perf_counter()))
            self._kv.put(f"k{self._number % 5_000}", self._value)
            times.append(1000 * (time.perf_counter() - due))
            self._number += 1
        return times


class Pair(NamedTuple):
    """Milliseconds of writes alone, and of those beside the snapshot right after."""

    alone: list[float]
    beside: list[float]

    @property
    def ratio(self) -> float:
        return _p99(self.beside) / _p99(self.alone)

    @property
    def counts(self) -> bool:
        """Whether the writer alone kept up: its last write was done about when it was due."""
        return self.alone[-1] < LATE_MS


def alternate(writer: Writer, begin: Callable[[], Process]) -> tuple[list[Pair], Process]:
    """Write until a process that begins now has ended, holding it half of the time."""
    process = begin()
    process.held.wait()
    pairs, alone = [], writer.window()
    process.tell("go")
    while process.running:
        beside = writer.window(partial(_goes_on, process, time.perf_counter() + WINDOW_S))
        pairs.append(Pair(alone, beside))
        print(_line(pairs[-1]), file=sys.stderr, flush=True)
        if process.running:
            alone = writer.window()
            process.tell("go")
    return pairs, process


def _goes_on(process: Process, until: float) -> bool:
    """Whether the process still works; it is told to stop when the time has come."""
    if time.perf_counter() > until and not process.told:
        process.tell("stop")
    return process.running and not process.held.is_set()


def _line(pair: Pair) -> str:
    """For whoever watches: the machine may be busy with something else."""
    kept = "" if pair.counts else f", alone {pair.alone[-1]:.0f} ms late at the end"
    return f"p99 {_p99(pair.alone):.1f} ms alone, {_p99(pair.beside):.1f} ms beside{kept}"


def _row(result: "Result") -> str:
    pairs = [pair for pair in result.pairs if pair.counts]
    windows = f"{len(pairs)} of {len(result.pairs)}"
    if not pairs:
        return (
            f"| {result.documents:,} | void: the writer alone does not keep up | | | | {windows} |"
        )
    alone = _p99([each for pair in pairs for each in pair.alone])
    beside = _p99([each for pair in pairs for each in pair.beside])
    middle = statistics.median(pair.ratio for pair in pairs)
    return (
        f"| {result.documents:,} | {alone:.2f} ms | {beside:.2f} ms | {beside / alone:.2f} "
        f"| {middle:.2f} | {windows} |"
    )


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


class Result(NamedTuple):
    documents: int
    pairs: list[Pair]
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
        pairs, process = alternate(Writer(bench, rate), begin)
        taken = process.wait()
        with bench.shipper() as shipper:
            shipper.ship_all()
        bench.engine.dispose()
        at_once = Process("snapshot", Path(name))
        at_once.held.wait()
        at_once.tell("go")
        again = at_once.wait()
        restored = Process("restore", Path(name)).wait()
        return Result(count, pairs, taken, again, restored)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000, help="and a tenth of them")
    parser.add_argument("--rate", type=int, default=500, help="writes a second")
    parser.add_argument("--share", type=float, default=10, help="per cent, see backup.snapshot_...")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        only(asked.only[0], asked.only[1], asked.share / 100)
        return
    counts = (asked.documents // 10, asked.documents)
    results = [measure(count, asked.rate, asked.share / 100) for count in counts]
    print("| documents | write p99 alone | beside a snapshot | ratio | middle of pairs | pairs |")
    print("|--:|--:|--:|--:|--:|--:|")
    for result in results:
        print(_row(result))
    print(f"\n{asked.rate} writes/s go on all the time; target of the ratio: 2 or less.\n")
    print("| documents | beside writes | processor, shipping too | at once again | peak |")
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
