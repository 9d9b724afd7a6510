"""A real stack for tests: two regions, ten shards, its own home and ports, gone with the test."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from temporalio.client import Client, WorkflowHandle

from models.rollout import FINAL_STATES, RolloutRequest, RolloutResult, RolloutStatus
from workers.children import die_with_parent
from workers.process import connect

ROOT = Path(__file__).parent.parent
REGIONS = ("eu", "us-east")

CONFIG = """
[tenants]
total_tenants = 400
shards = 20

[rollout]
canary_percentage = 2
rollout_rings = [5, 25, 100]
max_blast_radius_percent = 5
max_concurrent_shards = 4
region_down_after_seconds = 3

[gates]
bake_seconds = 6
looks = 3
min_samples = 100
hold_seconds = 60

[failover]
automatic_failover_enabled = false

[regions.eu]
name = "Europe"
compliance = ["GDPR"]
catalog_shard = 1
receipt_partition = 1

[regions.us-east]
name = "US East"
catalog_shard = 2
receipt_partition = 2
"""


@dataclass
class Stack:
    """A running stack and ways to look at it and to hurt it."""

    home: Path
    process: "subprocess.Popen[bytes]"

    def chainring(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command against this stack."""
        return subprocess.run(
            [sys.executable, "-c", "from workers.cli import main; main()", *arguments],
            env=environment(self.home),
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
        )

    def build_samples(self, *versions: str) -> None:
        """Build and attest versions of the sample service catalog."""
        self.chainring("releases", "build-samples", *(f"catalog:{each}" for each in versions))

    def json(self, *arguments: str) -> Any:
        """A reading command's JSON."""
        return json.loads(self.chainring(*arguments, "--json").stdout)

    def addresses(self, name: str) -> dict[str, Any]:
        """The addresses file of "control" or of a region."""
        folder = "control" if name == "control" else f"regions/{name}"
        found: dict[str, Any] = json.loads((self.home / folder / "addresses.json").read_text())
        return found

    def pid(self, name: str) -> int:
        """Process id of one of the stack's processes."""
        state = json.loads((self.home / "stack" / "state.json").read_text())
        return next(each["pid"] for each in state["processes"] if each["name"] == name)

    def kill(self, name: str) -> None:
        """kill -9 one of the stack's own processes."""
        os.kill(self.pid(name), signal.SIGKILL)

    def freeze(self, name: str) -> None:
        """SIGSTOP one of the stack's own processes, and wait until all of its threads stand."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGSTOP)
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        while not all(_stands(task) for task in tasks):
            time.sleep(0.001)

    def thaw(self, name: str) -> None:
        os.kill(self.pid(name), signal.SIGCONT)

    def wait_ready(self, seconds: float = 30) -> None:
        """Until every process is ready again."""
        deadline = time.monotonic() + seconds
        while self.chainring("status", check=False).returncode:
            assert time.monotonic() < deadline, "the stack does not come back"
            time.sleep(0.2)

    async def client(self, namespace: str = "control") -> Client:
        """A Temporal client of the control plane or of a region."""
        from models.addresses import TemporalAddress

        return await connect(TemporalAddress(**self.addresses(namespace)["temporal"]))


def _stands(task: Path) -> bool:
    """Whether a thread is stopped (proc_pid_stat(5): its state follows the name), or gone."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return True


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"CHAINRING_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


@contextlib.contextmanager
def running_stack(home: Path, config: str = CONFIG, *options: str) -> Iterator[Stack]:
    """Start a stack in ``home`` and end it, with everything it started, on the way out.

    ``options`` go to ``chainring up``.
    """
    home.mkdir(parents=True, exist_ok=True)
    (home / "given.toml").write_text(config)
    log = (home / "up.log").open("wb")
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from workers.cli import main; main()", "up"),
            *("--foreground", "--temporal-port", "0", "--config", str(home / "given.toml")),
            *options,
        ],
        env=environment(home),
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=die_with_parent,
    )
    stack = Stack(home, process)
    try:
        _await_ready(stack)
        yield stack
    finally:
        log.close()
        _end(process)


def _await_ready(stack: Stack) -> None:
    deadline = time.monotonic() + 90  # longer than `up` waits, which then says for what
    while True:
        output = (stack.home / "up.log").read_text()
        assert stack.process.poll() is None, output
        if "in all" in output:
            return
        assert time.monotonic() < deadline, output
        time.sleep(0.1)


def _end(process: "subprocess.Popen[bytes]") -> None:
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, f"left running: {alive}"


async def start(client: Client, rollout: str, **fields: Any) -> WorkflowHandle[Any, Any]:
    """Start a rollout as the CLI does."""
    return await client.start_workflow(
        "FleetRollout",
        RolloutRequest(**fields),
        id=rollout,
        task_queue="control",
        result_type=RolloutResult,
    )


async def status_of(handle: WorkflowHandle[Any, Any]) -> RolloutStatus:
    found: RolloutStatus = await handle.query("status", result_type=RolloutStatus)
    return found


async def until(
    handle: WorkflowHandle[Any, Any], *states: str, seconds: float = 60
) -> RolloutStatus:
    """Wait until a rollout is in one of the states."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(Exception):
            status = await asyncio.wait_for(status_of(handle), 5)
            if status.state in states:
                return status
            final = status.state in FINAL_STATES and status.ended is not None
            assert not final, f"ended {status.state}: {status.why}"
        assert time.monotonic() < deadline, f"not {states} in {seconds} s"
        await asyncio.sleep(0.1)
