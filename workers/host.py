"""The release host: one operating-system process per region and release that is wanted.

It reads what is wanted from each region's database, and reports what it sees there. Nothing that
it starts outlives it: the kernel kills a release process when the host is gone, and the next host
kills what is left by its mark before it starts anything.
"""

import asyncio
import contextlib
import logging
import signal
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from models.addresses import RegionAddresses
from models.supervision import RestartPolicy
from stores.files import file_lock, write_atomic
from stores.processes import ProcessStore, ReleaseProcess
from stores.sql import StoreUnavailable, create_all, open_engine
from stores.unpack import remove_unpacked
from workers.host_process import Seen, Site, Supervisor
from workers.host_system import PortBook, kill_leftovers
from workers.primary import require_primary
from workers.release_store import open_releases
from workers.settings import known_regions, load_region, primary_pointer

POLL_S = 0.1

log = logging.getLogger("chainring.host")


def run_host(regions: list[str]) -> int:
    """Supervise the release processes of ``regions`` (all known ones when empty) until SIGTERM.

    Returns:
        0 after an orderly stop, 1 when another host has one of the regions, 2 without any region.

    Raises:
        SettingsError: a region's addresses are missing or wrong.
    """
    addresses = [load_region(region) for region in dict.fromkeys(regions or known_regions())]
    if not addresses:
        log.error("no region is set up (`chainring up`)")
        return 2
    with contextlib.ExitStack() as locks:
        for each in addresses:
            try:
                locks.enter_context(file_lock(each.workdir / "host.lock", wait=False))
            except BlockingIOError:
                log.error("region %s has a release host already", each.region)
                return 1
        for each in addresses:
            require_primary(each)
        asyncio.run(_host(addresses))
    return 0


async def _host(addresses: list[RegionAddresses]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    ports = PortBook()
    hosts = [_RegionHost(each, ports, stopping) for each in addresses]
    log.info("release host ready: %s", ", ".join(each.region for each in addresses))
    async with asyncio.TaskGroup() as tasks:
        for host in hosts:
            tasks.create_task(host.run())
    log.info("release host stopped")


class _RegionHost:
    """Brings the processes of one region in line with its table."""

    def __init__(
        self, addresses: RegionAddresses, ports: PortBook, stopping: asyncio.Event
    ) -> None:
        self._region = addresses.region
        self._reported: dict[str, tuple[int, Seen]] = {}
        self._open(addresses.database)
        self._stopping = stopping
        self._changed = asyncio.Event()
        self._supervisors: dict[str, Supervisor] = {}
        self._site = Site(
            region=addresses.region,
            host_id=_host_id(addresses.workdir),
            layout=open_releases(addresses),
            workdir=addresses.workdir.resolve(),
            ports=ports,
            policy=RestartPolicy(),
        )
        self._trouble = ""

    async def run(self) -> None:
        """Until ``stopping`` is set; then every process is stopped."""
        killed = await asyncio.to_thread(kill_leftovers, self._site.host_id)
        if killed:
            log.warning("%s: killed what an earlier host left: %s", self._region, killed)
        while not self._stopping.is_set():
            await self._guarded(self._round)
            self._changed.clear()
            await self._nap()
        for supervisor in self._supervisors.values():
            supervisor.stop()
        await asyncio.gather(*(each.wait() for each in self._supervisors.values()))
        await self._guarded(self._flush)

    def _open(self, database: str) -> None:
        """Work on this database from now on, and report to it all that there is to report."""
        self._database = database
        self._engine = open_engine(database)
        self._store = ProcessStore(self._engine)
        self._reported.clear()
        self._ready = False

    async def _round(self) -> None:
        primary = primary_pointer(self._region).read()
        if primary is not None and primary.database != self._database:
            # Another store took over. The processes go on: tenants of other regions, and of this
            # one, shall not wait for a restart that changes nothing about them.
            self._engine.dispose()
            self._open(primary.database)
        if not self._ready:
            await asyncio.to_thread(create_all, self._engine)
            self._ready = True
        for row in await asyncio.to_thread(self._store.live):
            await self._align(row)
        await self._flush()

    async def _align(self, row: ReleaseProcess) -> None:
        supervisor = self._supervisors.get(row.release)
        if supervisor is not None and (
            row.desired == "stopped" or row.attempt != supervisor.attempt
        ):
            supervisor.stop()
            if not supervisor.finished:
                return
            del self._supervisors[row.release]
            self._reported.pop(row.release, None)
            supervisor = None
        if supervisor is not None:
            return
        if row.desired == "stopped":
            await asyncio.to_thread(
                self._store.report, row.release, row.attempt, state="stopped", pid=None
            )
            await asyncio.to_thread(remove_unpacked, self._site.workdir, row.release)
        elif row.state != "failed":
            self._supervisors[row.release] = Supervisor(row, self._site, self._changed.set)

    async def _flush(self) -> None:
        """Write down what changed since it was last written."""
        for release, supervisor in self._supervisors.items():
            current = (supervisor.attempt, supervisor.seen)
            if self._reported.get(release) == current:
                continue
            attempt, seen = current
            await asyncio.to_thread(self._store.report, release, attempt, **seen.values())
            self._reported[release] = current
            if seen.state == "stopped" and not self._stopping.is_set():
                await asyncio.to_thread(remove_unpacked, self._site.workdir, release)

    async def _nap(self) -> None:
        """Until the next round is due, sooner when a process changed or the host is to stop."""
        stop = asyncio.create_task(self._stopping.wait())
        change = asyncio.create_task(self._changed.wait())
        await asyncio.wait({stop, change}, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        change.cancel()

    async def _guarded(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Trouble with a database stops no process: what runs goes on, the host tries again.

        Nor does a fault here stop the other regions of this host, so every error ends here.
        """
        try:
            await step()
        except Exception as error:
            if str(error) != self._trouble:
                log.warning("%s: %s", self._region, error, exc_info=not _is_expected(error))
            self._trouble = str(error)
            await asyncio.sleep(POLL_S)
        else:
            self._trouble = ""


def _is_expected(error: Exception) -> bool:
    return isinstance(error, StoreUnavailable | OSError)


def _host_id(workdir: Path) -> str:
    """The random mark of this region's processes, made once and kept."""
    path = workdir / "host.id"
    try:
        return path.read_text()
    except FileNotFoundError:
        write_atomic(path, uuid.uuid4().hex.encode())
        return path.read_text()
