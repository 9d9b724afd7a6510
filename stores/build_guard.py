"""A program that runs one command and outlives none of it: `python build_guard.py GRACE COMMAND...`

It stands between the builder and a build's command. When its standard input closes - the builder
asked for the end, or was itself killed - it ends every process that descends from the command:
SIGTERM, then SIGKILL after GRACE seconds. As a child subreaper it also finds those that left the
process group and lost their parents. What the command leaves behind when it ends is ended too.

It imports nothing but the standard library, so that ``python -I -S`` starts it in a moment. Its
exit status is the command's, or 128 plus the number of the signal that ended it.
"""

import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
CANNOT_START = 127
_ROUND = 0.02


def guard(grace: float, command: list[str]) -> int:
    """Run ``command`` and return its exit status once nothing of it is left."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake = _wake_on_child()
    child = _start(command)
    code = 0
    while True:
        ready, _, _ = select.select([0, wake], [], [], 1.0)
        ended = _reap(child)
        if ended is not None:
            code = ended
            break
        if 0 in ready and not os.read(0, 4096):
            break
        if wake in ready:
            os.read(wake, 4096)
    return _end_all(child, grace, code)


def _wake_on_child() -> int:
    """A descriptor that becomes readable when a child ends, so that `select` returns."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end is asked for by closing the input
    return reading


def _start(command: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.execvp(command[0], command)  # noqa: S606  # no shell is wanted
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(CANNOT_START)


def _reap(child: int) -> int | None:
    """Collect whoever has ended; the exit status of ``child`` when it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = 128 - code if code < 0 else code


def _end_all(child: int, grace: float, code: int) -> int:
    for number, limit in ((signal.SIGTERM, grace), (signal.SIGKILL, None)):
        deadline = None if limit is None else time.monotonic() + limit
        told: set[int] = set()
        while left := descendants(os.getpid()):
            if deadline is not None and time.monotonic() > deadline:
                break
            for pid in left:
                if number == signal.SIGKILL or pid not in told:
                    _send(pid, number)
                    told.add(pid)
            ended = _reap(child)
            code = code if ended is None else ended
            time.sleep(_ROUND)
    return code


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def descendants(root: int) -> list[int]:
    """Processes that descend from ``root`` and have not ended."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has ended meanwhile
        children.setdefault(int(parent), []).append(int(entry.name))
        if state == "Z":
            children[int(parent)].pop()
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


if __name__ == "__main__":
    sys.exit(guard(float(sys.argv[1]), sys.argv[2:]))
