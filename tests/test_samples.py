"""The sample services, as real processes started the way a release host starts them."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.host_system import PortBook
from workers.samples import SERVICES, assemble

BUSY = {"latency_ms": [0.1, 0.2]}


@contextmanager
def sample(
    directory: Path, service: str = "catalog", version: str = "1.0.0", **behaviour
) -> Iterator["Running"]:
    directory.mkdir(exist_ok=True)
    assemble(directory, service, version, behaviour)
    command = json.loads((directory / "release.json").read_text())["entrypoint"]
    port = PortBook().pick()
    environment = {"PORT": str(port), "PATH": os.environ["PATH"]}
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield Running(process, port)
    finally:
        process.kill()
        process.communicate()


class Running:
    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.port = port

    def connect(self) -> http.client.HTTPConnection:
        until = time.monotonic() + 15
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                connection.connect()
                return connection
            except ConnectionRefusedError:
                assert self.process.poll() is None, self.process.communicate()
                assert time.monotonic() < until
                time.sleep(0.02)

    def get(self, path: str = "/", count: int = 1) -> list[tuple[int, dict, dict]]:
        """``count`` requests over one connection: status, headers and JSON body of each."""
        connection = self.connect()
        answers = []
        for _ in range(count):
            connection.request("GET", path)
            answer = connection.getresponse()
            answers.append((answer.status, dict(answer.getheaders()), json.loads(answer.read())))
        connection.close()
        return answers

    def metrics(self) -> dict[str, float]:
        connection = self.connect()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return {
            name: float(value)
            for name, value in re.findall(r"^([^#\s]+) (\S+)$", text, flags=re.MULTILINE)
        }


@pytest.mark.parametrize("service", SERVICES)
def test_answers_with_its_version_in_body_and_header(tmp_path, service):
    with sample(tmp_path, service, "7.8.9") as running:
        ((status, headers, body),) = running.get("/products/12")
        assert status == 200
        assert (body["service"], body["version"]) == (service, "7.8.9")
        assert headers["x-release-version"] == "7.8.9"
        assert running.get("/healthz")[0][0] == 200


def test_keeps_connections_open_and_survives_hundreds_of_requests_on_each(tmp_path):
    with sample(tmp_path, **BUSY) as running:
        running.connect().close()
        counts: list[int] = []

        def work() -> None:
            counts.append(sum(status == 200 for status, _, _ in running.get("/a", count=150)))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == [150] * 8


def test_metrics_count_what_was_answered(tmp_path):
    with sample(tmp_path) as running:
        running.get("/x", count=20)
        metrics = running.metrics()
    assert metrics['http_requests_total{code="200"}'] == 20
    assert metrics["http_request_duration_seconds_count"] == 20
    assert metrics['http_request_duration_seconds_bucket{le="+Inf"}'] == 20
    assert metrics['http_request_duration_seconds_bucket{le="0.001"}'] == 0
    buckets = [value for name, value in metrics.items() if "_bucket" in name]
    assert buckets == sorted(buckets)
    assert 5e6 < metrics["process_resident_memory_bytes"] < 60e6
    assert abs(metrics["process_start_time_seconds"] - time.time()) < 60


def test_the_error_variant_answers_some_with_500(tmp_path):
    with sample(tmp_path, error_share=0.5, **BUSY) as running:
        statuses = [status for status, _, _ in running.get(count=200)]
        metrics = running.metrics()
    assert 50 < statuses.count(500) < 150
    assert metrics['http_requests_total{code="500"}'] == statuses.count(500)


def test_the_slow_variant_has_a_slow_tail(tmp_path):
    with sample(tmp_path, latency_ms=[2, 2], slow_share=0.3, slow_factor=20) as running:
        running.get(count=100)
        metrics = running.metrics()
    slow = 100 - metrics['http_request_duration_seconds_bucket{le="0.03"}']
    assert 10 <= slow <= 70


def test_the_leaking_variant_keeps_memory(tmp_path):
    with sample(tmp_path, leak_kb=200, **BUSY) as running:
        running.get(count=10)
        before = running.metrics()["process_resident_memory_bytes"]
        running.get(count=100)
        after = running.metrics()["process_resident_memory_bytes"]
    assert after - before > 15e6


def test_the_late_variant_is_good_at_first(tmp_path):
    with sample(tmp_path, error_share=1.0, after_s=1.5, **BUSY) as running:
        running.connect().close()
        begun = time.monotonic()
        (first,) = running.get()
        if time.monotonic() - begun < 1:  # else this machine is too busy to tell
            assert first[0] == 200
        time.sleep(1.6)
        assert running.get()[0][0] == 500


def test_the_crashing_variant_says_why_and_exits(tmp_path):
    with sample(tmp_path, crash_at_start=True) as running:
        _, errors = running.process.communicate(timeout=15)
        assert running.process.returncode == 1
        assert b"cannot open the price list" in errors


def test_the_never_healthy_variant_answers_503_to_health_only(tmp_path):
    with sample(tmp_path, healthy=False) as running:
        assert running.get("/healthz")[0][0] == 503
        assert running.get("/")[0][0] == 200


def test_sigterm_finishes_the_request_in_flight_then_exits(tmp_path):
    with sample(tmp_path, latency_ms=[700, 700]) as running:
        idle = running.connect()
        busy = running.connect()
        busy.request("GET", "/")
        time.sleep(0.2)
        running.process.send_signal(signal.SIGTERM)
        answer = busy.getresponse()
        assert (answer.status, answer.getheader("connection")) == (200, "close")
        assert json.loads(answer.read())["version"] == "1.0.0"
        assert running.process.wait(10) == 0
        idle.close()
        with pytest.raises(ConnectionRefusedError):
            http.client.HTTPConnection("127.0.0.1", running.port).connect()


@pytest.mark.parametrize("chunked", [False, True])
def test_request_bodies_are_read_away(tmp_path, chunked):
    body = [b"x" * 5000, b"y" * 70000] if chunked else b"z" * 75000
    with sample(tmp_path) as running:
        connection = running.connect()
        for _ in range(3):
            connection.request("POST", "/", body=body, encode_chunked=chunked)
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / SPDY/3\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_malformed_requests_get_400_and_harm_nobody(tmp_path, request_bytes):
    with sample(tmp_path) as running:
        running.connect().close()
        with socket.create_connection(("127.0.0.1", running.port), timeout=5) as raw:
            raw.sendall(request_bytes)
            assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
        assert running.get()[0][0] == 200
