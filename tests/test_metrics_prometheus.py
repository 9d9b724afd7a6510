"""The Prometheus provider against a real Prometheus, and against answers that are none."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from ports import free_port

from activities.metrics.base import ProcessFacts
from activities.metrics.prometheus import PrometheusProvider, PrometheusQueries
from models.gate_policy import GatePolicy
from models.judge import judge
from models.observation import RegionObservation
from models.verdict import Verdict, gather_evidence

CANDIDATE, BASELINE, IDLE, ABSENT = ("sha256:" + letter * 64 for letter in "cbda")
PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None, reason="no prometheus here: apt-get install prometheus"
)


def short(release: str) -> str:
    return release.removeprefix("sha256:")[:12]


@contextlib.contextmanager
def serving(answer: Callable[[str], tuple[int, bytes, float]]) -> Iterator[int]:
    """An HTTP server; ``answer`` gives status, body, and seconds to wait, for a path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, wait = answer(self.path)
            time.sleep(wait)
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("content-type", "text/plain; version=0.0.4")
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


@dataclass
class Cohort:
    """What Envoy and the process of one release would say."""

    requests: int = 200
    errors: int = 2
    timeouts: int = 1
    closed: int = 4
    memory: str = "1.048576e+08"
    started: float = 1.79e9
    suffix: str = ""  # an explicit timestamp, in milliseconds

    def envoy(self, release: str) -> str:
        name = f'envoy_cluster_name="release-{short(release)}"'
        lines = [
            f"envoy_cluster_upstream_rq_completed{{{name}}} {self.requests}",
            f"envoy_cluster_upstream_rq_timeout{{{name}}} {self.timeouts}",
            f"envoy_cluster_upstream_rq_per_try_timeout{{{name}}} 0",
            f"envoy_cluster_upstream_cx_destroy_local_with_active_rq{{{name}}} {self.closed}",
        ]
        if self.errors:
            code = 'envoy_response_code_class="5"'
            lines.append(f"envoy_cluster_upstream_rq_xx{{{name},{code}}} {self.errors}")
        if self.requests:
            for bound, count in (("10", self.requests // 2), ("50", self.requests)):
                lines.append(
                    f'envoy_cluster_upstream_rq_time_bucket{{{name},le="{bound}"}} {count}'
                )
            lines.append(
                f'envoy_cluster_upstream_rq_time_bucket{{{name},le="+Inf"}} {self.requests}'
            )
        return "".join(f"{line}{self.suffix}\n" for line in lines)

    def process(self) -> str:
        return (
            f"process_resident_memory_bytes {self.memory}\n"
            f"process_start_time_seconds {self.started}\n"
        )


@dataclass
class World:
    """The scraped targets, and the Prometheus that scrapes them."""

    url: str = ""
    cohorts: dict[str, Cohort] = field(default_factory=dict)
    uptime: int = 100
    down: bool = False

    def answer(self, path: str) -> tuple[int, bytes, float]:
        if self.down:
            return 500, b"", 0.0
        if path == "/envoy":
            text = "".join(cohort.envoy(each) for each, cohort in self.cohorts.items())
            return 200, f"{text}envoy_server_uptime {self.uptime}\n".encode(), 0.0
        cohort = next(each for name, each in self.cohorts.items() if short(name) in path)
        return 200, cohort.process().encode(), 0.0

    def reset(self) -> None:
        idle = Cohort(requests=0, errors=0, timeouts=0, closed=0)
        self.cohorts = {CANDIDATE: Cohort(), BASELINE: Cohort(requests=400), IDLE: idle}
        self.down = False

    async def scraped(self, promql: str) -> None:
        """Wait until Prometheus sees the condition."""
        async with httpx.AsyncClient() as client:
            for _ in range(200):
                answer = await client.get(f"{self.url}/api/v1/query", params={"query": promql})
                if answer.json().get("data", {}).get("result"):
                    return
                await asyncio.sleep(0.05)
        raise AssertionError(f"never seen: {promql}")

    async def scraped_anew(self) -> None:
        """Wait until every target was scraped after now."""
        now = time.time()
        await self.scraped(f"count(timestamp(up) > {now}) == {1 + len(self.cohorts)}")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("prometheus")
    world = World()
    world.reset()
    port = free_port()
    with serving(world.answer) as targets:
        (directory / "prometheus.yml").write_text(scrape_config(world, targets))
        world.url = f"http://127.0.0.1:{port}"
        with start_prometheus(directory, port):
            yield world


@pytest.fixture
async def world(prometheus: World) -> World:
    prometheus.reset()
    await prometheus.scraped_anew()
    return prometheus


def scrape_config(world: World, port: int) -> str:
    target = [f"127.0.0.1:{port}"]
    jobs: list[dict[str, object]] = [
        {
            "job_name": "envoy",
            "metrics_path": "/envoy",
            "static_configs": [{"targets": target}],
        }
    ]
    jobs.extend(
        {
            "job_name": f"release-{short(release)}",
            "metrics_path": f"/release-{short(release)}",
            "static_configs": [
                {"targets": target, "labels": {"chainring_release": short(release)}}
            ],
        }
        for release in world.cohorts
    )
    interval = {"scrape_interval": "200ms", "scrape_timeout": "200ms"}
    return json.dumps({"global": interval, "scrape_configs": jobs})  # YAML holds JSON


@contextlib.contextmanager
def start_prometheus(directory: Path, port: int) -> Iterator[None]:
    assert PROMETHEUS is not None
    process = subprocess.Popen(
        [
            PROMETHEUS,
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/-/ready").status_code == 200:
                    break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def verdict_of(start: RegionObservation, newest: RegionObservation, max_age: float = 30) -> Verdict:
    policy = GatePolicy(looks=1, min_samples=1, max_point_age_seconds=max_age)
    return judge(
        gather_evidence(
            ring="5%",
            look=1,
            looks=1,
            policy=policy,
            start=[start],
            series=[[newest]],
            expects_baseline=newest.baseline is not None,
        )
    )


def errors_never_pass(seen: RegionObservation) -> None:
    assert seen.problem
    assert verdict_of(seen, seen).outcome == "error"


# --- the real Prometheus ---


@needs_prometheus
async def test_it_reads_both_cohorts(world: World):
    before = datetime.now(UTC)
    seen = await PrometheusProvider("eu", world.url).observe(CANDIDATE, [CANDIDATE, BASELINE])
    assert seen.problem is None
    assert seen.candidate and seen.baseline
    assert seen.candidate.requests == 203  # 200 answers, and 4 closed of which 1 is a timeout
    assert seen.candidate.errors == 5
    assert seen.candidate.latency.bounds == [10.0, 50.0]
    assert seen.candidate.latency.counts == [100, 200, 200]
    assert seen.candidate.memory_mb == 100.0
    assert seen.baseline.requests == 403
    assert timedelta(0) <= seen.at - seen.candidate.at < timedelta(seconds=5)
    assert before - seen.candidate.at < timedelta(seconds=5)


@needs_prometheus
async def test_its_observations_make_a_verdict(world: World):
    provider = PrometheusProvider("eu", world.url)
    start = await provider.observe(CANDIDATE, [BASELINE])
    for cohort in (world.cohorts[CANDIDATE], world.cohorts[BASELINE]):
        cohort.requests += 1000
    await world.scraped_anew()
    newest = await provider.observe(CANDIDATE, [BASELINE])
    assert verdict_of(start, newest).outcome == "pass"
    world.cohorts[CANDIDATE].errors += 400
    await world.scraped_anew()
    assert verdict_of(start, await provider.observe(CANDIDATE, [BASELINE])).outcome == "fail"


@needs_prometheus
async def test_an_idle_release_has_counted_nothing(world: World):
    seen = await PrometheusProvider("eu", world.url).observe(IDLE, [])
    assert seen.problem is None
    assert seen.candidate
    assert (seen.candidate.requests, seen.candidate.latency.counts) == (0, [0])


@needs_prometheus
async def test_a_release_it_has_never_seen(world: World):
    seen = await PrometheusProvider("eu", world.url).observe(ABSENT, [BASELINE])
    assert "0 results instead of one" in str(seen.problem)
    errors_never_pass(seen)


@needs_prometheus
async def test_targets_that_stop_answering(world: World):
    world.down = True
    await world.scraped("absent(process_resident_memory_bytes)")
    await world.scraped("absent(envoy_server_uptime)")
    seen = await PrometheusProvider("eu", world.url).observe(CANDIDATE, [BASELINE])
    errors_never_pass(seen)


@needs_prometheus
async def test_a_value_that_is_not_a_number(world: World):
    world.cohorts[CANDIDATE].memory = "NaN"
    await world.scraped_anew()
    seen = await PrometheusProvider("eu", world.url).observe(CANDIDATE, [])
    assert "the value is nan" in str(seen.problem)
    errors_never_pass(seen)


@needs_prometheus
async def test_points_that_are_old_though_they_are_there(world: World):
    old = time.time() - 60
    for cohort in world.cohorts.values():
        cohort.suffix = f" {int(old * 1000)}"
    world.cohorts[ABSENT] = world.cohorts.pop(CANDIDATE)  # names that have no newer points yet
    world.cohorts[CANDIDATE] = Cohort()
    cluster = f'envoy_cluster_name="release-{short(ABSENT)}"'
    await world.scraped(f"envoy_cluster_upstream_rq_completed{{{cluster}}}")
    queries = PrometheusQueries(memory_bytes="vector(1)", sources=("vector(1)",))
    provider = PrometheusProvider("eu", world.url, queries=queries)
    seen = await provider.observe(ABSENT, [])
    assert seen.problem is None
    assert seen.candidate
    assert (seen.at - seen.candidate.at).total_seconds() > 55
    start = seen.model_copy(
        update={
            "candidate": seen.candidate.model_copy(
                update={"at": seen.candidate.at - timedelta(seconds=60)}
            )
        }
    )
    verdict = verdict_of(start, seen)
    assert verdict.outcome == "error"
    assert "30 s are allowed" in verdict.why


@needs_prometheus
async def test_restarts_change_the_source(world: World):
    provider = PrometheusProvider("eu", world.url)
    sources = []
    for change in (
        lambda: None,
        lambda: setattr(world.cohorts[CANDIDATE], "started", 1.8e9),
        lambda: setattr(world, "uptime", world.uptime - 50),
    ):
        change()
        await world.scraped_anew()
        seen = await provider.observe(CANDIDATE, [])
        assert seen.candidate
        sources.append(seen.candidate.source)
    assert len(set(sources)) == 3


@needs_prometheus
@pytest.mark.parametrize(
    ("queries", "problem"),
    [
        (PrometheusQueries(memory_bytes="process_resident_memory_bytes"), "3 results"),
        (PrometheusQueries(requests="sum(nothing)"), "0 results"),
        (PrometheusQueries(requests="sum("), "status 400"),
        (PrometheusQueries(requests="1"), "no vector"),
        (PrometheusQueries(requests="vector(0.5)"), "not a count"),
        (PrometheusQueries(errors="vector(1) / 0"), "value is inf"),
        (PrometheusQueries(latency="envoy_cluster_upstream_rq_time_bucket"), "several results"),
    ],
)
async def test_queries_that_do_not_yield_one_number(
    world: World, queries: PrometheusQueries, problem: str
):
    seen = await PrometheusProvider("eu", world.url, queries=queries).observe(CANDIDATE, [])
    assert problem in str(seen.problem)
    errors_never_pass(seen)


# --- what the real one cannot be made to do ---


@pytest.mark.parametrize(
    ("status", "body", "wait", "problem"),
    [
        (500, b"{}", 0.0, "status 500"),
        (200, b"", 0.0, "not Prometheus's answer"),
        (200, b"[]", 0.0, "not Prometheus's answer"),
        (200, b'{"status":"success"}', 0.0, "not Prometheus's answer"),
        (200, b'{"status":"error","error":"out of memory"}', 0.0, "out of memory"),
        (200, b'{"status":"success","warnings":["half"],"data":{}}', 0.0, "warnings: half"),
        (
            200,
            b'{"status":"success","data":{"resultType":"vector","result":[{}]}}',
            0.0,
            "not a value",
        ),
        (200, b"{}", 1.0, "no answer within 0.2 s"),
    ],
)
async def test_a_prometheus_that_does_not_answer_as_it_should(
    status: int, body: bytes, wait: float, problem: str
):
    with serving(lambda path: (status, body, wait)) as port:
        deadline = 0.2 if wait else 5.0
        provider = PrometheusProvider("eu", f"http://127.0.0.1:{port}/", deadline=deadline)
        seen = await provider.observe(CANDIDATE, [])
    assert problem in str(seen.problem)
    errors_never_pass(seen)


async def test_a_prometheus_that_is_down():
    seen = await PrometheusProvider("eu", f"http://127.0.0.1:{free_port()}").observe(CANDIDATE, [])
    errors_never_pass(seen)


async def test_what_is_known_of_processes_decides_who_serves_and_counts_restarts():
    asked = []

    def answer(path: str) -> tuple[int, bytes, float]:
        query = parse_qs(urlsplit(path).query)
        asked.append(query["query"][0])
        result = [{"metric": {"le": "+Inf"}, "value": [1, "7"]}]
        data = {"resultType": "vector", "result": result}
        return 200, json.dumps({"status": "success", "data": data}).encode(), 0.0

    processes = {CANDIDATE: ProcessFacts(1, 2, "a"), BASELINE: ProcessFacts(2, 0, "b")}
    with serving(answer) as port:
        provider = PrometheusProvider("eu", f"http://127.0.0.1:{port}", processes=lambda: processes)
        seen = await provider.observe(CANDIDATE, [ABSENT, BASELINE])
    assert seen.problem is None
    assert seen.candidate and seen.baseline
    assert (seen.candidate.restarts, seen.baseline.release) == (2, BASELINE)
    assert not any(short(ABSENT) in promql for promql in asked)
    assert any(f'"release-{short(CANDIDATE)}"' in promql for promql in asked)
