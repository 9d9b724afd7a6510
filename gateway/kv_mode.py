"""What serves a region's tenants now: its primary, or the buffer while that is down.

The mode comes from `stores.primary` and may change while requests are under way: each request
is served as a whole by what was in force when it came. A buffer that takes writes is closed, with
all its acknowledged records on disk, before what follows it comes into force.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Engine

from models.primary import Primary
from models.spool import SpoolDamaged
from stores.buffered_kv import Base, Buffer, BufferedKV
from stores.kv import KvPage, KvValue, TenantKV
from stores.pointer import PointerError
from stores.primary import SPOOL, PrimaryDamaged, PrimaryFile, PrimaryWatch
from stores.spool import Spool, SpoolError, SpoolLimits, SpoolUnavailable
from stores.spool_files import read_spool
from stores.sql import engine_for

_WRITERS = 32
"""Threads that wait for the buffer's disk; those that wait at once share a flush."""
_ASKERS = min(32, (os.cpu_count() or 1) + 4)
"""Threads that ask a region's store: those that one which hangs takes with it are its own, and what
brings another mode into force has a thread for itself."""
_RETRY_SECONDS = 1.0
_POLL_SECONDS = 0.2

_UNSERVABLE = (PrimaryDamaged, PointerError, SpoolDamaged, SpoolError, OSError, ValueError)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class TenantKeys(Protocol):
    """What both `TenantKV` and `BufferedKV` do."""

    def get(self, key: str) -> KvValue | None:
        """The value, or None."""

    def put(self, key: str, value: bytes, *, expected_version: int | None = None) -> int:
        """Write; the version."""

    def delete(self, key: str, *, expected_version: int | None = None) -> bool:
        """Remove; whether it was there."""

    def list(self, prefix: str = "", *, after: str | None = None, limit: int = 100) -> KvPage:
        """Keys page by page."""


class ModeUnavailable(Exception):
    """The region's mode cannot be served now; the message says why. Nothing was changed."""


@dataclass(frozen=True)
class Serving:
    """What is in force. ``buffer`` is None in normal mode."""

    primary: Primary
    engine: Engine
    buffer: Buffer | None

    def keys(self, tenant: str, quota_bytes: int | None) -> TenantKeys:
        """The tenant's keys; raises `KvError` for what is no tenant id."""
        if self.buffer is not None:
            return BufferedKV(self.buffer, tenant)
        return TenantKV(self.engine, tenant, quota_bytes=quota_bytes)

    def headers(self) -> dict[str, str]:
        """What tells a client that an answer is of a degraded region, and how old it may be."""
        if self.buffer is None:
            return {}
        age = self.buffer.age
        return {
            "X-Chainring-Mode": "degraded",
            "Warning": '110 - "Response is Stale"',
            **({} if age is None else {"Age": str(age)}),
        }


@dataclass
class RegionMode:
    """Follows a region's mode.

    Args:
        engine: of the region's primary, whichever that is when it is asked for.
        directory: of the primary's file and the spool; None: the region is always normal.
    """

    engine: Callable[[], Engine]
    region: str
    directory: Path | None
    limits: SpoolLimits = field(default_factory=SpoolLimits)

    def __post_init__(self) -> None:
        self._serving: Serving | None = None
        self._changing = asyncio.Lock()
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="buffer")
        self._askers = ThreadPoolExecutor(_ASKERS, thread_name_prefix="store")
        self._changer = ThreadPoolExecutor(1, thread_name_prefix="mode")
        self._refused: tuple[float, str] = (0.0, "")
        if self.directory is None:
            normal = Primary(region=self.region, epoch=0, mode="normal")
            self._serving = Serving(normal, self.engine(), None)
        else:
            self._watch = PrimaryWatch(PrimaryFile(self.directory, self.region))

    async def serving(self) -> Serving:
        """What serves a request that comes now.

        Raises:
            ModeUnavailable: the mode's file or the spool is damaged, or the spool is another's.
        """
        found = self._serving
        # Who makes a change may have seen the file meanwhile, which then looks as it was seen.
        if found is None or self._changed(found) or self._serving is not found:
            async with self._changing:
                found = self._serving  # another request may have waited for the change already
                if found is None or self._changed(found):
                    loop = asyncio.get_running_loop()
                    found = await loop.run_in_executor(self._changer, self._change)
        return found

    def _changed(self, found: Serving) -> bool:
        """Whether the mode, or the store that serves in normal mode, is another one by now."""
        if self.directory is None:
            return False
        if self._watch.changed():
            return True
        try:
            return found.buffer is None and found.engine is not self.engine()
        except PointerError:
            return True

    async def call(self, serving: Serving, work: Callable[[], _T]) -> _T:
        """Run blocking work on keys of ``serving``."""
        pool = self._askers if serving.buffer is None else self._pool
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def follow(self) -> None:
        """Bring each change into force also while no request comes, until cancelled.

        Who drains the buffer waits for this process to let go of it.
        """
        while True:
            with suppress(ModeUnavailable):  # is logged, and answered to requests
                await self.serving()
            await asyncio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        """End when all that was submitted is on disk."""
        await asyncio.to_thread(self._pool.shutdown)
        self._askers.shutdown(wait=False)
        self._changer.shutdown(wait=False)
        if self._serving is not None and self._serving.buffer is not None:
            await asyncio.to_thread(self._serving.buffer.close)

    def _change(self) -> Serving:
        assert self.directory is not None
        until, why = self._refused
        if time.monotonic() < until:
            raise ModeUnavailable(why)
        before, self._serving = self._serving, None
        try:
            wanted = self._watch.newest()
            same = before is not None and before.primary == wanted
            if before is not None and same and before.engine is self.engine():
                self._serving = before  # only a stale epoch was written: it is ignored
                return before
            buffer = None if before is None else before.buffer
            if buffer is not None:
                buffer.close()
            self._serving = found = self._open(wanted, self.directory / SPOOL, buffer)
        except _UNSERVABLE as error:
            if before is not None and before.buffer is not None:
                before.buffer.close()
            self._refused = (time.monotonic() + _RETRY_SECONDS, str(error))
            _log.error("kv: region %s cannot be served: %s", self.region, error)
            raise ModeUnavailable(str(error)) from error
        _log.info("kv: region %s is %s by epoch %d", self.region, wanted.mode, wanted.epoch)
        return found

    def _open(self, wanted: Primary, spool: Path, closed: Buffer | None) -> Serving:
        """Bring ``wanted`` into force; ``closed`` is the buffer that was, if there was one."""
        engine = self.engine()
        if wanted.mode == "normal":
            left = read_spool(spool)
            if left is not None and left.records:
                raise SpoolUnavailable(
                    f"{len(left.records)} acknowledged writes are not drained; drain them first"
                )
            return Serving(wanted, engine, None)
        if wanted.mode == "buffered":
            owned = Spool(spool, epoch=wanted.epoch, limits=self.limits)
            try:
                return Serving(wanted, engine, Buffer(owned, _base(wanted)))
            except BaseException:
                owned.close()
                raise
        if closed is not None:
            return Serving(wanted, engine, closed)  # who drains may clear the spool at any moment
        kept = read_spool(spool)
        records = [] if kept is None else kept.records
        return Serving(wanted, engine, Buffer(None, _base(wanted), records=records))


def _base(primary: Primary) -> Base | None:
    if primary.snapshot is None or primary.snapshot_at is None:
        return None
    return Base(partial(TenantKV, engine_for(primary.snapshot)), primary.snapshot_at.timestamp())
