"""Child processes of the supervisor: started by it, forked for it elsewhere, or adopted."""

import ctypes
import os
import signal
import subprocess
import time
from typing import Protocol

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


class Running(Protocol):
    """What the supervisor needs of a process; `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code at its end; raises `subprocess.TimeoutExpired`."""

    def terminate(self) -> None:
        """Ask it to end."""


def die_with_parent() -> None:
    """In a new child: be killed when the parent ends, however it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends; `reap_orphans` from then on."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans(known: set[int]) -> None:
    """Let adopted processes that have ended go; ``known`` are awaited by others."""
    with_status = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        while (ended := os.waitid(os.P_ALL, 0, with_status)) and ended.si_pid not in known:
            os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        pass


class Forked:
    """A child that was forked elsewhere."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """See `Running`."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """See `Running`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.01)
        return code

    def terminate(self) -> None:
        """See `Running`."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
