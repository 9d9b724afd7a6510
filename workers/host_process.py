"""One release process under supervision: start, watch, restart, stop."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from models.ids import short
from models.release import HealthTiming, ReleaseSpec
from models.supervision import Life, RestartPolicy, next_step
from stores.oci import ImageLayout, ReleaseError
from stores.processes import ReleaseProcess, State
from stores.unpack import release_directory
from workers.host_system import (
    HOST_VARIABLE,
    PortBook,
    health_problem,
    last_line,
    limit_log,
)
from workers.loopback_ports import is_free

LAUNCHER = Path(__file__).with_name("host_launch.py")
START_POLL_S = 0.05

log = logging.getLogger("chainring.host")


@dataclass(frozen=True)
class Site:
    """Where the processes of one region live."""

    region: str
    host_id: str
    layout: ImageLayout
    workdir: Path
    ports: PortBook
    policy: RestartPolicy

    def unpacked(self, release: str) -> Path:
        return release_directory(self.workdir, release)

    def log_file(self, spec: ReleaseSpec, release: str) -> Path:
        return self.workdir / "logs" / f"{spec.name}-{spec.version}-{short(release)}.log"


@dataclass(frozen=True)
class Seen:
    """What the host reports of a process; the fields are those of the table."""

    state: State
    proven: bool
    port: int | None
    pid: int | None
    restarts: int
    detail: str
    source: str

    def values(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Program:
    spec: ReleaseSpec
    root: Path


class Supervisor:
    """Runs one attempt at one release until it is stopped or given up."""

    def __init__(self, row: ReleaseProcess, site: Site, on_change: Callable[[], None]) -> None:
        self.release = row.release
        self.attempt = row.attempt
        self.seen = Seen(
            state="starting",
            proven=row.proven,
            port=row.port,
            pid=None,
            restarts=row.restarts,
            detail="",
            source=row.source,
        )
        self._site = site
        self._on_change = on_change
        self._starts = row.restarts + 1 if row.source else 0
        self._stopping = asyncio.Event()
        self._program: _Program | None = None
        self._healthy_since: float | None = None
        self._task = asyncio.create_task(self._run())
        if row.port is not None:
            site.ports.keep(row.port)

    def stop(self) -> None:
        """Begin to stop; `finished` tells when nothing runs any more."""
        self._stopping.set()

    @property
    def finished(self) -> bool:
        return self._task.done()

    async def wait(self) -> None:
        await self._task

    async def _run(self) -> None:
        try:
            await self._run_lives()
        except Exception as error:
            log.exception("%s %s: supervision failed", self._site.region, short(self.release))
            self._see(state="failed", pid=None, detail=f"release host: {error!r}")

    async def _run_lives(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                life = await self._live()
            except ReleaseError as error:
                self._see(state="failed", pid=None, detail=str(error))
                return
            except OSError as error:
                life = Life(f"cannot start: {error}", healthy_seconds=0, ended_itself=True)
            if self._stopping.is_set():
                break
            step = next_step(
                self._site.policy, failures=failures, proven=self.seen.proven, life=life
            )
            failures = step.failures
            if step.delay is None:
                self._see(state="failed", pid=None, detail=life.reason)
                return
            state: State = "unhealthy" if self.seen.proven else "starting"
            self._see(state=state, pid=None, detail=life.reason)
            await self._pause(step.delay)
        self._see(state="stopped", pid=None)

    async def _live(self) -> Life:
        """Start the program once and stay with it to its end."""
        program = await self._prepare()
        port = self._port()
        log_path = self._site.log_file(program.spec, self.release)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        limit_log(log_path)
        offset = log_path.stat().st_size if log_path.exists() else 0
        source = uuid.uuid4().hex
        process = await self._spawn(program, port, log_path)
        self._see(
            state="unhealthy" if self.seen.proven else "starting",
            port=port,
            pid=process.pid,
            restarts=self._starts,
            source=source,
        )
        self._starts += 1
        try:
            life = await self._watch(process, program.spec.health, port, log_path)
        finally:
            await _end(process, program.spec.stop_grace_ms / 1000)
        if life is not None:
            return life
        return Life(
            _exit_reason(process.returncode, last_line(log_path, offset)),
            healthy_seconds=self._healthy_seconds(),
            ended_itself=True,
        )

    async def _prepare(self) -> _Program:
        if self._program is None:
            layout, release = self._site.layout, self.release
            spec = await asyncio.to_thread(layout.describe, release)
            root = await asyncio.to_thread(layout.unpack, release, self._site.unpacked(release))
            self._program = _Program(spec, root)
        return self._program

    def _port(self) -> int:
        """The port of last time. Only a release no gateway knows yet may get another one.

        Raises:
            OSError: the port is in use by another program, or none is free.
        """
        port = self.seen.port
        if port is not None and is_free(port):
            return port
        if port is not None and self.seen.proven:
            raise OSError(f"port {port} is in use by another program")
        return self._site.ports.pick()

    async def _spawn(
        self, program: _Program, port: int, log_path: Path
    ) -> asyncio.subprocess.Process:
        """Must run in the main thread: the process dies with the thread that forked it."""
        with log_path.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-S",
                "-E",
                str(LAUNCHER),
                str(os.getpid()),
                *program.spec.entrypoint,
                cwd=program.root,
                env=self._environment(program.spec, port),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _environment(self, spec: ReleaseSpec, port: int) -> dict[str, str]:
        """All that a release sees: none of the host's own variables."""
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": "/nonexistent",
            "LANG": "C.UTF-8",
            **spec.env,
            "PORT": str(port),
            HOST_VARIABLE: self._site.host_id,
            "CHAINRING_REGION": self._site.region,
            "CHAINRING_RELEASE": self.release,
        }

    async def _watch(
        self,
        process: asyncio.subprocess.Process,
        health: HealthTiming,
        port: int,
        log_path: Path,
    ) -> Life | None:
        """Check health until the process ends or is to be ended; None when it exited by itself."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + health.deadline_ms / 1000
        self._healthy_since = None
        missed = 0
        exited = asyncio.create_task(process.wait())
        try:
            while True:
                waiting = self._healthy_since is None
                pause = START_POLL_S if waiting else health.interval_ms / 1000
                if await self._ended(exited, pause):
                    return None
                problem = await health_problem(port, health.timeout_ms / 1000)
                missed = 0 if problem is None else missed + 1
                if problem is None:
                    self._note_healthy(loop.time())
                elif self._healthy_since is None:
                    if loop.time() >= deadline:
                        limit = health.deadline_ms / 1000
                        return self._ended_by_host(f"not healthy within {limit:g} s: {problem}")
                elif missed >= health.restart_after:
                    return self._ended_by_host(f"{missed} health checks failed: {problem}")
                elif missed >= health.unhealthy_after:
                    self._see(state="unhealthy", detail=problem)
                limit_log(log_path)
        finally:
            exited.cancel()

    def _note_healthy(self, now: float) -> None:
        if self._healthy_since is None:
            self._healthy_since = now
        self._see(state="healthy", proven=True, detail="")

    def _ended_by_host(self, reason: str) -> Life:
        return Life(reason, healthy_seconds=self._healthy_seconds(), ended_itself=False)

    def _healthy_seconds(self) -> float:
        since = self._healthy_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    async def _ended(self, exited: "asyncio.Task[int]", pause: float) -> bool:
        """Wait up to ``pause`` seconds; whether the process has exited or is to be stopped."""
        stopping = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait(
            {exited, stopping}, timeout=pause, return_when=asyncio.FIRST_COMPLETED
        )
        stopping.cancel()
        return bool(done)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _see(self, **changes: Any) -> None:
        seen = replace(self.seen, **changes)
        if seen == self.seen:
            return
        if (seen.state, seen.detail) != (self.seen.state, self.seen.detail):
            log.info(
                "%s %s: %s%s",
                self._site.region,
                short(self.release),
                seen.state,
                f" ({seen.detail})" if seen.detail else "",
            )
        self.seen = seen
        self._on_change()


async def _end(process: asyncio.subprocess.Process, grace_s: float) -> None:
    """SIGTERM to the program, SIGKILL after the grace, and SIGKILL to what it may have forked."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _exit_reason(code: int | None, said: str) -> str:
    if code is not None and code < 0:
        how = f"killed by {signal.Signals(-code).name}"
    else:
        how = f"exited with code {code}"
    return f"{how}: {said}" if said else how
