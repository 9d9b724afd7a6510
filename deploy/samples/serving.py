"""What the sample services share: a small HTTP/1.1 server with metrics and a configured temper.

Copied into each release next to ``service.py`` and ``behaviour.json``. Standard library only, and
little memory: a fleet runs many of these side by side.

The three rules of a release: listen on ``$PORT``, answer ``/healthz``, expose ``/metrics``.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)
HEAD_LIMIT = 32 * 1024
BODY_LIMIT = 4 * 1024 * 1024
PAGE = os.sysconf("SC_PAGE_SIZE")
REASONS = {
    200: "OK",
    400: "Bad Request",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

Answer = Callable[[str], dict[str, Any]]
"""Builds the JSON body for a request target."""


@dataclass(frozen=True)
class Behaviour:
    """How this build behaves; read from ``behaviour.json``. What is bad begins after ``after_s``.

    Attributes:
        version: said in every answer.
        latency_ms: least and most time an answer waits, as if for a database.
        slow_share: share of requests that wait ``slow_factor`` times as long.
        error_share: share of requests answered 500.
        leak_kb: memory kept for ever, per request.
        crash_at_start: exit with an error before listening.
        healthy: whether ``/healthz`` answers 200.
    """

    version: str
    latency_ms: tuple[float, float] = (2.0, 5.0)
    slow_share: float = 0.0
    slow_factor: float = 10.0
    error_share: float = 0.0
    leak_kb: int = 0
    crash_at_start: bool = False
    healthy: bool = True
    after_s: float = 0.0

    @staticmethod
    def load(path: Path) -> "Behaviour":
        values = json.loads(path.read_text())
        if "latency_ms" in values:
            values["latency_ms"] = tuple(values["latency_ms"])
        return Behaviour(**values)


@dataclass(frozen=True)
class Request:
    target: str
    keep_alive: bool


class Metrics:
    """Counters of this process in the Prometheus text format."""

    def __init__(self) -> None:
        self.codes: Counter[int] = Counter()
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._sum = 0.0
        self._started = time.time()

    def note(self, code: int, seconds: float) -> None:
        self.codes[code] += 1
        self._buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._sum += seconds

    def render(self) -> bytes:
        lines = ["# TYPE http_requests_total counter"]
        for code, count in sorted(self.codes.items()):
            lines.append(f'http_requests_total{{code="{code}"}} {count}')
        lines.append("# TYPE http_request_duration_seconds histogram")
        total = 0
        for bound, count in zip((*BUCKETS_S, "+Inf"), self._buckets, strict=True):
            total += count
            lines.append(f'http_request_duration_seconds_bucket{{le="{bound}"}} {total}')
        lines += [
            f"http_request_duration_seconds_sum {self._sum:.6f}",
            f"http_request_duration_seconds_count {total}",
            "# TYPE process_resident_memory_bytes gauge",
            f"process_resident_memory_bytes {_resident_bytes()}",
            "# TYPE process_start_time_seconds gauge",
            f"process_start_time_seconds {self._started:.3f}",
            "",
        ]
        return "\n".join(lines).encode()


class Service:
    """Serves ``answer`` until SIGTERM, then finishes what it has and returns."""

    def __init__(self, name: str, behaviour: Behaviour, answer: Answer) -> None:
        self._name = name
        self._behaviour = behaviour
        self._answer = answer
        self._metrics = Metrics()
        self._random = random.Random()  # noqa: S311 - no secret depends on it
        self._started = time.monotonic()
        self._kept: list[bytes] = []
        self._idle: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def serve(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        server = await asyncio.start_server(
            self._accept, "127.0.0.1", port, limit=HEAD_LIMIT, backlog=1024
        )
        print(f"{self._name} {self._behaviour.version} listens on port {port}", flush=True)
        await self._stopping.wait()
        server.close()
        for writer in list(self._idle):
            writer.close()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: a request after the other until either side has enough."""
        try:
            while not self._stopping.is_set():
                self._idle.add(writer)
                head = await reader.readuntil(b"\r\n\r\n")
                self._idle.discard(writer)
                keep = await self._exchange(head, reader, writer)
                if not keep:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other side has gone
        except (asyncio.LimitOverrunError, ValueError):
            self._send(writer, 400, b"{}", "application/json", keep=False)
        finally:
            self._idle.discard(writer)
            writer.close()

    async def _exchange(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether the connection goes on."""
        request, length, chunked = _parse_head(head)
        await _skip_body(reader, length, chunked)
        code, body, kind = await self._respond(request.target)
        keep = request.keep_alive and not self._stopping.is_set()
        self._send(writer, code, body, kind, keep=keep)
        await writer.drain()
        return keep

    async def _respond(self, target: str) -> tuple[int, bytes, str]:
        path = target.partition("?")[0]
        if path == "/healthz":
            healthy = self._behaviour.healthy
            return (200 if healthy else 503), b'{"healthy":%s}' % _json(healthy), "application/json"
        if path == "/metrics":
            return 200, self._metrics.render(), "text/plain; version=0.0.4"
        begun = time.perf_counter()
        code, body = await self._work(target)
        self._metrics.note(code, time.perf_counter() - begun)
        return code, body, "application/json"

    async def _work(self, target: str) -> tuple[int, bytes]:
        how = self._behaviour
        bad = time.monotonic() - self._started >= how.after_s
        wait_ms = self._random.uniform(*how.latency_ms)
        if bad and self._random.random() < how.slow_share:
            wait_ms *= how.slow_factor
        await asyncio.sleep(wait_ms / 1000)
        if bad and how.leak_kb:
            self._kept.append(os.urandom(1024) * how.leak_kb)
        about = {"service": self._name, "version": how.version}
        if bad and self._random.random() < how.error_share:
            return 500, _json({**about, "error": "internal"})
        return 200, _json({**about, **self._answer(target)})

    def _send(
        self, writer: asyncio.StreamWriter, code: int, body: bytes, kind: str, *, keep: bool
    ) -> None:
        head = (
            f"HTTP/1.1 {code} {REASONS[code]}\r\n"
            f"content-type: {kind}\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-release-version: {self._behaviour.version}\r\n"
            f"connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        writer.write(head.encode() + body)


def run(name: str, answer: Answer) -> None:
    """The whole program of a sample service."""
    behaviour = Behaviour.load(Path(__file__).with_name("behaviour.json"))
    if behaviour.crash_at_start:
        sys.exit(f"{name} {behaviour.version}: cannot open the price list: no such table")
    asyncio.run(Service(name, behaviour, answer).serve(int(os.environ["PORT"])))


def _parse_head(head: bytes) -> tuple[Request, int, bool]:
    """The request, the length of its body, and whether the body is chunked.

    Raises:
        ValueError: not HTTP/1.x.
    """
    request_line, *lines = head.decode("latin-1").split("\r\n")
    _, target, version = request_line.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(version)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    wanted = headers.get("connection", "").lower()
    keep_alive = wanted != "close" and (version == "HTTP/1.1" or wanted == "keep-alive")
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    return Request(target, keep_alive), int(headers.get("content-length", "0")), chunked


async def _skip_body(reader: asyncio.StreamReader, length: int, chunked: bool) -> None:
    """Read a body away; none of the samples needs one.

    Raises:
        ValueError: it is too long, or not chunked as it says.
    """
    if not chunked:
        if not 0 <= length <= BODY_LIMIT:
            raise ValueError("body too long")
        await reader.readexactly(length)
        return
    total = 0
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        total += size
        if not 0 <= size <= total <= BODY_LIMIT:
            raise ValueError("body too long")
        if size == 0:
            break
        await reader.readexactly(size + 2)
    while (await reader.readline()).strip():
        pass  # trailers


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
