"""`chainring up | status | down | setup`: the embedded stack."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer
from pydantic import BaseModel

from models.stack import ProcessState, StackPlan, StackState
from workers.children import die_with_parent
from workers.cli.output import NEGATIVE, UNREACHABLE, USAGE, console, emit_json, emit_table, fail
from workers.settings import home, known_regions, load_control
from workers.supervisor import answers, plan_file, state_file

UP_DEADLINE = 60.0
DOWN_DEADLINE = 90.0
MIB = 1024 * 1024


class StackReport(BaseModel):
    """What `chainring status` says."""

    home: Path
    phase: str
    temporal: str
    ui: str
    memory_mb: float
    processes: list[ProcessState]


def up(
    config: Annotated[
        Path | None, typer.Option(help="the fleet's configuration (TOML); kept in the home")
    ] = None,
    temporal_port: Annotated[
        int | None, typer.Option(help="Temporal's port, UI on +1000; 0 picks free ones")
    ] = None,
    database: Annotated[
        list[str] | None,
        typer.Option(help="NAME=URL: PostgreSQL for a region or for 'control'; SQLite otherwise"),
    ] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="OpenTelemetry collector (HTTP) to send traces to")
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="http(s)://host[/prefix] where releases are; on this disk otherwise"),
    ] = None,
    credentials: Annotated[
        Path | None, typer.Option(exists=True, help="file with user:password for the registry")
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="stay, and end the stack on Ctrl-C")
    ] = False,
) -> None:
    """Start the embedded stack: Temporal, Envoy, workers, release host, databases.

    Example: chainring up && chainring status
    """
    from models.addresses import RegistryAddress  # noqa: PLC0415
    from models.config import ConfigError  # noqa: PLC0415  # keeps `chainring --help` quick
    from workers.stack_plan import Options, SetupError, set_up  # noqa: PLC0415

    already = running_stack()
    if already is not None:
        console.print(f"The stack of {home()} runs already (pid {already.pid}).")
        _print_report(_report(already))
        return
    options = Options(
        config=config,
        temporal_port=temporal_port,
        databases=_databases(database or []),
        otlp_endpoint=otlp_endpoint,
        registry=RegistryAddress(url=registry, credentials=credentials) if registry else None,
    )
    with contextlib.ExitStack() as held:
        try:
            plan = set_up(options, held)
        except (SetupError, ConfigError, OSError) as error:
            fail(str(error), USAGE)
        supervisor = _start(foreground)
        _wait_until_ready(plan, supervisor)
    state = running_stack()
    if state is None:
        fail(f"the stack ended; see {home()}/logs/stack.log", UNREACHABLE)
    _print_report(_report(state))
    if foreground:
        _stay(supervisor)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """Show what runs, where, and the UI's address. Exit code 3 when the stack is down."""
    state = running_stack()
    if state is None:
        fail(f"no stack runs in {home()}; start it with `chainring up`", UNREACHABLE)
    report = _report(state)
    if as_json:
        emit_json(report.model_dump(mode="json"))
    else:
        _print_report(report)
    if report.phase != "ready" or not all(process.ready for process in report.processes):
        raise typer.Exit(NEGATIVE)


def down() -> None:
    """Stop the stack; every process ends, the state stays for the next `up`."""
    state = running_stack()
    if state is None:
        console.print(f"No stack runs in {home()}.")
        return
    family = [psutil.Process(state.pid), *psutil.Process(state.pid).children(recursive=True)]
    os.kill(state.pid, signal.SIGTERM)
    with console.status("stopping: workers drain what they hold"):
        _, alive = psutil.wait_procs(family, timeout=DOWN_DEADLINE)
    if alive:
        fail(f"still running: {', '.join(str(process.pid) for process in alive)}", NEGATIVE)
    console.print(f"Stopped {len(family)} processes.")


def setup() -> None:
    """Prepare a Temporal cluster: namespaces, search attributes, Nexus endpoints. Idempotent."""
    asyncio.run(_ensure(known_regions()))
    console.print("Temporal has all namespaces, search attributes and Nexus endpoints.")


async def _ensure(regions: list[str]) -> None:
    from workers.process import connect  # noqa: PLC0415
    from workers.temporal_setup import ensure  # noqa: PLC0415

    await ensure(await connect(load_control().temporal), regions)


async def _watch(regions: list[str]) -> None:
    """Have every region's primary watched, which fails over by itself."""
    from workers.cli.temporal import region_client  # noqa: PLC0415
    from workers.watch import ensure_watch  # noqa: PLC0415

    for region in regions:
        await ensure_watch(await region_client(region), region)


def _databases(pairs: list[str]) -> dict[str, str]:
    databases = {}
    for pair in pairs:
        name, found, url = pair.partition("=")
        if not found or not url:
            fail(f"--database: {pair!r} is not NAME=URL", USAGE)
        databases[name] = url
    return databases


def running_stack() -> StackState | None:
    """The supervisor of this home, if the process that wrote the state is the one that runs."""
    try:
        state = StackState.model_validate_json(state_file().read_bytes())
        process = psutil.Process(state.pid)
        if abs(process.create_time() - state.created) < 1:
            return state
    except (FileNotFoundError, psutil.NoSuchProcess):
        pass
    return None


def _start(foreground: bool) -> "subprocess.Popen[bytes]":
    with (home() / "logs" / "stack.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "workers", "stack"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"CHAINRING_HOME": str(home())},
            start_new_session=True,
            preexec_fn=die_with_parent if foreground else None,  # noqa: PLW1509  # one thread
        )


def _wait_until_ready(plan: StackPlan, supervisor: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + UP_DEADLINE
    prepared = False
    with console.status("starting") as line:
        while time.monotonic() < deadline:
            if supervisor.poll() is not None:
                fail(f"the supervisor ended; see {home()}/logs/stack.log", UNREACHABLE)
            if not prepared and answers(f"tcp://{plan.temporal}"):
                asyncio.run(_ensure(known_regions()))
                asyncio.run(_watch(known_regions()))
                prepared = True
            state = running_stack()
            if prepared and state is not None and state.phase == "ready":
                return
            late = (
                [process.name for process in state.processes if not process.ready] if state else []
            )
            line.update(f"waiting for {', '.join(late)}")
            time.sleep(0.1)
    os.kill(supervisor.pid, signal.SIGTERM)
    supervisor.wait()
    fail(f"not ready in {UP_DEADLINE:.0f} s: {', '.join(late)}; see {home()}/logs", UNREACHABLE)


def _stay(supervisor: "subprocess.Popen[bytes]") -> None:
    def end(*_: object) -> None:
        os.kill(supervisor.pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    supervisor.wait()


def _report(state: StackState) -> StackReport:
    plan = StackPlan.model_validate_json(plan_file().read_bytes())
    memory = 0
    for process in [psutil.Process(state.pid), *psutil.Process(state.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            memory += process.memory_full_info().pss
    return StackReport(
        home=home(),
        phase=state.phase,
        temporal=plan.temporal,
        ui=plan.ui,
        memory_mb=round(memory / MIB, 1),
        processes=state.processes,
    )


def _print_report(report: StackReport) -> None:
    plan = StackPlan.model_validate_json(plan_file().read_bytes())
    about = {spec.name: spec.about for spec in plan.processes}
    rows = [
        (
            process.name,
            "[green]ready[/green]" if process.ready else "[red]not ready[/red]",
            process.pid or "-",
            process.restarts,
            about.get(process.name, "") or process.detail,
        )
        for process in report.processes
    ]
    emit_table(["process", "state", "pid", "restarts", "where"], rows)
    console.print(f"web UI    {report.ui}")
    console.print(f"temporal  --address {report.temporal}")
    console.print(f"memory    {report.memory_mb:.0f} MiB in all")
