"""The main job, for real: 10,000 tenants, a good rollout, a bad one stopped, a database lost."""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from demo_recovery import outage, tampered_backup
from rich.console import Console

from models.bundle import read_bundle
from models.rollout import FINAL_STATES, RolloutRequest, RolloutState, RolloutStatus
from models.statement import read_statement
from workers.children import die_with_parent
from workers.process import connect
from workers.release_store import open_releases
from workers.settings import known_regions, load_control
from workers.supervisor import answers

ROOT = Path(__file__).parent.parent
CHAINRING = Path(sys.executable).parent / "chainring"
OVERRIDES = {"gates.bake_seconds": 20, "gates.looks": 4, "gates.min_samples": 250}
FIRST, GOOD, BAD = "catalog:1.0.0", "catalog:1.1.0", "catalog:1.3.0-slow-tail"
VULNERABLE, TAMPERED = "catalog:1.4.0-vulnerable", "catalog:1.1.1-tampered"
BAD_ROLLOUT = f"rollout/{BAD.replace(':', '-')}/1"

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def main() -> int:
    """Run the demo; 0 when the good release is everywhere and the bad one nowhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--rate", type=int, default=900, help="requests a second of constant load")
    parser.add_argument("--keep", action="store_true", help="leave the stack running at the end")
    given = parser.parse_args()
    home = Path(os.environ.get("CHAINRING_HOME", ROOT / ".chainring" / "demo")).resolve()
    os.environ["CHAINRING_HOME"] = str(home)
    began = time.monotonic()
    with _stack(home):
        ok = _story(home, given)
        console.print(f"\n[bold]{time.monotonic() - began:.0f} s in all.[/bold]")
        _look_further(home)
        if given.keep or (sys.stdin.isatty() and sys.stdout.isatty()):
            console.print("\nThe stack runs on. Press Enter to stop it and end the demo.")
            with contextlib.suppress(EOFError, KeyboardInterrupt):
                input()
    return 0 if ok else 1


def _story(home: Path, given: argparse.Namespace) -> bool:
    _title("1. A fleet")
    _chainring("fleet", "seed", "--tenants", str(given.tenants), "--shards", str(given.shards))
    _title("2. Releases out of signed commits: built, tested, attested")
    _chainring("releases", "build-samples", FIRST, GOOD, BAD, VULNERABLE)
    _tamper(home)
    _chainring("verify", GOOD)
    _title(f"3. First installation: {FIRST}")
    first = asyncio.run(
        _roll_out(FIRST, skip_gates="first installation: no tenant has traffic yet")
    )
    record = home / "load.csv"
    with _load(home, given.rate, record):
        _title(f"4. A good release under load: {GOOD}")
        _chainring("rollout", "plan", GOOD)
        good = asyncio.run(_roll_out(GOOD))
        _title(f"5. A bad one: {BAD} (a tenth of its requests take ten times as long)")
        bad = asyncio.run(_roll_out(BAD))
        _title("6. Two that never start: one was altered, one has a critical vulnerability")
        refused = [asyncio.run(_roll_out(each)) for each in (TAMPERED, VULNERABLE)]
        _title("7. Region eu loses its database while its tenants write")
        came_back = outage(console)
    _title("8. A backup that somebody changed")
    not_believed = tampered_backup(console)
    _title("9. What the load saw")
    clean = _run(
        [sys.executable, str(ROOT / "scripts" / "check_load.py"), str(record), "--home", str(home)]
    )
    _title("10. The receipts, and what they answer")
    verified = _chainring("receipts", "verify")
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    answered = _chainring("forensics", "at", now, "--shard", "eu-001")
    _summary(good, bad, refused)
    as_hoped = (
        first.state == good.state == RolloutState.COMPLETED
        and bad.state == RolloutState.ROLLED_BACK
        and all(each.state == RolloutState.REFUSED for each in refused)
    )
    return all((as_hoped, came_back, not_believed, clean, verified, answered))


def _tamper(home: Path) -> None:
    """A release like the good one but for one line, with the good one's evidence beside it."""
    layout = open_releases(load_control())
    good = layout.resolve(GOOD)
    name, version = TAMPERED.split(":")
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        root = layout.unpack(good, Path(scratch) / "good")
        service = next(root.rglob("service.py"))
        service.write_text(service.read_text() + "# sends the price list elsewhere, too\n")
        tampered = layout.put_release(name, version, service.parent)
    for bundle in layout.evidence(good):
        statement = read_statement(read_bundle(bundle).envelope.payload)
        layout.attach(tampered, bundle, statement.predicate_type)
    console.print(f"[dim]{TAMPERED} is {GOOD} with one line more and all of its evidence[/dim]")


async def _roll_out(reference: str, **fields: str) -> RolloutStatus:
    addresses = load_control()
    client = await connect(addresses.temporal)
    request = RolloutRequest(
        release=open_releases(addresses).resolve(reference),
        actor="demo",
        reason="demonstration",
        overrides={} if fields else OVERRIDES,
        **fields,
    )
    workflow_id = f"rollout/{reference.replace(':', '-')}/1"
    console.print(
        f"[dim]temporal workflow start --type FleetRollout --task-queue control "
        f'--workflow-id {workflow_id} --input \'{{"release":"{request.release[:19]}..."}}\'[/dim]'
    )
    handle = await client.start_workflow(
        "FleetRollout", request, id=workflow_id, task_queue=addresses.temporal.task_queue
    )
    said = ""
    while True:
        status: RolloutStatus = await handle.query("status", result_type=RolloutStatus)
        line = _progress(status)
        if line != said:
            console.print(line)
            said = line
        if status.state in FINAL_STATES and status.ended is not None:
            return status
        await asyncio.sleep(0.3)


def _progress(status: RolloutStatus) -> str:
    ring = next((each for each in status.rings if each.name == status.ring), None)
    if ring is None:
        return f"  {status.state}  {status.why}"
    filled = round(24 * ring.activated / ring.shards) if ring.shards else 24
    bar = "#" * filled + "." * (24 - filled)
    gate = ""
    if ring.verdict is not None:
        gate = f"gate look {ring.verdict.look}/{ring.verdict.looks}: {ring.verdict.outcome}"
    return (
        f"  {ring.name:>7}  [{bar}] {ring.activated:>3}/{ring.shards:<3} shards "
        f"{ring.cumulative_percent:5.1f} % of tenants  {status.state:<13} {gate}".replace(
            "[#", "\\[#"
        )
    )


def _summary(good: RolloutStatus, bad: RolloutStatus, refused: list[RolloutStatus]) -> None:
    _title("In short")
    console.print(f"  {GOOD}: [green]{good.state}[/green] in {_seconds(good):.0f} s, ring by ring:")
    for ring in good.rings:
        console.print(f"    {ring.name:>7}  {ring.tenants:>6} tenants  gate {ring.outcome}")
    console.print(f"  {BAD}: [yellow]{bad.state}[/yellow] in {_seconds(bad):.0f} s")
    console.print(f"    why: {bad.why}")
    for ring in bad.rings:
        for metric in ring.verdict.metrics if ring.verdict else []:
            if metric.outcome == "fail":
                console.print(f"    {metric.metric}: {metric.why}")
    for each in refused:
        console.print(f"  {each.name}:{each.version}: [yellow]{each.state}[/yellow]")
        console.print(f"    why: {each.why}")


def _seconds(status: RolloutStatus) -> float:
    assert status.started is not None and status.ended is not None
    return (status.ended - status.started).total_seconds()


def _look_further(home: Path) -> None:
    temporal = load_control().temporal.address
    console.print("\nLook further (in another terminal, while the stack runs):")
    for command in (
        f"export CHAINRING_HOME={home}",
        "chainring status                       # where everything is, and the web UI's address",
        f"temporal workflow list --address {temporal}",
        f"temporal workflow show --address {temporal} --workflow-id {BAD_ROLLOUT}",
        f"chainring verdict show --rollout {BAD_ROLLOUT}",
        f"chainring verdict replay --release {VULNERABLE}",
        f"chainring forensics trace {GOOD}",
        "chainring events",
        "chainring receipts list --ledger eu",
    ):
        console.print(f"  {command}")


@contextlib.contextmanager
def _stack(home: Path) -> Iterator[None]:
    _title("0. The embedded stack")
    if (home / "stack" / "state.json").exists():
        _chainring("down")
    shutil.rmtree(home, ignore_errors=True)
    temporal_port = "0" if answers("tcp://127.0.0.1:7233") else "7233"
    began = time.monotonic()
    home.mkdir(parents=True)
    process = subprocess.Popen(
        [str(CHAINRING), "up", "--foreground", "--temporal-port", temporal_port],
        preexec_fn=die_with_parent,
    )
    try:
        while not _is_ready(home):
            if process.poll() is not None:
                raise SystemExit("the stack did not start")
            time.sleep(0.2)
        console.print(f"ready in {time.monotonic() - began:.1f} s: {', '.join(known_regions())}")
        yield
    finally:
        console.print("stopping the stack")
        process.send_signal(signal.SIGTERM)
        process.wait()


def _is_ready(home: Path) -> bool:
    state = home / "stack" / "state.json"
    return state.exists() and '"phase": "ready"' in state.read_text()


@contextlib.contextmanager
def _load(home: Path, rate: int, record: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "scripts" / "load.py"), "--home", str(home)),
            *("--rate", str(rate), "--seconds", "3600", "--out", str(record), "--per-shard-even"),
        ],
        preexec_fn=die_with_parent,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _chainring(*arguments: str) -> bool:
    console.print(f"[dim]chainring {' '.join(arguments)}[/dim]")
    return _run([str(CHAINRING), *arguments])


def _run(command: list[str]) -> bool:
    return subprocess.run(command, check=False).returncode == 0


def _title(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


if __name__ == "__main__":
    sys.exit(main())
