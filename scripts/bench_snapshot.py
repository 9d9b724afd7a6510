"""A large store: writes while it is snapshotted, and how a restore grows with it.

    scripts/bench snapshot [--documents 1000000] [--rate 500]

The snapshot is taken by a process of its own, as in production. A write's time counts from when it
was due, so that one that had to wait for another is not forgotten. Restores run in a fresh process
each, whose peak memory is what the system says.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench_recovery import KEYS_A_TENANT, VALUE_BYTES, Bench, Row, _insert

from stores.kv import TenantKV, value_digest
from stores.snapshots import Snapshotter
from stores.sql import open_scratch, settle

BATCH = 10_000


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


def snapshot(directory: str) -> None:
    bench = _bench(directory)
    with bench.shipper() as shipper:
        Snapshotter(bench.engine, shipper).snapshot()


def restore(directory: str) -> None:
    bench = _bench(directory)
    url = f"sqlite:///{directory}/restored-{os.getpid()}.db"
    target = open_scratch(url)
    report = bench.restore(target)
    target.dispose()
    settle(url)
    assert report.complete


def _bench(directory: str) -> Bench:
    return Bench(Path(directory), f"sqlite:///{directory}/source.db")


def in_process(what: str, directory: Path) -> "subprocess.Popen[str]":
    """One of the two above in a process of its own; it prints its time and peak memory."""
    return subprocess.Popen(
        [sys.executable, __file__, "--only", what, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
    )


def only(what: str, directory: str) -> None:
    import resource  # noqa: PLC0415 - of the process that is measured

    started = time.perf_counter()
    {"snapshot": snapshot, "restore": restore}[what](directory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - started, "peak": peak}))


def write_at(
    bench: Bench, rate: int, seconds: float, process: "subprocess.Popen[str] | None"
) -> list[float]:
    """Milliseconds of each write; until the process has ended, where there is one."""
    kv, value = TenantKV(bench.engine, "acme"), os.urandom(VALUE_BYTES)
    times, began, number = [], time.perf_counter(), 0
    while process.poll() is None if process else number < rate * seconds:
        due = began + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        kv.put(f"k{number % 5_000}", value)
        times.append(1000 * (time.perf_counter() - due))
        number += 1
    return times


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=500, help="writes a second")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        only(*asked.only)
        return
    grown = []
    for count in (asked.documents // 10, asked.documents):
        with tempfile.TemporaryDirectory() as name:
            bench = _bench(name)
            fill(bench, count)
            alone = write_at(bench, asked.rate, 10, None)
            process = in_process("snapshot", Path(name))
            beside = write_at(bench, asked.rate, 0, process)
            taken = json.loads(process.communicate()[0])
            with bench.shipper() as shipper:
                shipper.ship_all()
            bench.engine.dispose()
            restored = json.loads(in_process("restore", Path(name)).communicate()[0])
            grown.append((count, alone, beside, taken, restored))
    print("| documents | snapshot | its peak memory | write p99 alone | beside it | ratio |")
    print("|--:|--:|--:|--:|--:|--:|")
    for count, alone, beside, taken, _ in grown:
        before, during = _p99(alone), _p99(beside)
        print(
            f"| {count:,} | {taken['seconds']:.1f} s | {taken['peak']:.0f} MiB | {before:.2f} ms "
            f"| {during:.2f} ms | {during / before:.2f} |"
        )
    print(f"\n{asked.rate} writes/s go on meanwhile; target of the ratio: 2 or less.\n")
    print("| documents | restore | a thousand | peak memory |\n|--:|--:|--:|--:|")
    for count, *_, restored in grown:
        seconds, peak = restored["seconds"], restored["peak"]
        each = 1e6 * seconds / count
        print(f"| {count:,} | {seconds:.1f} s | {each:.1f} ms | {peak:.0f} MiB |")


if __name__ == "__main__":
    main()
