"""Runs the commands of a build: in its directory alone, with no secrets, for a limited time.

Nothing of a command is left when `run_commands` returns or its process dies: see
`stores.build_guard`. This isolates builds from the builder's environment and from each other's
files, but not from the machine: give strangers' sources a machine, or a user, of their own.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from stores import build_guard

MAX_LOG = 8 * 1024**2
GRACE_S = 5.0
_BEAT_S = 0.25
_TAIL = 2000


class BuildFailed(Exception):
    """A command of the build did not do what it should; the message says which and how."""


class BuildCancelled(Exception):
    """Somebody asked for the end; raised by a `Beat`."""


Beat = Callable[[], None]
"""Called a few times a second while a command runs; what it raises ends the command."""


@dataclass(frozen=True)
class Outcome:
    """How a series of commands went."""

    code: int
    started: datetime
    ended: datetime
    log: str
    """Digest of the log file, ``sha256:...``."""


class Log:
    """The captured output: its beginning up to a limit, and how much was left out."""

    def __init__(self, path: Path, limit: int = MAX_LOG) -> None:
        self.path = path
        self._limit = limit
        self._written = 0
        self._dropped = 0
        self._file: BinaryIO = path.open("wb")

    def write(self, data: bytes) -> None:
        """Keep as much of ``data`` as there is room for."""
        room = self._limit - self._written
        self._file.write(data[:room])
        self._written += len(data[:room])
        self._dropped += len(data[room:])

    def close(self) -> str:
        """Finish the file; returns its digest."""
        if self._dropped:
            self._file.write(f"\n[{self._dropped} bytes left out]\n".encode())
        self._file.close()
        return f"sha256:{sha256(self.path.read_bytes()).hexdigest()}"

    def tail(self) -> str:
        """The last of what was kept, for a person."""
        self._file.flush()
        return self.path.read_bytes()[-_TAIL:].decode(errors="replace").strip()


def run_commands(
    commands: Sequence[Sequence[str]],
    *,
    directory: Path,
    environment: Mapping[str, str],
    log: Path,
    seconds: float,
    beat: Beat,
    clock: Callable[[], datetime],
    log_limit: int = MAX_LOG,
    grace: float = GRACE_S,
) -> Outcome:
    """Run commands one after the other, up to the first that fails.

    Args:
        environment: all that the commands get.
        log: takes their output, ``log_limit`` bytes at most.
        seconds: for all of them together.
        grace: seconds from SIGTERM to SIGKILL at the end of the time or on cancellation.

    Raises:
        BuildFailed: the time is over.
        BuildCancelled, and whatever else ``beat`` raises: the commands were ended.
    """
    started, deadline = clock(), time.monotonic() + seconds
    output = Log(log, log_limit)
    code = 0
    try:
        for command in commands:
            output.write(f"$ {json.dumps(command)}\n".encode())
            code = _run(command, directory, environment, output, deadline, beat, grace)
            if code:
                output.write(f"[exit status {code}]\n".encode())
                break
    except TimeoutError:
        said = output.tail()
        raise BuildFailed(
            f"{' '.join(command)!r:.100}: not done in {seconds:g} s; it said last: {said}"
        ) from None
    finally:
        digest = output.close()
    return Outcome(code, started, clock(), digest)


def _run(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    output: Log,
    deadline: float,
    beat: Beat,
    grace: float,
) -> int:
    guard = [sys.executable, "-I", "-S", build_guard.__file__, str(grace)]
    process = subprocess.Popen(
        [*guard, *command],
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _pump(process, output, deadline, beat)
    finally:
        _close(process, output)
    return process.returncode


def _pump(process: "subprocess.Popen[bytes]", output: Log, deadline: float, beat: Beat) -> None:
    """Copy output until the command has ended; raises TimeoutError, or what ``beat`` raises."""
    assert process.stdout is not None
    beaten = time.monotonic()
    while process.poll() is None:
        _copy(process.stdout.fileno(), output, _BEAT_S)
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError
        if now - beaten >= _BEAT_S:
            beaten = now
            beat()


def _close(process: "subprocess.Popen[bytes]", output: Log) -> None:
    """Let the guard end everything, and wait until it has; what is said meanwhile is kept."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    while process.poll() is None:
        _copy(process.stdout.fileno(), output, _BEAT_S)
    while _copy(process.stdout.fileno(), output, 0):
        pass
    process.stdout.close()


def _copy(source: int, output: Log, wait: float) -> bool:
    """Copy what is there, waiting ``wait`` seconds for it; whether there was anything."""
    ready, _, _ = select.select([source], [], [], wait)
    data = os.read(source, 65536) if ready else b""
    if ready and not data:
        time.sleep(min(wait, 0.01))  # closed, though the command goes on
    output.write(data)
    return bool(data)


def build_environment(
    work: Path,
    *,
    commit_time: int,
    path: str,
    taken: Mapping[str, str],
    values: Mapping[str, str],
) -> dict[str, str]:
    """All that a build's commands get to know.

    Args:
        work: a directory of the build's own; home and temporary files go below it.
        commit_time: seconds since 1970; tools that honour SOURCE_DATE_EPOCH then write equal files.
        taken: from the builder's environment, already held against what it allows.
        values: what the build file sets.
    """
    home, temporary = work / "home", work / "tmp"
    for directory in (home, temporary):
        directory.mkdir(parents=True, exist_ok=True)
    return {
        **taken,
        **values,
        "PATH": path,
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(commit_time),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }
