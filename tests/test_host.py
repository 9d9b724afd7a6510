"""The release host, as a real process that runs real releases."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from release_harness import Stack, running

from models.supervision import Life, RestartPolicy, next_step
from stores.unpack import release_directory
from workers.host_system import HOST_VARIABLE, last_line, limit_log


def get(port: int, path: str = "/") -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return json.loads(answer.read())


def ended(pid: int) -> bool:
    """Also when nobody has collected its exit status yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    yield from running(Stack(tmp_path))


def test_runs_what_is_wanted_and_stops_what_is_not(stack):
    release = stack.put("1.0.0")
    row = stack.run(release)
    assert get(row.port)["version"] == "1.0.0"
    assert row.restarts == 0 and row.proven and row.source and row.pid
    stack.stores["eu"].unwant(release)
    row = stack.wait(release, lambda row: row.state == "stopped")
    assert row.pid is None
    stack.gone()
    unpacked = release_directory(stack.workdir(), release)
    for _ in range(100):
        if not unpacked.exists():
            break
        time.sleep(0.05)
    assert not unpacked.exists()
    assert get(stack.run(release).port)["version"] == "1.0.0"


def test_restarts_a_killed_process_on_the_same_port_with_a_new_source(stack):
    release = stack.put()
    before = stack.run(release)
    os.kill(before.pid, signal.SIGKILL)
    after = stack.wait(release, lambda row: row.restarts == 1 and row.state == "healthy")
    assert after.port == before.port
    assert after.source != before.source
    assert after.pid != before.pid
    assert get(after.port)["version"] == "1.0.0"


def test_a_proven_release_is_never_given_up(stack):
    release = stack.put()
    stack.run(release)
    for restart in range(1, 5):
        row = stack.healthy(release)
        os.kill(row.pid, signal.SIGKILL)
        row = stack.wait(release, lambda row, n=restart: row.restarts == n)
    assert stack.healthy(release).restarts == 4


def test_a_crash_at_start_fails_with_the_programs_last_words(stack):
    release = stack.put(crash_at_start=True)
    stack.stores["eu"].want(release)
    row = stack.wait(release, lambda row: row.state == "failed")
    assert row.restarts == RestartPolicy().start_crashes - 1
    assert "exited with code 1: catalog 1.0.0: cannot open the price list" in row.detail
    assert not row.proven
    stack.gone()


def test_a_program_that_is_not_there_fails_with_its_name(stack):
    release = stack.put_program("", entrypoint=["no-such-program"])
    stack.stores["eu"].want(release)
    row = stack.wait(release, lambda row: row.state == "failed")
    assert "cannot start no-such-program" in row.detail


def test_never_healthy_fails_at_its_deadline(stack):
    release = stack.put(healthy=False, health={"deadline_ms": 600})
    stack.stores["eu"].want(release)
    row = stack.wait(release, lambda row: row.state == "failed")
    assert row.detail == "not healthy within 0.6 s: /healthz answered 503"
    stack.gone()


def test_a_release_with_a_damaged_blob_is_not_started(stack):
    release = stack.put()
    layer = stack.layout.manifest(release).layers[0].digest
    path = stack.home / "releases/blobs/sha256" / layer.removeprefix("sha256:")
    path.write_bytes(path.read_bytes().replace(b"HTTP", b"HTCP"))
    stack.stores["eu"].want(release)
    assert layer in stack.wait(release, lambda row: row.state == "failed").detail


def test_a_failed_release_is_tried_again_when_wanted_again(stack):
    release = stack.put(crash_at_start=True)
    stack.stores["eu"].want(release)
    first = stack.wait(release, lambda row: row.state == "failed")
    stack.stores["eu"].want(release)
    second = stack.wait(release, lambda row: row.attempt == 2 and row.state == "failed")
    assert (first.attempt, second.attempt) == (1, 2)


def test_a_hung_process_is_restarted(stack):
    health = {"interval_ms": 50, "timeout_ms": 200, "unhealthy_after": 2, "restart_after": 4}
    release = stack.put(health=health)
    row = stack.run(release)
    os.kill(row.pid, signal.SIGSTOP)
    stack.wait(release, lambda row: row.state == "unhealthy" and "did not answer" in row.detail)
    os.kill(row.pid, signal.SIGCONT)
    # Stopped for good: SIGTERM does not reach it either, so this also waits for the grace to pass.
    row = stack.healthy(release)
    os.kill(row.pid, signal.SIGSTOP)
    stack.wait(release, lambda now: now.restarts > row.restarts and now.state == "healthy")


def test_sigterm_stops_everything_and_the_next_host_starts_it_again(stack):
    release = stack.put()
    before = stack.run(release)
    assert stack.stop(signal.SIGTERM) == 0
    assert stack.release_processes() == []
    stored = stack.stores["eu"].get(release)
    assert (stored.desired, stored.state, stored.pid) == ("running", "stopped", None)
    stack.start()
    after = stack.healthy(release)
    assert (after.port, after.restarts) == (before.port, 1)
    assert after.source != before.source


def test_kill_9_of_the_host_leaves_no_release_process(stack):
    release = stack.put()
    before = stack.run(release)
    stack.stop(signal.SIGKILL)
    stack.gone()
    stack.start()
    after = stack.wait(release, lambda row: row.source != before.source and row.state == "healthy")
    assert after.port == before.port
    assert get(after.port)["version"] == "1.0.0"


FORKING = """
import http.server, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"],
                         start_new_session={detached})
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def test_what_a_release_forked_ends_with_it(stack):
    release = stack.put_program(FORKING.format(detached=False))
    stack.run(release)
    assert len(stack.release_processes()) == 2
    stack.stores["eu"].unwant(release)
    stack.wait(release, lambda row: row.state == "stopped")
    stack.gone()


def test_the_next_host_kills_what_an_earlier_one_left_and_nothing_else(stack):
    release = stack.put_program(FORKING.format(detached=True))
    stack.run(release)
    stack.stop(signal.SIGKILL)
    time.sleep(0.3)
    (left,) = stack.release_processes()
    stranger_environment = {**os.environ, HOST_VARIABLE: "another host"}
    with subprocess.Popen(["sleep", "60"], env=stranger_environment) as stranger:
        stack.stores["eu"].unwant(release)
        stack.start()
        stack.gone()
        assert ended(left)
        assert stranger.poll() is None
        stranger.kill()


PRINTING = """
import json, os, sys
print(json.dumps(dict(os.environ)), flush=True)
sys.exit(3)
"""


def test_a_release_sees_a_scrubbed_environment(stack):
    release = stack.put_program(PRINTING, env={"MODE": "fast"})
    stack.stores["eu"].want(release)
    stack.wait(release, lambda row: row.state == "failed")
    (log,) = (stack.workdir() / "logs").iterdir()
    seen = json.loads(log.read_text().splitlines()[0])
    assert seen["MODE"] == "fast" and seen["PORT"] and seen["CHAINRING_REGION"] == "eu"
    assert seen["CHAINRING_RELEASE"] == release
    assert not {"SECRET_TOKEN", "CHAINRING_HOME", "USER"} & set(seen)


def test_a_second_host_for_the_region_is_refused(stack):
    release = stack.put()
    stack.run(release)  # so the first host has its lock
    second = stack.spawn(stderr=subprocess.PIPE)
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 1
    assert b"region eu has a release host already" in errors
    assert stack.healthy(release).restarts == 0


def test_regions_run_side_by_side_with_ports_of_their_own(tmp_path):
    for stack in running(Stack(tmp_path, ("eu", "us-east"))):
        release = stack.put()
        rows = [stack.run(release, region) for region in stack.regions]
        assert len({row.port for row in rows}) == len({row.pid for row in rows}) == 2
        stack.stores["eu"].unwant(release)
        stack.wait(release, lambda row: row.state == "stopped", "eu")
        assert get(rows[1].port)["version"] == "1.0.0"


def test_a_report_about_an_earlier_attempt_is_dropped(tmp_path):
    store = Stack(tmp_path).stores["eu"]
    release = "sha256:" + "a" * 64
    assert store.want(release).attempt == 1
    assert store.want(release).attempt == 1
    assert store.report(release, 1, state="failed", detail="old")
    assert store.want(release).attempt == 2
    assert not store.report(release, 1, state="healthy")
    assert store.get(release).state == "starting"
    store.unwant("sha256:" + "b" * 64)  # never wanted: nothing happens
    assert [row.release for row in store.live()] == [release]


POLICY = RestartPolicy(first_delay=1, max_delay=10, reset_after=60, start_crashes=3)
CRASH = Life("crash", healthy_seconds=0, ended_itself=True)


def test_backoff_doubles_to_its_maximum_and_resets_after_health():
    delays, failures = [], 0
    for _ in range(6):
        step = next_step(POLICY, failures=failures, proven=True, life=CRASH)
        delays.append(step.delay)
        failures = step.failures
    assert delays == [1, 2, 4, 8, 10, 10]
    well = Life("crash", healthy_seconds=60, ended_itself=True)
    assert next_step(POLICY, failures=failures, proven=True, life=well).delay == 1


def test_an_unproven_release_is_given_up_but_a_proven_one_is_not():
    assert next_step(POLICY, failures=1, proven=False, life=CRASH).delay == 2
    assert next_step(POLICY, failures=2, proven=False, life=CRASH).delay is None
    silent = Life("never healthy", healthy_seconds=0, ended_itself=False)
    assert next_step(POLICY, failures=0, proven=False, life=silent).delay is None
    assert next_step(POLICY, failures=10_000, proven=True, life=silent).delay == 10


def test_a_log_past_its_limit_is_cut_while_its_writer_goes_on(tmp_path):
    path = tmp_path / "a.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        limit_log(path, limit=50)
        writer.write(b"first\n\nlast words\n\n")
    assert path.read_bytes() == b"first\n\nlast words\n\n"
    assert (tmp_path / "a.log.1").read_bytes() == b"x" * 100
    assert last_line(path, 0) == "last words"
    assert last_line(path, path.stat().st_size) == ""
    assert last_line(tmp_path / "none", 0) == ""
