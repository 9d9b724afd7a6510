"""Faults for the simulator: kills between any two effects, a bucket that lies, clocks, outages.

A kill is raised where an effect would be, and every later effect of the same process raises it
again: what clean-up code would have done does not happen, as after ``kill -9``.
"""

import os
import random
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import patch

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.default import DefaultDialect

import stores.snapshots
import stores.sql
import stores.state_tree
from stores.objects import ObjectInfo, ObjectsUnavailable
from stores.objects_local import LocalObjects
from stores.sql import StoreUnavailable

_EFFECTS = ("fsync", "pwrite", "ftruncate", "replace", "unlink")
_DAY_MS = 86_400_000
_UNIX_EPOCH = 2_440_587.5  # as a Julian day


class Killed(BaseException):
    """The process under simulation was killed here."""


class Faults:
    """What goes wrong, and when. One world has one; its random numbers come from the seed."""

    def __init__(self, seed: int) -> None:
        self.now_ms = 1_790_000_000_000
        self.down: set[str] = set()
        """Databases (URL) that do not answer."""
        self.steps = 0
        self.last = ""
        self._numbers = random.Random(f"ids/{seed}")
        self._left = -1
        self._dead = False
        self._paused = 0

    def arm(self, steps: int) -> None:
        """Kill at the effect after ``steps`` more of them."""
        self._left = steps

    def disarm(self) -> None:
        """No kill; a process that was killed is gone, another one may begin."""
        self._left, self._dead = -1, False

    def step(self, name: str) -> None:
        """An effect is about to happen, or has just happened."""
        if self._paused:
            return
        if self._dead:
            raise Killed(name)
        self.steps += 1
        self.last = name
        if self._left == 0:
            self._dead = True
            raise Killed(name)
        if self._left > 0:
            self._left -= 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Effects of something else than the process under simulation."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def clock(self) -> float:
        """Unix seconds."""
        return self.now_ms / 1000

    def utc(self) -> datetime:
        """The same as a time."""
        return datetime.fromtimestamp(self.now_ms / 1000, UTC)

    def unreachable(self, engine: Engine) -> bool:
        """Whether a database does not answer now."""
        return not self._paused and any(make_url(each) == engine.url for each in self.down)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Everything of this process goes through here."""
        with ExitStack() as stack:
            for name in _EFFECTS:
                stack.enter_context(patch.object(os, name, self._stepping(getattr(os, name))))
            stack.enter_context(patch.object(DefaultDialect, "do_commit", self._commits()))
            stack.enter_context(patch.object(stores.sql, "_guarded", self._guards()))
            stack.enter_context(patch.object(stores.state_tree.sqlite3, "connect", self._tree()))
            stack.enter_context(patch.object(stores.snapshots, "datetime", self._datetime()))
            stack.enter_context(patch.object(secrets, "token_bytes", self._token_bytes))
            stack.enter_context(patch.object(secrets, "token_hex", self._token_hex))
            stack.enter_context(patch.object(secrets, "randbits", self._numbers.getrandbits))
            event.listen(Engine, "connect", self._set_clock)
            stack.callback(event.remove, Engine, "connect", self._set_clock)
            yield

    def _stepping(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            self.step(f"before {real.__name__}")
            done = real(*args, **kwargs)
            self.step(f"after {real.__name__}")
            return done

        return stepping

    def _commits(self) -> Callable[..., None]:
        real = DefaultDialect.do_commit
        faults = self

        def do_commit(dialect: DefaultDialect, connection: Any) -> None:
            faults.step("before commit")
            real(dialect, connection)
            faults.step("after commit")

        return do_commit

    def _guards(self) -> Callable[[Engine], Any]:
        real = stores.sql._guarded

        @contextmanager
        def guarded(engine: Engine) -> Iterator[Connection]:
            if self.unreachable(engine):
                raise StoreUnavailable("unreachable", "the simulator says so")
            with real(engine) as connection:
                yield connection

        return guarded

    def _tree(self) -> Callable[..., sqlite3.Connection]:
        real, faults = sqlite3.connect, self

        class Stepping(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                if sql not in ("COMMIT", "ROLLBACK"):
                    return super().execute(sql, *args)
                faults.step(f"before tree's {sql}")
                done = super().execute(sql, *args)
                faults.step(f"after tree's {sql}")
                return done

        def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            return real(*args, **{"factory": Stepping, **kwargs})

        return connect

    def _datetime(self) -> type[datetime]:
        faults = self

        class Simulated(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return faults.utc()

        return Simulated

    def _set_clock(self, connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):  # PostgreSQL's clock is its own
            connection.create_function(
                "julianday", 1, lambda _now: self.now_ms / _DAY_MS + _UNIX_EPOCH
            )

    def _token_bytes(self, size: int | None = None) -> bytes:
        return self._numbers.randbytes(size or 32)

    def _token_hex(self, size: int | None = None) -> str:
        return self._token_bytes(size).hex()


class SimBucket:
    """A bucket behind a network: unreachable, or an answer lost, or an upload broken off."""

    def __init__(self, root: Path, faults: Faults) -> None:
        with faults.paused():
            self.real = LocalObjects(root, clock=faults.utc)
        self.unreachable = False
        self.next_put = ""
        """What happens to the next `put`: ``lost`` its answer, ``partial`` all of it."""
        self._faults = faults

    def put(
        self, name: str, data: bytes | BinaryIO | Path, *, if_generation: int = 0
    ) -> ObjectInfo:
        self._reach(name)
        self._faults.step("before put")
        trouble, self.next_put = self.next_put, ""
        if trouble == "partial":  # an upload is there whole or not at all
            raise ObjectsUnavailable(f"object {name}: broken off")
        with self._faults.paused():
            made = self.real.put(name, data, if_generation=if_generation)
        self._faults.step("after put")
        if trouble == "lost":
            raise ObjectsUnavailable(f"object {name}: no answer")
        return made

    def get(self, name: str, limit: int) -> bytes:
        self._reach(name)
        return self.real.get(name, limit)

    def open(self, name: str) -> Any:
        self._reach(name)
        return self.real.open(name)

    def stat(self, name: str) -> ObjectInfo | None:
        self._reach(name)
        return self.real.stat(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._reach(prefix)
        return self.real.list(prefix)

    def delete(self, name: str, *, if_generation: int) -> None:
        self._reach(name)
        self._faults.step("before delete")
        with self._faults.paused():
            self.real.delete(name, if_generation=if_generation)
        self._faults.step("after delete")

    def retain(self, name: str, until: datetime) -> ObjectInfo:
        self._reach(name)
        with self._faults.paused():
            return self.real.retain(name, until)

    def hold(self, name: str, on: bool) -> ObjectInfo:
        self._reach(name)
        with self._faults.paused():
            return self.real.hold(name, on)

    def _reach(self, name: str) -> None:
        if self.unreachable:
            raise ObjectsUnavailable(f"object {name}: unreachable")
