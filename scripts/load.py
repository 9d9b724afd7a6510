"""Constant load on a running fleet, through each region's Envoy, with a record of every answer.

    scripts/load.py --home .chainring --rate 500 --seconds 60 --out load.csv

The load is open-loop: requests leave at their times, however slow the answers are. A rate that the
generator itself could not hold shows as ``late_ms`` in the summary. Each row of the record is one
request; times are nanoseconds of the monotonic clock, which all processes of a machine share.
``scripts/check_load.py`` then proves from the record what the rollout promised.
"""

import argparse
import asyncio
import csv
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from load_connection import Connection, Request, Response

from gateway.bootstrap import routes_file
from gateway.envoy import file_routes
from workers.settings import known_regions, load_region

SWEEP_SECONDS = 0.5


class Target(NamedTuple):
    """A tenant, and where its region's Envoy listens."""

    region: str
    shard: str
    tenant: str
    authority: str
    host: str
    port: int


class Answer(NamedTuple):
    """What became of one request; status 0 means that no answer came.

    ``shard`` and ``release`` are those that Envoy says it routed to; before it says so, the shard
    is the target's and the release is empty.
    """

    sent_ns: int
    received_ns: int
    region: str
    shard: str
    tenant: str
    release: str
    status: int

    @property
    def failed(self) -> bool:
        return not 200 <= self.status < 300


@dataclass
class Summary:
    """Counts over a run; latencies in milliseconds."""

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    late_ms: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        self.requests += 1
        self.failed += answer.failed
        self.statuses[answer.status] += 1
        self.releases[answer.release] += 1
        self.latencies_ms.append((answer.received_ns - answer.sent_ns) / 1e6)

    def as_dict(self) -> dict[str, object]:
        ordered = sorted(self.latencies_ms)
        return {
            "requests": self.requests,
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
            "per_second": round(self.requests / self.seconds, 1) if self.seconds else 0.0,
            "p50_ms": _quantile(ordered, 0.50),
            "p99_ms": _quantile(ordered, 0.99),
            "late_ms": round(self.late_ms, 1),
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
            "releases": dict(self.releases.most_common(20)),
        }


class LoadGenerator:
    """Sends ``rate`` requests a second to ``targets`` and hands every answer to ``record``.

    ``even`` gives each shard the same share, else each tenant has it. The order is random, the same
    for the same ``seed``. ``timeout`` in seconds is when a request without an answer has failed.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        rate: float,
        record: Callable[[Answer], None],
        path: str = "/",
        even: bool = False,
        timeout: float = 15.0,
        seed: int = 1,
    ) -> None:
        if not targets:
            raise ValueError("targets: there is no tenant to send requests to")
        if rate <= 0:
            raise ValueError("rate: it must be above 0")
        self.summary = Summary()
        self._rate = rate
        self._record = record
        self._path = path
        self._timeout = timeout
        self._order = _in_order(targets, even, random.Random(seed))
        self._requests: dict[Target, bytes] = {}
        self._idle: dict[tuple[str, int], list[Connection]] = {}
        self._busy: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._outstanding = 0
        self._all_answered = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        """End the run at the next request; safe from any thread and from a signal handler."""
        self._stopping = True

    async def run(self, seconds: float = float("inf")) -> Summary:
        """Send for ``seconds`` or until `stop`, then wait for the answers that are still due."""
        began = time.monotonic()
        sweeper = asyncio.create_task(self._sweep())
        try:
            await self._send_until(began, seconds)
            self.summary.seconds = time.monotonic() - began
            await self._all_answered.wait()
        finally:
            sweeper.cancel()
            for connection in itertools.chain(*self._idle.values(), self._busy):
                connection.close()
        return self.summary

    @contextmanager
    def running(self) -> Iterator[Summary]:
        """Run in a thread of its own while the block lasts; the summary is complete after it."""
        thread = threading.Thread(target=lambda: asyncio.run(self.run()), name="load")
        thread.start()
        try:
            yield self.summary
        finally:
            self.stop()
            thread.join()

    async def _send_until(self, began: float, seconds: float) -> None:
        sent = 0
        while not self._stopping:
            now = time.monotonic() - began
            due = int(min(now, seconds) * self._rate) + 1
            if sent < due:
                self.summary.late_ms = max(self.summary.late_ms, 1e3 * (now - sent / self._rate))
            while sent < due and sent < seconds * self._rate:
                self._send(next(self._order))
                sent += 1
            if now >= seconds:
                return
            await asyncio.sleep(max(0.001, sent / self._rate - now))

    def _send(self, target: Target) -> None:
        self._outstanding += 1
        self._all_answered.clear()
        request = Request(
            self._bytes_for(target), lambda response: self._answered(target, response)
        )
        idle = self._idle.setdefault((target.host, target.port), [])
        while idle:
            connection = idle.pop()
            if connection.open:
                self._busy.add(connection)
                connection.send(request)
                return
        opening = asyncio.create_task(self._open_and_send(target, request))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open_and_send(self, target: Target, request: Request) -> None:
        pool = self._idle[target.host, target.port]

        def release(connection: Connection) -> None:
            self._busy.discard(connection)
            if connection.open:
                pool.append(connection)

        began = time.monotonic_ns()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(release), target.host, target.port
                )
        except OSError:
            self._answered(target, Response.none(began))
            return
        self._busy.add(connection)
        connection.send(request)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            oldest = time.monotonic_ns() - int(self._timeout * 1e9)
            for connection in [each for each in self._busy if each.sent_ns < oldest]:
                connection.close()

    def _answered(self, target: Target, response: Response) -> None:
        answer = Answer(
            sent_ns=response.sent_ns,
            received_ns=response.received_ns,
            region=target.region,
            shard=response.shard or target.shard,
            tenant=target.tenant,
            release=response.release,
            status=response.status,
        )
        self.summary.add(answer)
        self._record(answer)
        self._outstanding -= 1
        if self._outstanding == 0:
            self._all_answered.set()

    def _bytes_for(self, target: Target) -> bytes:
        request = self._requests.get(target)
        if request is None:
            request = f"GET {self._path} HTTP/1.1\r\nHost: {target.authority}\r\n\r\n".encode()
            self._requests[target] = request
        return request


def targets_of_home() -> list[Target]:
    """Every active tenant of every region, as the regions' Envoys are told to route them."""
    targets = []
    for region in known_regions():
        gateway = load_region(region).gateway
        shards = file_routes(routes_file(gateway.directory).read_bytes())
        for shard, (_, hosts) in shards.items():
            for host in hosts:
                tenant = host.partition(".")[0]
                targets.append(Target(region, shard, tenant, host, gateway.host, gateway.port))
    return targets


@contextmanager
def csv_record(path: Path) -> Iterator[Callable[[Answer], None]]:
    """A recorder that writes each answer as a row of ``path``."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Answer._fields)
        yield writer.writerow


def read_record(path: Path) -> list[Answer]:
    """The answers in a record; raises ValueError with the line of a row that is none."""
    with path.open(newline="") as file:
        rows = csv.reader(file)
        if next(rows, []) != list(Answer._fields):
            raise ValueError(f"{path}: it is not a record of load: the first line names no columns")
        return [_answer(path, number, row) for number, row in enumerate(rows, start=2)]


def _answer(path: Path, line: int, row: list[str]) -> Answer:
    try:
        sent, received, region, shard, tenant, release, status = row
        return Answer(int(sent), int(received), region, shard, tenant, release, int(status))
    except ValueError as error:
        raise ValueError(f"{path}:{line}: {error}") from None


def _in_order(targets: Sequence[Target], even: bool, chance: random.Random) -> Iterator[Target]:
    """The targets over and over: one list in random order, or one such list per shard in turn."""
    groups: dict[str, list[Target]] = {}
    for target in targets:
        groups.setdefault(target.shard if even else "", []).append(target)
    for group in groups.values():
        chance.shuffle(group)
    turns = [itertools.cycle(group) for group in groups.values()]
    return (next(turn) for turn in itertools.cycle(turns))


def _quantile(ordered: Sequence[float], q: float) -> float | None:
    return round(ordered[int(q * (len(ordered) - 1))], 2) if ordered else None


async def _run_until_signalled(generator: LoadGenerator, seconds: float) -> Summary:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, generator.stop)
    return await generator.run(seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--home", type=Path, help="state directory of the stack ($CHAINRING_HOME)")
    parser.add_argument(
        "--rate", type=float, default=200.0, help="requests a second over all regions"
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--path", default="/", help="request path")
    parser.add_argument("--out", type=Path, default=Path("load.csv"), help="the record, CSV")
    parser.add_argument("--per-shard-even", action="store_true", help="same share for each shard")
    options = parser.parse_args(arguments)
    if options.home:
        os.environ["CHAINRING_HOME"] = str(options.home)
    with suppress(BrokenPipeError), csv_record(options.out) as record:
        generator = LoadGenerator(
            targets_of_home(),
            rate=options.rate,
            record=record,
            path=options.path,
            even=options.per_shard_even,
        )
        summary = asyncio.run(_run_until_signalled(generator, options.seconds))
        print(json.dumps(summary.as_dict(), indent=2))
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main())
