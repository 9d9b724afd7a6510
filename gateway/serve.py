"""The request path's own process: a KV API per region, and routes kept up to date."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager

from aiohttp import web
from sqlalchemy import Engine

from gateway.bootstrap import LOOPBACK
from gateway.kv_api import kv_application
from gateway.publisher import RoutePublisher
from gateway.route_watch import watch_routes
from models.addresses import RegionAddresses
from models.config import load_config
from stores.ledger import Ledger
from stores.pointer import PointerError, PrimaryEngine, PrimaryPointer
from stores.primary import PrimaryDamaged, PrimaryFile
from stores.shards import ShardStore
from stores.spool import SpoolLimits
from stores.sql import StoreUnavailable, create_all

DRAIN_SECONDS = 10.0
_SETTLE_SECONDS = 0.05

_log = logging.getLogger(__name__)


_Pointers = Callable[[str], PrimaryPointer]


def run_gateway(regions: Sequence[RegionAddresses], pointers: _Pointers | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then finish the requests that are under way.

    Args:
        pointers: where it is said which store is a region's primary; without it, the one that the
            addresses name is, for ever.

    Each API answers ``/healthz`` on its port. Returns the process's exit code: 1, after a message
    in the log, when a port is taken, or when a database does not answer at the start although its
    region is in normal mode.
    """
    try:
        primaries = [
            PrimaryEngine(each.database, None if pointers is None else pointers(each.region))
            for each in regions
        ]
        asyncio.run(_serve(list(zip(regions, primaries, strict=True))))
    except (OSError, StoreUnavailable, PrimaryDamaged, PointerError) as error:
        _log.error("gateway: %s", error)
        return 1
    return 0


async def _serve(regions: Sequence[tuple[RegionAddresses, PrimaryEngine]]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as running:
        for region, primary in regions:
            runner, listener = await _start(region, primary)
            running.push_async_callback(stop_serving, runner, listener)
            running.enter_context(_watching(region, primary))
            _log.info("gateway: %s serves state on port %d", region.region, region.gateway.kv_port)
        await stopping.wait()


@contextmanager
def _watching(region: RegionAddresses, primary: PrimaryEngine) -> Iterator[None]:
    found: dict[Engine, ShardStore] = {}

    def shards() -> ShardStore:
        engine = primary()
        if engine not in found:
            found.clear()
            found[engine] = ShardStore(engine, Ledger(engine, region.region), region.region)
        return found[engine]

    publisher = RoutePublisher(region.gateway, region.region)
    task = asyncio.create_task(watch_routes(shards, publisher, region.region))
    try:
        yield
    finally:
        task.cancel()


async def _start(
    region: RegionAddresses, primary: PrimaryEngine
) -> tuple[web.AppRunner, socket.socket]:
    if _normal(region):
        await asyncio.to_thread(create_all, primary())
    application = kv_application(
        primary, region.region, recovery=region.recovery, limits=_limits(region)
    )
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=DRAIN_SECONDS)
    await runner.setup()
    listener = socket.create_server((LOOPBACK, region.gateway.kv_port))
    await web.SockSite(runner, listener).start()
    return runner, listener


def _limits(region: RegionAddresses) -> SpoolLimits:
    """What the buffer takes, by the configuration."""
    failover = load_config(region.config.read_text()).failover
    return SpoolLimits(failover.buffer_max_requests, failover.buffer_max_memory_mb * 1_000_000)


def _normal(region: RegionAddresses) -> bool:
    """Whether the region's primary is there to serve."""
    if region.recovery is None:
        return True
    return PrimaryFile(region.recovery, region.region).read().mode == "normal"


async def stop_serving(runner: web.AppRunner, listener: socket.socket) -> None:
    """Accept no more, and end when every request that is under way has its answer.

    The listener is open for a moment longer, and accepts nothing: a connection that was accepted
    last and then meets a closed server, or is shut down before it waits for its request, would
    hold that unanswered for all of ``DRAIN_SECONDS``.
    """
    asyncio.get_running_loop().remove_reader(listener)
    await asyncio.sleep(_SETTLE_SECONDS)
    await runner.cleanup()
