"""The embedded stack as its operator meets it: up, status, up again, restart, port in use, down."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from embedded import CONFIG, REGIONS, Stack, environment, running_stack

from gateway.envoy import tenant_host

WATCHED = (
    CONFIG.replace("automatic_failover_enabled = false", "")
    + """
[failure_detection]
heartbeat_interval_seconds = 1
heartbeat_timeout_seconds = 12
"""
)
UP = "from workers.cli import main; main()"
QUICK_TO_NOTICE = """
[failure_detection]
heartbeat_interval_seconds = 2
heartbeat_timeout_seconds = 8
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack") / "home"
    with running_stack(home, WATCHED) as running:
        running.chainring("fleet", "seed", "--tenants", "400", "--shards", "20")
        yield running


def ask(stack: Stack, region: str, tenant: str, path: str = "/") -> httpx.Response:
    port = stack.addresses(region)["gateway"]["port"]
    return httpx.get(
        f"http://127.0.0.1:{port}{path}", headers={"Host": tenant_host(tenant, region)}, timeout=5
    )


def test_status_says_what_runs_and_where(stack: Stack) -> None:
    report = stack.json("status")
    names = {process["name"] for process in report["processes"]}
    assert {"temporal", "control", "host", "gateway"} <= names
    assert {f"{kind}-{region}" for kind in ("envoy", "region") for region in REGIONS} <= names
    assert report["phase"] == "ready"
    assert all(process["ready"] for process in report["processes"])
    assert httpx.get(report["ui"], follow_redirects=True, timeout=10).status_code == 200


def test_a_second_up_says_so_and_changes_nothing(stack: Stack) -> None:
    before = stack.json("status")["processes"]
    again = stack.chainring("up")
    assert "runs already" in again.stdout
    pids = [process["pid"] for process in stack.json("status")["processes"]]
    assert pids == [process["pid"] for process in before]


def test_temporal_knows_namespaces_search_attributes_and_endpoints(stack: Stack) -> None:
    temporal = Path(sys.executable).parent / "temporal"
    address = stack.addresses("control")["temporal"]["address"]

    def ask_temporal(*words: str) -> str:
        command = [str(temporal), *words, "--address", address]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=30
        ).stdout

    namespaces = ask_temporal("operator", "namespace", "list")
    assert all(region in namespaces for region in REGIONS)
    assert "ChainringState" in ask_temporal("operator", "search-attribute", "list")
    endpoints = ask_temporal("operator", "nexus", "endpoint", "list")
    assert all(f"region-{region}" in endpoints for region in REGIONS)


def test_worker_builds_are_current_for_new_work(stack: Stack) -> None:
    temporal = Path(sys.executable).parent / "temporal"
    address = stack.addresses("control")["temporal"]["address"]
    command = [str(temporal), "worker", "deployment", "describe", "--address", address]
    command += ["--name", "chainring-control", "-o", "json"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    assert found["routingConfig"]["currentVersionBuildID"]


def test_workers_have_health_and_metrics_ports(stack: Stack) -> None:
    for name in ("control", *REGIONS):
        worker = stack.addresses(name)["worker"]
        health = httpx.get(f"http://127.0.0.1:{worker['health_port']}/healthz", timeout=5)
        assert health.json() == {"ready": True}
        metrics = httpx.get(f"http://127.0.0.1:{worker['metrics_port']}/metrics", timeout=5)
        assert "temporal_" in metrics.text


def test_a_region_holds_no_other_region_s_addresses(stack: Stack) -> None:
    for region in REGIONS:
        text = json.dumps(stack.addresses(region))
        assert not any(f"regions/{other}" in text for other in REGIONS if other != region)
        assert "control.db" not in text


def test_tenants_are_routed_suspended_and_unknown(stack: Stack) -> None:
    tenant = stack.json("tenants", "list", "--region", "eu")["tenants"][0]["id"]
    assert ask(stack, "eu", "nobody").status_code == 404
    assert ask(stack, "eu", tenant).status_code == 503  # routed, and no release runs yet
    stack.chainring("tenants", "suspend", tenant, "--region", "eu", "--actor", "ana")
    assert _soon(lambda: ask(stack, "eu", tenant).status_code == 403)
    assert ask(stack, "us-east", tenant).status_code == 404  # zone affinity: never elsewhere
    stack.chainring("tenants", "resume", tenant, "--region", "eu", "--actor", "ana")
    assert _soon(lambda: ask(stack, "eu", tenant).status_code == 503)


def test_state_is_kept_behind_the_gateway_by_tenant(stack: Stack) -> None:
    first, second = [
        item["id"] for item in stack.json("tenants", "list", "--region", "eu")["tenants"][:2]
    ]
    port = stack.addresses("eu")["gateway"]["port"]
    url = f"http://127.0.0.1:{port}/_kv/colour"
    put = httpx.put(url, content=b"blue", headers={"Host": tenant_host(first, "eu")}, timeout=5)
    assert put.status_code in (200, 201, 204)
    assert ask(stack, "eu", first, "/_kv/colour").content == b"blue"
    assert ask(stack, "eu", second, "/_kv/colour").status_code == 404


def test_a_lost_store_fails_over_and_nothing_acknowledged_is_missing(stack: Stack) -> None:
    """The region's database is deleted under writes, and nobody does anything about it."""
    tenant = stack.json("tenants", "list", "--region", "eu")["tenants"][0]["id"]
    url = f"http://127.0.0.1:{stack.addresses('eu')['gateway']['port']}/_kv"
    headers = {"Host": tenant_host(tenant, "eu")}
    acknowledged: dict[int, bool] = {}

    def put(number: int) -> None:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.put(
                f"{url}/k{number}", content=b"%d" % number, headers=headers, timeout=5
            )
            if answer.is_success:
                acknowledged[number] = "X-Chainring-Mode" in answer.headers

    for number in range(5):
        put(number)
    wanted = stack.json("tenants", "list", "--region", "eu")

    def backed_up() -> bool:
        found = stack.chainring("backup", "status", "eu", "--json", check=False)
        (store,) = json.loads(found.stdout)["stores"]
        return found.returncode == 0 and store["shipped_seq"] >= last_change(stack)

    assert _soon(backed_up, 30)
    for path in (stack.home / "regions" / "eu").glob("region.db*"):
        path.unlink()
    with ThreadPoolExecutor(1) as pool:
        over = pool.submit(failed_over, stack)
        number = 5
        while not over.done():
            put(number)
            number += 1
            time.sleep(0.01)  # each is read back below
        status = over.result()

    assert status["state"] == "normal" and status["restore"]["report"]["gap"] is None
    during = sum(acknowledged.values())
    assert status["drained"]["acknowledged"] >= during > 0 and status["drained"]["pending"] == 0
    assert _soon(lambda: ask(stack, "eu", tenant, "/_kv/k3").content == b"3", 30)
    for number in acknowledged:
        assert ask(stack, "eu", tenant, f"/_kv/k{number}").content == b"%d" % number
    told = ask(stack, "eu", tenant, "/_notices").json()["notices"]
    assert [each["kind"] for each in told] == ["degraded", "normal"]
    assert stack.json("tenants", "list", "--region", "eu") == wanted
    stack.wait_ready()
    port = stack.addresses("eu")["backup"]["metrics_port"]
    metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    assert 'chainring_failovers_total{outcome="normal",region="eu"} 1.0' in metrics
    assert stack.chainring("receipts", "verify", "eu").returncode == 0
    key = stack.home / "eu.vkey"
    key.write_text(stack.chainring("receipts", "key", "eu").stdout)
    source = status["restore"]["report"]["source_store"]
    head = stack.home / "witness" / f"eu-state-{source}.note"
    asked = ("certificate", "verify", status["restore"]["certificate"], "--key", str(key))
    stack.chainring(*asked, "--head", str(head))
    assert _soon(lambda: stack.chainring("backup", "status", "eu", check=False).returncode == 0, 30)
    by = ("--actor", "ana", "--reason", "after the outage")
    drilled = stack.json("recovery", "drill", "eu", *by, "--kind", "yearly")
    assert drilled["state"] == "proved" and drilled["result"]["compared"]["same"]
    assert stack.json("backup", "validate", "eu")["state"] == "sound"


def failed_over(stack: Stack) -> Any:
    """What the failover has reached that the watch began by itself; meanwhile, that it watches."""
    assert _soon(lambda: watched(stack)["failover"] and watched(stack)["verdict"] is None, 60)
    return stack.json("failover", "status", "eu", watched(stack)["failover"])


def watched(stack: Stack) -> Any:
    """What `chainring recovery status` says; its exit code says whether all is well."""
    return json.loads(stack.chainring("recovery", "status", "eu", "--json", check=False).stdout)


def last_change(stack: Stack) -> int:
    """The newest change in region eu's own changelog."""
    import sqlite3

    primary = json.loads((stack.home / "regions" / "eu" / "primary.json").read_text())
    database = sqlite3.connect(primary["database"].removeprefix("sqlite:///"))
    query = "SELECT seq FROM sqlite_sequence WHERE name = 'changelog'"
    (found,) = database.execute(query).fetchone()
    database.close()
    return int(found)


def test_a_killed_worker_comes_back(stack: Stack) -> None:
    pid = stack.pid("region-eu")
    stack.kill("region-eu")
    assert _soon(lambda: stack.pid("region-eu") not in (None, pid), 20)
    stack.wait_ready()


def test_a_killed_nursery_costs_no_process_and_is_replaced(stack: Stack) -> None:
    before = stack.json("status")["processes"]
    nursery = _nursery(stack)
    assert nursery is not None
    nursery.kill()
    assert _soon(lambda: _nursery(stack) not in (None, nursery), 20)
    assert [each["pid"] for each in stack.json("status")["processes"]] == [
        each["pid"] for each in before
    ]
    stack.kill("control")  # which starts whether the new one has its code already or not
    pid = stack.pid("region-us-east")
    stack.wait_ready()
    assert stack.pid("region-us-east") == pid


def _nursery(stack: Stack) -> psutil.Process | None:
    """The process that forks the others, if there is one just now."""
    state = json.loads((stack.home / "stack" / "state.json").read_text())
    for each in psutil.Process(state["pid"]).children():
        with contextlib.suppress(psutil.Error):
            if "nursery" in each.cmdline():
                return each
    return None


def test_an_unknown_setting_in_the_configuration_stops_up_at_once(tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text("[rollout]\ncanary_percentag = 2\n")
    ended = _up(tmp_path / "home", "--config", str(config), "--temporal-port", "0")
    assert ended.returncode == 2
    assert "rollout.canary_percentag" in ended.stderr


def test_a_port_in_use_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    config = tmp_path / "fleet.toml"
    config.write_text(CONFIG)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = _up(tmp_path / "home", "--config", str(config), "--temporal-port", str(port))
    assert ended.returncode == 2
    assert f"port {port}" in ended.stderr
    assert not (tmp_path / "home" / "stack" / "state.json").exists()


def test_status_of_a_stack_that_is_down_is_exit_code_3(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", UP, "status"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 3
    assert "chainring up" in ended.stderr


def test_down_ends_every_process_and_up_again_keeps_the_state(stack: Stack) -> None:
    """The last test here: the stack that the others had is down after it. It comes up detached."""
    supervisor = json.loads((stack.home / "stack" / "state.json").read_text())["pid"]
    family = psutil.Process(supervisor).children(recursive=True)
    port = stack.addresses("control")["temporal"]["address"]
    stack.chainring("down")
    assert not [process for process in family if process.is_running()]
    try:
        assert _up(stack.home).returncode == 0
        assert stack.addresses("control")["temporal"]["address"] == port
        shown = stack.json("fleet", "show")
        assert sum(region["tenants"] for region in shown) == 400
    finally:
        stack.chainring("down", check=False)


def _up(home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", UP, "up", *options],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def _soon(holds, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.1)
    return False
