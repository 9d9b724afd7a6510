"""What the release host asks of the operating system: ports, logs, health answers, leftovers."""

import asyncio
import os
import random
import shutil
from pathlib import Path

import psutil

from workers.loopback_ports import LOOPBACK, is_free, release_ports

HOST_VARIABLE = "CHAINRING_HOST"
LOG_BYTES = 8 * 1024 * 1024


class PortBook:
    """Loopback ports of the release processes of one host."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._range = release_ports()

    def keep(self, port: int) -> None:
        """Never hand out ``port``: a process has it."""
        self._taken.add(port)

    def pick(self) -> int:
        """A port that is free now.

        Raises:
            OSError: none was found.
        """
        for _ in range(200):
            port = random.choice(self._range)  # noqa: S311 - not a secret
            if port not in self._taken and is_free(port):
                self._taken.add(port)
                return port
        raise OSError("no free loopback port")


async def health_problem(port: int, timeout_s: float) -> str | None:
    """Why the process on ``port`` is not healthy, or None when ``GET /healthz`` answers 200."""
    try:
        async with asyncio.timeout(timeout_s):
            status = await _healthz_status(port)
    except TimeoutError:
        return f"/healthz did not answer within {timeout_s:g} s"
    except OSError as error:
        return f"/healthz: {error.strerror or error}"
    except ValueError:
        return "/healthz: the answer is not HTTP"
    return None if status == 200 else f"/healthz answered {status}"


async def _healthz_status(port: int) -> int:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        version, status, _ = (await reader.readline()).split(b" ", 2)
        if not version.startswith(b"HTTP/1."):
            raise ValueError(version)
        return int(status)
    finally:
        writer.close()


def limit_log(path: Path, limit: int = LOG_BYTES) -> None:
    """Move a log that grew past ``limit`` bytes to ``<name>.1`` and go on with an empty one.

    Its writer has it open for appending, so it is copied and cut, not renamed.
    """
    try:
        if path.stat().st_size > limit:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)
    except FileNotFoundError:
        return


def last_line(path: Path, since: int) -> str:
    """The last line that is not blank, of what was written after offset ``since``."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(min(since, end), end - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    written = [line.strip() for line in lines if line.strip()]
    return written[-1][:300] if written else ""


def kill_leftovers(host_id: str) -> list[int]:
    """Kill every process that carries the mark of this host; returns their ids.

    Called before the host starts any itself, under the lock of its region: what has the mark now
    was left by a host that is gone. The mark is a random value in the environment of the process,
    so a process id that was given to another program since is not mistaken for ours.
    """
    killed = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(HOST_VARIABLE) == host_id:
                process.kill()  # psutil compares the start time first
                killed.append(process.pid)
        except psutil.Error:
            continue
    return killed
