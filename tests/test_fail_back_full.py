"""Failing back while the buffer is at its bound: what it refused is not there, the rest all is."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from sim_world import REGION, World
from test_bucket_away import restored
from test_recovery_metrics import figures

from gateway.envoy import tenant_host
from gateway.kv_api import kv_application
from gateway.serve import _limits
from models.recovery import Drained, DrainStore, FailOverRequest
from stores.ledger import Ledger
from stores.pointer import PrimaryEngine
from stores.primary import SPOOL
from stores.spool import SpoolOwned
from stores.spool_files import open_spool
from stores.sql import open_engine
from workers.settings import primary_pointer

DRAIN = DrainStore(actor="ana", reason="disk lost", workflow="failover/1", rebuilt=True)
WRITERS = 8
BOUNDS = {
    "requests": ("buffer_max_requests = 40", 100),
    "bytes": ("buffer_max_memory_mb = 1", 50_000),
}
"""What the configuration says, and how long the written values are."""


@pytest.fixture(params=BOUNDS)
def bound(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(tmp_path: Path, bound: str) -> Iterator[World]:
    made = World(tmp_path, 1, lambda name: f"sqlite:///{tmp_path}/{name}.db")
    made.addresses.config.write_text(f"[failover]\n{BOUNDS[bound][0]}\n")
    with made.running():
        made.backup.round()
        yield made


@pytest.fixture
async def api(world: World) -> AsyncIterator[TestClient]:
    """The region's gateway, with the bounds that the configuration sets."""
    engine = PrimaryEngine(world.first, primary_pointer(REGION))
    limits = _limits(world.addresses)
    app = kv_application(engine, REGION, recovery=world.path, limits=limits)
    async with TestClient(TestServer(app)) as client:
        yield client


class Tenants:
    """Clients that write keys of their own, and remember what they were told."""

    def __init__(self, api: TestClient, size: int) -> None:
        self.told: dict[str, bytes] = {}
        self.refused: set[str] = set()
        self._api, self._size = api, size

    async def write(self, writer: int, *, until_refused: int) -> None:
        """Until so many writes were refused for want of room."""
        number = left = 0
        while left < until_refused:
            key = f"w{writer}/{number}"
            left += not await self.put(key)
            number += 1

    async def put(self, key: str) -> bool:
        """Whether it is acknowledged; a refusal must say that the buffer is full, and when."""
        value = key.encode().ljust(self._size, b".")
        host = {"Host": tenant_host("acme", REGION)}
        answer = await self._api.put(f"/_kv/{key}", data=value, headers=host)
        if answer.status == 200:
            self.told[key] = value
            return True
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert (await answer.json())["error"] == "buffer_full"
        self.refused.add(key)
        return False


async def drained(world: World) -> Drained:
    """The drain, tried again until the gateway has let go of the buffer, as Temporal does."""
    while True:
        try:
            found = await asyncio.to_thread(world.activity, "drain_buffer", DRAIN)
        except SpoolOwned:
            await asyncio.sleep(0.02)
        else:
            assert isinstance(found, Drained)
            return found


async def test_a_full_buffer_refuses_and_is_drained_whole(
    world: World, bound: str, api: TestClient
) -> None:
    tenants = Tenants(api, BOUNDS[bound][1])
    assert await tenants.put("before")
    await asyncio.to_thread(world.backup.round)
    asked = FailOverRequest(actor="ana", reason="disk lost")
    await asyncio.to_thread(world.activity, "degrade_region", asked)
    await asyncio.gather(*(tenants.write(each, until_refused=3) for each in range(WRITERS)))
    assert len(tenants.refused) == 3 * WRITERS
    buffered = len(tenants.told) - 1
    metrics = await figures(api)
    assert metrics["chainring_buffer_records",] == buffered > 15
    assert metrics["chainring_buffer_fill_ratio",] > 0.9
    assert bound == "bytes" or buffered == 40
    await asyncio.to_thread(restored, world, "b" * 32)
    assert not await tenants.put("while it is full still")

    said = await drained(world)

    assert said.acknowledged == said.applied == buffered == said.proof.drained.count
    assert (said.pending, said.proof.pending.count, said.conflicts) == (0, 0, 0)
    assert said.proof.drained == said.proof.acknowledged
    engine = open_engine(world.primary().database)
    receipt = Ledger(engine, REGION).latest(kind="region.drained", subject=REGION)
    engine.dispose()
    assert receipt is not None
    assert receipt.receipt.body["proof"] == said.proof.model_dump(mode="json")
    found = world.documents(world.primary().database)
    assert {doc[2]: value for doc, value in found.items() if doc[0] == "kv"} == tenants.told
    left = open_spool(world.path / SPOOL)
    assert left is not None and not left.records
    assert await tenants.put("there is room again")
    assert (await figures(api))["chainring_region_mode", "normal"] == 1
