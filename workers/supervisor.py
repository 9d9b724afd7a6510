"""Keeps the processes of the embedded stack running, and ends them all when it ends.

It knows nothing of Chainring beyond the plan file, and imports little: it is the one process that
must not fail. Children die with it, even when it is killed (`PR_SET_PDEATHSIG`).
"""

import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from models.stack import ProcessSpec, ProcessState, StackPlan, StackState
from workers.children import Running, adopt_orphans, die_with_parent, reap_orphans
from workers.nursery import Nursery
from workers.settings import home

TICK = 0.05
PROBE_EVERY = 0.1
PROBE_EVERY_WHEN_READY = 2.0
FIRST_BACKOFF = 0.2
LONGEST_BACKOFF = 5.0
HEALTHY_AFTER = 20.0  # seconds of life after which a crash counts as the first one again
STOP_GRACE = 40.0  # longer than a worker's drain
PYTHON = [sys.executable, "-m", "workers"]


def plan_file() -> Path:
    """What should run; written by ``chainring up`` before the supervisor starts."""
    return home() / "stack" / "plan.json"


def state_file() -> Path:
    """What does run; the supervisor writes it anew after every change."""
    return home() / "stack" / "state.json"


def lock_file() -> Path:
    """Held while a supervisor lives, so that a home has one at most."""
    return home() / "stack" / "lock"


@dataclass
class Child:
    """One process, over all its starts."""

    spec: ProcessSpec
    state: ProcessState
    process: Running | None = None
    started: float = 0.0
    backoff: float = FIRST_BACKOFF
    start_at: float = 0.0
    probe_at: float = field(default=0.0)

    def start(self, now: float, nursery: Nursery) -> None:
        log = home() / "logs" / f"{self.spec.name}.log"
        self.process = self._forked(nursery, log) or self._new(log)
        self.started = now
        self.state.pid = self.process.pid
        self.state.ready = False

    @property
    def ours(self) -> bool:
        """Whether this is one of `python -m workers`."""
        return self.spec.command[:3] == PYTHON

    def _forked(self, nursery: Nursery, log: Path) -> Running | None:
        return nursery.fork(self.spec.command[3:], log) if self.ours else None

    def _new(self, log: Path) -> Running:
        incarnation = uuid.uuid4().hex
        argv = [part.replace("{incarnation}", incarnation) for part in self.spec.command]
        with log.open("ab") as output:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Safe: the supervisor has one thread.
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )

    def tend(self, now: float, nursery: Nursery) -> bool:
        """Restart after a crash and probe; whether anything changed."""
        if self.process is None:
            if now < self.start_at or (self.ours and nursery.importing()):
                return False
            self.start(now, nursery)
            return True
        code = self.process.poll()
        if code is not None:
            self._fell(now, code)
            return True
        if now < self.probe_at:
            return False
        ready = not self.spec.ready_url or answers(self.spec.ready_url)
        self.probe_at = now + (PROBE_EVERY_WHEN_READY if ready else PROBE_EVERY)
        changed = ready != self.state.ready
        self.state.ready = ready
        return changed

    def _fell(self, now: float, code: int) -> None:
        if now - self.started > HEALTHY_AFTER:
            self.backoff = FIRST_BACKOFF
        self.state.ready = False
        self.state.pid = None
        self.state.restarts += 1
        self.state.detail = f"ended with {code}; see logs/{self.spec.name}.log"
        self.process = None
        self.start_at = now + self.backoff
        self.backoff = min(LONGEST_BACKOFF, self.backoff * 2)


def answers(url: str) -> bool:
    """Whether a readiness address answers now."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    try:
        if parts.scheme == "tcp":
            with socket.create_connection((host, port), timeout=1):
                return True
        connection = http.client.HTTPConnection(host, port, timeout=1)
        try:
            connection.request("GET", parts.path or "/")
            return connection.getresponse().status == http.client.OK
        finally:
            connection.close()
    except (OSError, http.client.HTTPException):
        return False


class Supervisor:
    """Starts all processes at once, and tends to them until told to stop."""

    def __init__(self, plan: StackPlan) -> None:
        self._children = [Child(spec, ProcessState(name=spec.name)) for spec in plan.processes]
        me = psutil.Process()
        self._state = StackState(
            pid=me.pid,
            created=me.create_time(),
            processes=[child.state for child in self._children],
        )
        self._nursery = Nursery(home() / "logs" / "nursery.log")
        self._stopping = False

    def run(self) -> int:
        """Until SIGTERM or SIGINT; then everything ends in reverse order of its start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        adopt_orphans()
        self._write()
        while not self._stopping:
            self._tick()
            time.sleep(TICK)
        self._state.phase = "stopping"
        self._write()
        self._end_all()
        state_file().unlink(missing_ok=True)
        return 0

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _tick(self) -> None:
        now = time.monotonic()
        changed = False
        self._nursery.start()
        for child in self._children:
            changed |= child.tend(now, self._nursery)
        running = {child.process.pid for child in self._children if child.process}
        reap_orphans(running | self._nursery.pids)
        if self._state.phase == "starting" and all(child.state.ready for child in self._children):
            self._state.phase = "ready"
            changed = True
        if changed:
            self._write()

    def _end_all(self) -> None:
        for stage in sorted({child.spec.stage for child in self._children}, reverse=True):
            running = [
                child.process
                for child in self._children
                if child.spec.stage == stage and child.process is not None
            ]
            for process in running:
                process.terminate()
            deadline = time.monotonic() + STOP_GRACE
            for process in running:
                _end(process, deadline)
        self._nursery.stop()

    def _write(self) -> None:
        path = state_file()
        temporary = path.with_suffix(".tmp")
        temporary.write_text(self._state.model_dump_json(indent=2))
        temporary.replace(path)


def _end(process: Running, deadline: float) -> None:
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_stack() -> int:
    """`python -m workers stack`: one supervisor a home, held by a lock."""
    lock_file().parent.mkdir(parents=True, exist_ok=True)
    with lock_file().open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("chainring: the stack of this home runs already", file=sys.stderr)
            return 1
        plan = StackPlan.model_validate_json(plan_file().read_bytes())
        return Supervisor(plan).run()
