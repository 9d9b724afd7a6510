"""What the write buffer takes: acknowledged writes a second, against bare appends that are flushed.

    python scripts/bench_buffer.py [--seconds 2] [--directory DIR]

Prints one Markdown table. Each baseline runs in turns with ours, on the same disk, with the same
payloads: one file, ``write`` and ``fsync`` for each record under one lock. The best of three
counts.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from stores.buffered_kv import Base, Buffer, BufferedKV
from stores.drain import drain_and_clear
from stores.kv import TenantKV
from stores.spool import Spool, SpoolLimits
from stores.sql import create_all, open_engine

PAYLOAD = os.urandom(500)
ROUNDS = 3
LIMITS = SpoolLimits(records=10_000_000, bytes=10**11)

Write = Callable[[int, int], object]
"""Called with the writer's number and a count; returns when the write is acknowledged."""


def rate(write: Write, writers: int, seconds: float) -> tuple[float, float]:
    """Acknowledged writes a second of all writers together, and the p99 of one in ms."""
    times: list[list[float]] = [[] for _ in range(writers)]
    stop = time.perf_counter() + seconds

    def run(writer: int) -> None:
        own, now, count = times[writer], time.perf_counter(), 0
        while now < stop:
            write(writer, count)
            after = time.perf_counter()
            own.append(after - now)
            now, count = after, count + 1

    threads = [threading.Thread(target=run, args=(each,)) for each in range(writers)]
    began = time.perf_counter()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    took = time.perf_counter() - began
    merged = sorted(one for own in times for one in own)
    return len(merged) / took, merged[int(len(merged) * 0.99)] * 1000


def bare(directory: Path, writers: int, seconds: float) -> tuple[float, float]:
    """Records appended to one file, each flushed by itself."""
    handle = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lock = threading.Lock()

    def write(_writer: int, _count: int) -> None:
        with lock:
            os.write(handle, PAYLOAD)
            os.fsync(handle)

    try:
        return rate(write, writers, seconds)
    finally:
        os.close(handle)


def spool(directory: Path, writers: int, seconds: float) -> tuple[float, float]:
    """The spool alone."""
    opened = Spool(directory / "spool", epoch=1, limits=LIMITS)
    try:
        return rate(lambda _writer, _count: opened.append(PAYLOAD), writers, seconds)
    finally:
        opened.close()


def keys(directory: Path, writers: int, seconds: float) -> tuple[float, float]:
    """Tenants' puts through the buffer, over a snapshot in SQLite."""
    engine = open_engine(f"sqlite:///{directory}/base.db")
    create_all(engine)
    opened = Spool(directory / "keys", epoch=1, limits=LIMITS)
    buffer = Buffer(opened, Base(lambda tenant: TenantKV(engine, tenant), time.time()))

    def put(writer: int, count: int) -> None:
        BufferedKV(buffer, f"t{writer}").put(f"key/{count % 1000}", PAYLOAD)

    try:
        return rate(put, writers, seconds)
    finally:
        opened.close()
        engine.dispose()


def drained(directory: Path, records: int) -> tuple[float, float]:
    """Drained writes a second into SQLite, and plain puts a second into the same, one by one."""
    engine = open_engine(f"sqlite:///{directory}/live.db")
    create_all(engine)
    opened = Spool(directory / "drain", epoch=1, limits=LIMITS)
    buffer = Buffer(opened, Base(lambda tenant: TenantKV(engine, tenant), time.time()))

    def fill(writer: int) -> None:
        for count in range(records // 32):
            BufferedKV(buffer, f"t{writer}").put(f"key/{count}", PAYLOAD)

    threads = [threading.Thread(target=fill, args=(each,)) for each in range(32)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    began = time.perf_counter()
    report = drain_and_clear(engine, opened, rebuilt=False)
    ours = report.applied / (time.perf_counter() - began)
    opened.close()
    began = time.perf_counter()
    for count in range(records // 10):
        TenantKV(engine, "plain").put(f"key/{count}", PAYLOAD)
    plain = records // 10 / (time.perf_counter() - began)
    engine.dispose()
    return ours, plain


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--seconds", type=float, default=2.0)
    options.add_argument("--directory", type=Path, default=None, help="on the disk to measure")
    given = options.parse_args()
    print("| what | writers | acknowledged/s | p99 ms | bare fsync/s | times bare |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, measure in (("spool, 500 B", spool), ("buffered put, 500 B", keys)):
        for writers in (1, 32):
            ours, floor = (0.0, 0.0), 0.0
            for _ in range(ROUNDS):
                with tempfile.TemporaryDirectory(dir=given.directory) as scratch:
                    floor = max(floor, bare(Path(scratch), writers, given.seconds)[0])
                    ours = max(ours, measure(Path(scratch), writers, given.seconds))
            print(
                f"| {name} | {writers} | {ours[0]:,.0f} | {ours[1]:.2f} | {floor:,.0f} "
                f"| {ours[0] / floor:.2f} |"
            )
    with tempfile.TemporaryDirectory(dir=given.directory) as scratch:
        ours_drained, plain = drained(Path(scratch), 20_000)
    print(
        f"\nDrain of 20,000 writes of 32 tenants into SQLite: {ours_drained:,.0f}/s; "
        f"plain puts, one after the other: {plain:,.0f}/s."
    )


main()
