"""The Envoy provider against a real Envoy, and against answers that must never pass for data."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from ports import free_port

from activities.metrics import base
from activities.metrics.base import MetricsUnavailable, ProcessFacts
from activities.metrics.envoy import EnvoyProvider
from activities.metrics.exposition import Exposition
from models.addresses import GatewayAddress
from models.gate_policy import GatePolicy
from models.judge import judge
from models.observation import RegionObservation
from models.verdict import gather_evidence

CANDIDATE, BASELINE, IDLE = ("sha256:" + letter * 64 for letter in "cbd")
GONE = "sha256:" + "e" * 64
PROCESS_METRICS = (
    "# TYPE process_resident_memory_bytes gauge\n"
    "process_resident_memory_bytes 1.048576e+08\n"
    "# TYPE process_start_time_seconds gauge\n"
    "process_start_time_seconds 1.79e+09\n"
)


@contextlib.contextmanager
def serving(answer: Callable[[str], tuple[int, bytes, float]]) -> Iterator[int]:
    """An HTTP server; ``answer`` gives status, body, and seconds to wait, for a path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body, wait = answer(self.path)
            time.sleep(wait)
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def release_answer(path: str) -> tuple[int, bytes, float]:
    match path:
        case "/metrics":
            return 200, PROCESS_METRICS.encode(), 0.0
        case "/bad":
            return 503, b"bad", 0.0
        case "/slow":
            return 200, b"slow", 1.0
        case _:
            return 200, b"ok", 0.0


@dataclass
class Stack:
    port: int
    address: GatewayAddress
    processes: dict[str, ProcessFacts]

    def provider(self, **options: float) -> EnvoyProvider:
        return EnvoyProvider("eu", self.address, lambda: self.processes, **options)

    def get(self, release: str, path: str = "/", timeout: float = 5.0) -> int:
        headers = {"x-release": release}
        return httpx.get(
            f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=timeout
        ).status_code


def bootstrap(port: int, admin_port: int, clusters: Mapping[str, int]) -> str:
    def address(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    def name(release: str) -> str:
        return f"release-{release.removeprefix('sha256:')[:12]}"

    routes = [
        {
            "match": {
                "prefix": "/",
                "headers": [{"name": "x-release", "string_match": {"exact": release}}],
            },
            "route": {"cluster": name(release), "timeout": "0.3s"},
        }
        for release in clusters
    ]
    http = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{http}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{http}.http.router.v3.Router"},
            }
        ],
    }
    chain = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    return json.dumps(
        {
            "admin": {"address": address(admin_port)},
            "stats_flush_interval": "0.1s",
            "static_resources": {
                "listeners": [{"name": "in", "address": address(port), "filter_chains": [chain]}],
                "clusters": [
                    {
                        "name": name(release),
                        "type": "STATIC",
                        "load_assignment": {
                            "cluster_name": name(release),
                            "endpoints": [
                                {"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}
                            ],
                        },
                    }
                    for release, upstream in clusters.items()
                ],
            },
        }
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("envoy")
    envoy = Path(sys.executable).parent / "envoy"
    port, admin_port = free_port(), free_port()
    with serving(release_answer) as upstream:
        clusters = {CANDIDATE: upstream, BASELINE: upstream, IDLE: upstream, GONE: free_port()}
        (directory / "envoy.json").write_text(bootstrap(port, admin_port, clusters))
        with start_envoy(str(envoy), directory, admin_port):
            yield Stack(
                port,
                GatewayAddress(port=port, admin_port=admin_port, directory=directory, kv_port=1),
                {each: ProcessFacts(upstream, 0, "run-1") for each in clusters},
            )


@contextlib.contextmanager
def start_envoy(envoy: str, directory: Path, admin_port: int) -> Iterator[None]:
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    process = subprocess.Popen(
        [shutil.which(envoy) or envoy, "-c", str(directory / "envoy.json"), *options],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: httpx.get(f"http://127.0.0.1:{admin_port}/ready").status_code == 200)
        yield
    finally:
        process.terminate()
        process.wait(10)


def wait_for(ready: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if ready():
                return
        assert time.monotonic() < deadline, "not ready in time"
        time.sleep(0.05)


async def settled(stack: Stack, release: str, timed: int) -> RegionObservation:
    """Observe until Envoy has merged the latencies of ``timed`` requests."""
    for _ in range(100):
        seen = await stack.provider().observe(release, [])
        if seen.candidate and seen.candidate.latency.counts[-1] >= timed:
            break
        await asyncio.sleep(0.05)
    return seen


def errors_never_pass(observation: RegionObservation) -> None:
    assert observation.problem
    evidence = gather_evidence(
        ring="5%",
        look=1,
        looks=1,
        policy=GatePolicy(looks=1, min_samples=1),
        start=[observation],
        series=[[observation]],
        expects_baseline=False,
    )
    assert judge(evidence).outcome == "error"


# --- the real Envoy ---


async def test_it_counts_what_clients_see(stack: Stack):
    before = await settled(stack, CANDIDATE, 0)
    assert [stack.get(CANDIDATE) for _ in range(20)] == [200] * 20
    assert [stack.get(CANDIDATE, "/bad") for _ in range(3)] == [503] * 3
    assert stack.get(CANDIDATE, "/slow") == 504  # Envoy's own timeout: an error with an answer
    with pytest.raises(httpx.ReadTimeout):
        stack.get(CANDIDATE, "/slow", timeout=0.1)  # the client gives up: an error without one
    await asyncio.sleep(0.2)
    assert before.candidate
    after = await settled(stack, CANDIDATE, before.candidate.latency.counts[-1] + 23)
    assert after.problem is None
    assert after.candidate
    assert after.candidate.requests - before.candidate.requests == 25
    assert after.candidate.errors - before.candidate.errors == 5
    assert after.candidate.latency.counts[-1] - before.candidate.latency.counts[-1] == 23
    assert after.candidate.memory_mb == 100.0
    assert after.candidate.source == before.candidate.source
    assert 0 <= (after.at - after.candidate.at).total_seconds() < 2


async def test_a_refused_connection_is_an_error(stack: Stack):
    before = await stack.provider().observe(GONE, [])
    assert stack.get(GONE) == 503
    after = await stack.provider().observe(GONE, [])
    assert before.candidate and after.candidate
    assert after.candidate.requests - before.candidate.requests == 1
    assert after.candidate.errors - before.candidate.errors == 1


async def test_the_baseline_is_the_first_that_still_serves(stack: Stack):
    stranger = "sha256:" + "9" * 64
    seen = await stack.provider().observe(CANDIDATE, [stranger, CANDIDATE, BASELINE, IDLE])
    assert seen.problem is None
    assert seen.baseline and seen.baseline.release == BASELINE
    alone = await stack.provider().observe(CANDIDATE, [stranger])
    assert (alone.problem, alone.baseline) == (None, None)


async def test_an_idle_release_has_counted_nothing(stack: Stack):
    seen = await stack.provider().observe(IDLE, [])
    assert seen.problem is None
    assert seen.candidate
    assert (seen.candidate.requests, seen.candidate.latency.counts) == (0, [0])


async def test_a_release_that_envoy_does_not_know(stack: Stack):
    stranger = "sha256:" + "9" * 64
    port = stack.processes[CANDIDATE].port
    provider = EnvoyProvider(
        "eu", stack.address, lambda: {stranger: ProcessFacts(port, 0, "run-1")}
    )
    seen = await provider.observe(stranger, [])
    assert "Envoy has no cluster release-999999999999" in str(seen.problem)
    errors_never_pass(seen)


async def test_a_release_without_a_process(stack: Stack):
    errors_never_pass(await stack.provider().observe("sha256:" + "9" * 64, [BASELINE]))


async def test_a_restart_of_envoy_changes_the_source(stack: Stack, tmp_path: Path):
    port, admin_port = free_port(), free_port()
    upstream = stack.processes[CANDIDATE].port
    (tmp_path / "envoy.json").write_text(bootstrap(port, admin_port, {CANDIDATE: upstream}))
    address = GatewayAddress(port=port, admin_port=admin_port, directory=tmp_path, kv_port=1)
    provider = EnvoyProvider("eu", address, lambda: stack.processes)
    sources = set()
    for _ in range(2):
        with start_envoy(str(Path(sys.executable).parent / "envoy"), tmp_path, admin_port):
            first = await provider.observe(CANDIDATE, [])
            again = await provider.observe(CANDIDATE, [])
        assert first.candidate and again.candidate
        assert first.candidate.source == again.candidate.source
        sources.add(first.candidate.source)
    assert len(sources) == 2
    errors_never_pass(await provider.observe(CANDIDATE, []))  # and now it is down


async def test_a_restart_of_the_process_changes_the_source(stack: Stack):
    port = stack.processes[CANDIDATE].port
    seen = []
    for facts in (ProcessFacts(port, 0, "run-1"), ProcessFacts(port, 1, "run-2")):
        provider = EnvoyProvider("eu", stack.address, lambda facts=facts: {CANDIDATE: facts})
        seen.append((await provider.observe(CANDIDATE, [])).candidate)
    assert seen[0].source != seen[1].source
    assert (seen[0].restarts, seen[1].restarts) == (0, 1)


# --- answers that are none ---


@pytest.mark.parametrize(
    ("status", "body", "wait", "problem"),
    [
        (200, b"", 0.0, "no series process_resident_memory_bytes"),
        (500, PROCESS_METRICS.encode(), 0.0, "status 500"),
        (200, PROCESS_METRICS.encode(), 1.0, "no answer within 0.3 s"),
        (200, b"process_resident_memory_bytes NaN\n", 0.0, "is nan"),
        (200, b"process_resident_memory_bytes -1\n", 0.0, "memory_mb"),
        (200, b"<html>{{{</html>", 0.0, "not in Prometheus format"),
        (200, b"\xff\xfe", 0.0, "not in Prometheus format"),
        (
            200,
            b'process_resident_memory_bytes{a="1"} 1\nprocess_resident_memory_bytes{a="2"} 2\n',
            0.0,
            "2 series",
        ),
    ],
)
async def test_a_release_that_does_not_say_its_memory(
    stack: Stack, status: int, body: bytes, wait: float, problem: str
):
    with serving(lambda path: (status, body, wait)) as port:
        facts = ProcessFacts(port, 0, "run-1")
        provider = EnvoyProvider("eu", stack.address, lambda: {CANDIDATE: facts}, deadline=0.3)
        seen = await provider.observe(CANDIDATE, [])
    assert problem in str(seen.problem)
    errors_never_pass(seen)


async def test_an_unreadable_baseline_is_a_problem_too(stack: Stack):
    processes = stack.processes | {BASELINE: ProcessFacts(free_port(), 0, "run-1")}
    seen = await EnvoyProvider("eu", stack.address, lambda: processes).observe(
        CANDIDATE, [BASELINE]
    )
    assert "release bbbbbbbbbbbb" in str(seen.problem)
    errors_never_pass(seen)


def admin(stats: str, dump: object) -> Callable[[str], tuple[int, bytes, float]]:
    def answer(path: str) -> tuple[int, bytes, float]:
        pages = {"/stats/prometheus": stats, "/config_dump": json.dumps(dump)}
        return 200, pages[urlsplit(path).path].encode(), 0.0

    return answer


DUMP = {"configs": [{"@type": "x.BootstrapConfigDump", "last_updated": "2026-01-01T00:00:00Z"}]}
MEMBER = 'envoy_cluster_membership_total{envoy_cluster_name="release-cccccccccccc"} 1\n'
BUCKET = (
    'envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="release-cccccccccccc",le="%s"} %s\n'
)


@pytest.mark.parametrize(
    ("stats", "dump", "problem"),
    [
        ("", DUMP, "no cluster"),
        (MEMBER, {}, "not a configuration dump"),
        (MEMBER, [], "not a configuration dump"),
        (MEMBER, {"configs": []}, "does not say when Envoy started"),
        (MEMBER + BUCKET % ("1", "5"), DUMP, "no +Inf bucket"),
        (MEMBER + BUCKET % ("1", "NaN") + BUCKET % ("+Inf", "9"), DUMP, "not a count"),
        (MEMBER + BUCKET % ("1", "9") + BUCKET % ("+Inf", "5"), DUMP, "counts fall"),
        (MEMBER + BUCKET % ("x", "9") + BUCKET % ("+Inf", "9"), DUMP, "could not convert"),
    ],
)
async def test_an_envoy_that_answers_nonsense(
    stack: Stack, tmp_path: Path, stats: str, dump: object, problem: str
):
    with serving(admin(stats, dump)) as port:
        address = GatewayAddress(port=1, admin_port=port, directory=tmp_path, kv_port=1)
        seen = await EnvoyProvider("eu", address, lambda: stack.processes).observe(CANDIDATE, [])
    assert problem in str(seen.problem)
    errors_never_pass(seen)


async def test_an_answer_without_end_is_cut_off(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base, "MAX_BODY_BYTES", 1000)
    with serving(admin("# " + "x" * 5000 + "\n", DUMP)) as port:
        address = GatewayAddress(port=1, admin_port=port, directory=tmp_path, kv_port=1)
        seen = await EnvoyProvider("eu", address, lambda: stack.processes).observe(CANDIDATE, [])
    assert "exceeds 1000 bytes" in str(seen.problem)
    errors_never_pass(seen)


async def test_processes_that_cannot_be_listed(stack: Stack):
    def locked() -> dict[str, ProcessFacts]:
        raise OSError("database is locked")

    seen = await EnvoyProvider("eu", stack.address, locked).observe(CANDIDATE, [])
    assert "database is locked" in str(seen.problem)
    errors_never_pass(seen)


def test_counters_are_found_with_and_without_their_suffix():
    text = b"# TYPE a counter\na 5\n# TYPE b_total counter\nb_total 6\nc 7.5\n"
    exposition = Exposition(text, "here")
    assert (exposition.count("a", {}), exposition.count("b", {})) == (5, 6)
    assert exposition.count("absent", {}) == 0
    with pytest.raises(MetricsUnavailable, match="not a count"):
        exposition.count("c", {})
