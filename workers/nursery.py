"""Forks the stack's Python processes off one that has their code in memory already.

Each would import for two seconds of a core otherwise: at the start of the stack, and after every
crash. The supervisor is the parent of a forked process as of those that it starts itself: the fork
is made twice, and the orphan falls to the supervisor, which is a subreaper. So the nursery may die
without harm. Only the embedded stack does this; in production each process starts on its own.
"""

import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.children import Forked, die_with_parent

PRELOADED = (
    *("workers.gateway", "workers.host", "workers.region"),
    *("workers.control", "workers.recovery", "workers.authority"),
)
PATIENCE_S = 30.0
"""How long processes wait for the nursery to have its code; then they start without it."""

ANSWER_S = 5.0
READY = b"ready"
_LONGEST = 65_536


class Nursery:
    """The supervisor's end of it: keeps the nursery running, and asks it for processes."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._ready = False
        self._until = 0.0

    def start(self) -> None:
        """Start the nursery, unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        self._close()
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with self._log.open("ab") as output, other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workers", "nursery", str(other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[other.fileno()],
                # Statistics need no threads of their own, and threads do not survive a fork.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                preexec_fn=die_with_parent,  # noqa: PLW1509  # the supervisor has one thread
            )
        self._until = time.monotonic() + PATIENCE_S

    @property
    def pids(self) -> set[int]:
        """The nursery's own process."""
        return set() if self._process is None else {self._process.pid}

    def importing(self) -> bool:
        """Whether it is not ready yet, and worth waiting for."""
        if self._ready or self._channel is None or self._gone():
            return False
        self._channel.settimeout(0)
        try:
            self._ready = self._channel.recv(_LONGEST) == READY
        except BlockingIOError:
            return time.monotonic() < self._until
        except OSError:
            pass
        return False

    def fork(self, arguments: Sequence[str], log: Path) -> Forked | None:
        """A process of `python -m workers`; None when the nursery cannot make one now."""
        if not self._ready or self._channel is None or self._gone():
            return None
        self._channel.settimeout(ANSWER_S)
        try:
            self._channel.send(json.dumps({"arguments": arguments, "log": str(log)}).encode())
            answer = self._channel.recv(_LONGEST)
        except OSError:
            answer = b""
        if not answer:
            self._close()  # or a late answer would be taken for the next one's
            return None
        return Forked(int(answer))

    def stop(self) -> None:
        """End the nursery; what it forked goes on."""
        self._close()

    def _gone(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _close(self) -> None:
        self._ready = False
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class Birth:
    """In a process that was just forked: what it is to be."""

    arguments: list[str]


def run_nursery(descriptor: int) -> Birth | None:
    """`python -m workers nursery`: import everything, then fork until the supervisor is gone.

    Returns in the nursery None, and in each process that it forks what this one has to run.
    """
    supervisor = os.getppid()
    channel = socket.socket(fileno=descriptor)
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # the collector would write to pages that are shared
    channel.send(READY)
    while message := channel.recv(_LONGEST):
        request = json.loads(message)
        middle = os.fork()
        if middle == 0:
            if os.fork():
                os._exit(0)
            _be_born(channel, supervisor, Path(request["log"]))
            return Birth(request["arguments"])
        os.waitpid(middle, 0)
    return None


def _be_born(channel: socket.socket, supervisor: int, log: Path) -> None:
    """Become the supervisor's child, as one that it had started itself."""
    os.setsid()
    deadline = time.monotonic() + ANSWER_S
    while os.getppid() != supervisor and time.monotonic() < deadline:
        time.sleep(0.001)
    die_with_parent()
    if os.getppid() != supervisor:  # it is gone, and nobody would ever end this process
        os._exit(1)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    channel.send(str(os.getpid()).encode())
    channel.close()
