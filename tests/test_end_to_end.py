"""The main job on a real stack under real load: good releases arrive, bad ones are sent back."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from embedded import ROOT, Stack, running_stack, start, until

from models.rollout import RolloutState
from workers.children import die_with_parent

pytestmark = pytest.mark.timing

BAD = ("slow-tail", "errors", "leak", "crash", "never-healthy")
# One canary shard gets some 35 requests a second: in 6 s there may be too few errors among them.
ERRING = {"gates.bake_seconds": 15}
LEAKY = {"gates.memory_growth_mb": 2, "gates.looks": 6, "gates.bake_seconds": 9}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A fleet that runs catalog 1.0.0."""
    home = tmp_path_factory.mktemp("fleet") / "home"
    with running_stack(home) as running:
        running.chainring("fleet", "seed", "--tenants", "400", "--shards", "20")
        running.build_samples("1.0.0", "1.1.0", "1.2.0", *(f"1.3.0-{how}" for how in BAD))
        running.chainring("rollout", "start", "catalog:1.0.0", "--skip-gates", "installation")
        yield running


def digest(stack: Stack, version: str) -> str:
    found = [
        each["digest"]
        for each in stack.json("releases", "list")
        if (each["name"], each["version"]) == ("catalog", version)
    ]
    return str(found[0])


@contextmanager
def load(stack: Stack, record: Path, rate: int = 700) -> Iterator[None]:
    """Constant load, the same on every shard; fails the test if the generator dies."""
    command = [sys.executable, str(ROOT / "scripts" / "load.py"), "--home", str(stack.home)]
    command += ["--rate", str(rate), "--seconds", "600", "--out", str(record), "--per-shard-even"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent
    )
    try:
        yield
        assert process.poll() is None, "the load generator ended early"
    finally:
        process.terminate()
        process.wait()


def check(stack: Stack, record: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "check_load.py"), str(record)]
    return subprocess.run(
        [*command, "--home", str(stack.home)], capture_output=True, text=True, check=False
    )


def releases_of(stack: Stack) -> set[str | None]:
    """What the shards of all regions run, by the stores."""
    return {
        shard["release"]
        for region in stack.json("fleet", "show", "--shards")
        for shard in region["shards"]
    }


async def test_a_good_release_arrives_everywhere_without_a_failed_request(
    stack: Stack, tmp_path: Path
) -> None:
    client, record = await stack.client(), tmp_path / "load.csv"
    with load(stack, record):
        handle = await start(client, "rollout/good/1", release=digest(stack, "1.1.0"))
        status = await until(handle, RolloutState.COMPLETED, seconds=90)
    assert {ring.outcome for ring in status.rings} <= {"pass", "covered"}
    assert releases_of(stack) == {digest(stack, "1.1.0")}
    checked = check(stack, record)
    assert checked.returncode == 0, checked.stdout
    assert stack.chainring("receipts", "verify").returncode == 0


async def test_a_slow_tail_is_caught_by_the_canary_and_sent_back(
    stack: Stack, tmp_path: Path
) -> None:
    before = releases_of(stack)
    client, record = await stack.client(), tmp_path / "load.csv"
    bad = digest(stack, "1.3.0-slow-tail")
    with load(stack, record):
        handle = await start(client, "rollout/slow/1", release=bad)
        status = await until(handle, RolloutState.ROLLED_BACK, seconds=90)
    assert "p99" in status.why or "p90" in status.why
    assert status.rings[0].outcome == "fail"
    assert all(ring.activated == 0 for ring in status.rings[1:])
    assert releases_of(stack) == before
    checked = check(stack, record)
    assert checked.returncode == 0, checked.stdout
    replay = stack.chainring("verdict", "replay", "--rollout", "rollout/slow/1")
    assert "match" in replay.stdout


@pytest.mark.parametrize(
    ("version", "overrides"),
    [("1.3.0-errors", ERRING), ("1.3.0-leak", LEAKY)],
    ids=["errors", "leak"],
)
async def test_errors_and_leaks_are_caught(
    stack: Stack, tmp_path: Path, version: str, overrides: dict[str, float]
) -> None:
    before = releases_of(stack)
    client = await stack.client()
    with load(stack, tmp_path / "load.csv"):
        handle = await start(
            client, f"rollout/{version}/1", release=digest(stack, version), overrides=overrides
        )
        status = await until(handle, RolloutState.ROLLED_BACK, seconds=90)
    assert status.rings[0].outcome == "fail"
    assert releases_of(stack) == before


@pytest.mark.parametrize("version", ["1.3.0-crash", "1.3.0-never-healthy"])
async def test_a_release_that_does_not_start_never_gets_a_request(
    stack: Stack, version: str
) -> None:
    before = releases_of(stack)
    client = await stack.client()
    handle = await start(client, f"rollout/{version}/1", release=digest(stack, version))
    status = await until(handle, RolloutState.REFUSED, seconds=90)
    assert "does not become healthy" in status.why
    assert not any(ring.activated for ring in status.rings)
    assert releases_of(stack) == before


async def test_what_failed_once_is_refused_at_the_door(stack: Stack) -> None:
    ended = stack.chainring("rollout", "start", "catalog:1.3.0-slow-tail", check=False)
    assert ended.returncode == 2
    assert "failed before" in ended.stderr


async def test_the_operator_can_start_it_with_temporal_alone(stack: Stack) -> None:
    temporal = Path(sys.executable).parent / "temporal"
    address = stack.addresses("control")["temporal"]["address"]
    request = {"release": digest(stack, "1.2.0"), "skip_gates": "quick test of the command"}
    command = [str(temporal), "workflow", "start", "--address", address, "--type", "FleetRollout"]
    command += ["--task-queue", "control", "--workflow-id", "rollout/by-hand/1"]
    subprocess.run([*command, "--input", json.dumps(request)], check=True, timeout=30)
    handle = (await stack.client()).get_workflow_handle("rollout/by-hand/1")
    await until(handle, RolloutState.COMPLETED, seconds=60)
    assert releases_of(stack) == {digest(stack, "1.2.0")}


async def test_bad_input_fails_at_once_and_names_the_field(stack: Stack) -> None:
    temporal = Path(sys.executable).parent / "temporal"
    address = stack.addresses("control")["temporal"]["address"]
    command = [str(temporal), "workflow", "execute", "--address", address]
    command += ["--type", "FleetRollout", "--task-queue", "control"]
    command += ["--workflow-id", "rollout/wrong/1", "--input", '{"release":"latest"}']
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode != 0
    assert "release" in ended.stdout + ended.stderr
