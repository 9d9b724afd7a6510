"""The KV API in every mode, and changes of the mode under load: what is acknowledged is kept."""

import asyncio
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from aiohttp.test_utils import TestClient, TestServer
from gateway_harness import REGION, free_address
from sqlalchemy import Engine

from gateway.envoy import tenant_host
from gateway.kv_api import kv_application
from gateway.kv_mode import _ASKERS, RegionMode
from models.addresses import RegionAddresses
from models.primary import Primary
from stores.drain import drain_and_clear
from stores.kv import TenantKV
from stores.pointer import Pointer, PrimaryEngine, PrimaryPointer
from stores.primary import SPOOL, PrimaryFile
from stores.spool import Spool, SpoolLimits, SpoolOwned
from stores.spool_files import open_spool
from stores.sql import create_all, open_engine

HOST = {"Host": tenant_host("a", REGION)}


class Region:
    """A region's database, the snapshot that is read while it is down, and its mode."""

    def __init__(self, directory: Path) -> None:
        self.url = f"sqlite:///{directory}/eu.db"
        self.snapshot = f"sqlite:///{directory}/snapshot.db"
        self.directory = directory / "recovery"
        self.file = PrimaryFile(self.directory, REGION)
        self.engine = self._made(self.url)
        self.base = TenantKV(self._made(self.snapshot), "a")
        self.live = TenantKV(self.engine, "a")

    def _made(self, url: str) -> Engine:
        engine = open_engine(url)
        create_all(engine)
        return engine

    def switch(self, mode: str, **more: object) -> int:
        epoch = self.file.read().epoch + 1
        old = {
            "snapshot": self.snapshot,
            "snapshot_at": datetime.now(UTC) - timedelta(seconds=90),
        }
        state = {"region": REGION, "epoch": epoch, "mode": mode, **old, **more}
        self.file.switch(Primary.model_validate(state))
        return epoch

    async def fail_back(self, *, rebuilt: bool = False) -> int:
        """Seal, drain, clear, switch to normal; how many writes were drained."""
        epoch = self.switch("draining")
        spool = await asyncio.to_thread(self.owned, epoch)
        report = await asyncio.to_thread(
            lambda: drain_and_clear(self.engine, spool, rebuilt=rebuilt)
        )
        assert report.conflicts == 0, report.first_conflicts
        spool.close()
        self.switch("normal")
        return report.drained.count

    def owned(self, epoch: int) -> Spool:
        deadline = time.monotonic() + 10
        while True:
            try:
                return Spool(self.directory / SPOOL, epoch=epoch)
            except SpoolOwned:
                assert time.monotonic() < deadline
                time.sleep(0.01)


@pytest.fixture
def region(tmp_path: Path) -> Region:
    return Region(tmp_path)


def application(region: Region, **more):
    return kv_application(lambda: region.engine, REGION, recovery=region.directory, **more)


@pytest.fixture
async def api(region: Region) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(application(region))) as client:
        yield client


async def text(response) -> tuple[int, bytes]:
    return response.status, await response.read()


async def test_a_normal_region_says_nothing_of_modes(api: TestClient, region: Region):
    answer = await api.put("/_kv/k", data=b"v", headers=HOST)
    assert answer.status == 200 and "X-Chainring-Mode" not in answer.headers
    assert region.live.get("k").value == b"v"
    assert (await (await api.get("/healthz")).json()) == {"status": "ok", "region": REGION}


async def test_a_buffered_region_answers_and_says_how_old_it_is(api: TestClient, region: Region):
    region.base.put("old", b"of the snapshot")
    region.switch("buffered")
    written = await api.put("/_kv/k", data=b"v", headers=HOST)
    answers = [
        written,
        await api.get("/_kv/old", headers=HOST),
        await api.get("/_kv/none", headers=HOST),
        await api.get("/_kv", headers=HOST),
        await api.put("/_kv/k", data=b"", headers={**HOST, "If-Match": '"1"'}),
        await api.delete("/_kv/old", headers=HOST),
    ]
    assert [each.status for each in answers] == [200, 200, 404, 200, 412, 204]
    for each in answers:
        assert each.headers["X-Chainring-Mode"] == "degraded"
        assert 90 <= int(each.headers["Age"]) < 100
        assert each.headers["Warning"].startswith("110 ")
    assert answers[4].headers["ETag"] == written.headers["ETag"]
    assert await answers[1].read() == b"of the snapshot"
    assert [key["key"] for key in (await answers[3].json())["keys"]] == ["k", "old"]
    assert region.live.get("k") is None
    health = await (await api.get("/healthz")).json()
    assert health["status"] == "degraded" and health["mode"] == "buffered"
    assert 0 < health["fill"] < 0.01


async def test_an_etag_of_the_outage_is_good_after_it(api: TestClient, region: Region):
    region.live.put("k", b"before")
    region.base.put("k", b"before")
    region.switch("buffered")
    tag = (await api.put("/_kv/k", data=b"during", headers=HOST)).headers["ETag"]
    assert await region.fail_back() == 1
    found = await api.get("/_kv/k", headers=HOST)
    assert (await found.read(), found.headers["ETag"]) == (b"during", tag)
    assert "X-Chainring-Mode" not in found.headers
    after = await api.put("/_kv/k", data=b"after", headers={**HOST, "If-Match": tag})
    assert after.status == 200
    again = await api.put("/_kv/k", data=b"no", headers={**HOST, "If-Match": tag})
    assert again.status == 412


async def test_a_full_buffer_is_503_until_it_is_drained(region: Region):
    app = application(region, limits=SpoolLimits(records=3))
    async with TestClient(TestServer(app)) as api:
        region.switch("buffered")
        statuses = [(await api.put(f"/_kv/{n}", data=b"v", headers=HOST)).status for n in range(5)]
        assert statuses == [200, 200, 200, 503, 503]
        full = await api.delete("/_kv/1", headers=HOST)
        assert (full.status, full.headers["Retry-After"]) == (503, "5")
        assert (await full.json())["error"] == "buffer_full"
        assert (await api.get("/_kv/1", headers=HOST)).status == 200
        assert (await (await api.get("/healthz")).json())["fill"] == 1.0
        assert await region.fail_back() == 3
        assert (await api.put("/_kv/4", data=b"v", headers=HOST)).status == 200


async def test_while_it_is_drained_a_region_is_read_and_not_written(
    api: TestClient, region: Region
):
    region.switch("buffered")
    await api.put("/_kv/k", data=b"v", headers=HOST)
    region.switch("draining")
    assert await text(await api.get("/_kv/k", headers=HOST)) == (200, b"v")
    refused = await api.put("/_kv/k", data=b"w", headers=HOST)
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    async with TestClient(TestServer(application(region))) as another:  # as after a restart
        assert await text(await another.get("/_kv/k", headers=HOST)) == (200, b"v")
        refused = await another.put("/_kv/k", data=b"w", headers=HOST)
        assert refused.status == 503


async def test_a_region_is_not_normal_while_acknowledged_writes_are_not_drained(
    api: TestClient, region: Region
):
    region.switch("buffered")
    await api.put("/_kv/k", data=b"v", headers=HOST)
    region.switch("normal")
    for _ in range(2):
        refused = await api.get("/_kv/k", headers=HOST)
        assert (refused.status, (await refused.json())["error"]) == (503, "mode")
    region.switch("buffered")
    await asyncio.sleep(1.1)
    assert await text(await api.get("/_kv/k", headers=HOST)) == (200, b"v")


async def test_a_lower_epoch_or_a_lost_file_changes_nothing(api: TestClient, region: Region):
    region.switch("buffered")
    await api.put("/_kv/k", data=b"v", headers=HOST)
    region.file.path.write_text(Primary(region=REGION, epoch=0, mode="normal").model_dump_json())
    assert await text(await api.get("/_kv/k", headers=HOST)) == (200, b"v")
    region.file.path.unlink()
    assert (await api.put("/_kv/k", data=b"w", headers=HOST)).status == 200
    assert region.live.get("k") is None


async def test_a_request_that_looks_while_a_change_is_made_is_served_by_it(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    """The file looks as it was seen, by the thread that brings the change into force just now."""
    mode = RegionMode(lambda: region.engine, REGION, region.directory)
    assert (await mode.serving()).buffer is None
    region.switch("buffered")

    def changed() -> bool:
        monkeypatch.undo()
        mode._change()
        return False

    monkeypatch.setattr(mode._watch, "changed", changed)
    assert (await mode.serving()).primary.mode == "buffered"
    await mode.close()


async def test_a_damaged_spool_or_file_is_503_and_never_served_around(
    api: TestClient, region: Region
):
    region.switch("buffered")
    await api.put("/_kv/k", data=b"v", headers=HOST)
    region.file.path.write_text("{")
    assert (await api.get("/_kv/k", headers=HOST)).status == 503
    region.file.path.unlink()
    path = next((region.directory / SPOOL).glob("*.spool"))
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    region.switch("buffered")
    await asyncio.sleep(1.1)
    assert (await api.put("/_kv/k", data=b"w", headers=HOST)).status == 503
    assert path.read_bytes() == bytes(changed)


async def test_no_acknowledged_write_is_lost_over_outages_under_load(
    api: TestClient, region: Region
):
    """Clients write without a pause while the mode goes round twice."""
    stop = asyncio.Event()
    acknowledged: dict[str, int] = {}
    attempted: dict[str, int] = {}
    counts = {200: 0, 503: 0}

    async def client(number: int) -> None:
        key, turn = f"client/{number}", 0
        while not stop.is_set():
            turn += 1
            attempted[key] = turn
            answer = await api.put(f"/_kv/{key}", data=str(turn).encode(), headers=HOST)
            counts[answer.status] += 1
            if answer.status == 200:
                acknowledged[key] = turn
                found = await api.get(f"/_kv/{key}", headers=HOST)
                fell_back = "Age" in found.headers and "Age" not in answer.headers
                if found.status == 200 and not fell_back:  # else the snapshot may be behind
                    assert int(await found.read()) == turn

    clients = [asyncio.create_task(client(number)) for number in range(12)]
    drained = 0
    for _ in range(2):
        await asyncio.sleep(0.3)
        copy_state(region)
        region.switch("buffered")
        await asyncio.sleep(0.5)
        drained += await region.fail_back(rebuilt=True)  # the snapshot was behind
    await asyncio.sleep(0.3)
    stop.set()
    await asyncio.gather(*clients)

    assert drained > 50 and counts[200] > drained and len(acknowledged) == 12
    for key, turn in acknowledged.items():
        found = int(region.live.get(key).value)
        assert turn <= found <= attempted[key]
    left = open_spool(region.directory / SPOOL)
    assert left is not None and not left.records and left.proof().drained.count == drained


def copy_state(region: Region) -> None:
    """The snapshot, as good as one can be while clients write: some of it will be behind."""
    import sqlite3

    source = sqlite3.connect(region.engine.url.database)
    target = sqlite3.connect(region.snapshot.removeprefix("sqlite:///"))
    source.backup(target)
    source.close()
    target.close()


def test_a_gateway_that_is_killed_in_an_outage_comes_back_with_all_it_acknowledged(
    tmp_path: Path, region: Region
):
    """A real process, killed with -9 under load, whose primary's disk is gone."""
    address = free_address(tmp_path / "envoy")
    (tmp_path / "fleet.toml").write_text("")
    addresses = RegionAddresses(
        region=REGION,
        temporal={"address": "unused:1", "namespace": REGION, "task_queue": "unused"},
        worker={"health_port": 0, "metrics_port": 0},
        database=f"sqlite:///{tmp_path}/gone/eu.db",
        signing_key=tmp_path / "unused.pem",
        config=tmp_path / "fleet.toml",
        releases=tmp_path / "unused",
        workdir=tmp_path / "unused",
        gateway=address,
        recovery=region.directory,
    )
    (tmp_path / "gone" / "eu.db").mkdir(parents=True)  # no file: it cannot be opened
    region.base.put("old", b"of the snapshot")
    region.switch("buffered")
    told: dict[str, bytes] = {}
    rng = random.Random(5)
    for turn in range(3):
        process = gateway_process(addresses)
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{address.kv_port}", headers=HOST, timeout=10
            ) as client:
                wait_for(partial(answers, client, process))
                for key, value in told.items():
                    assert client.get(f"/_kv/{key}").content == value
                assert client.get("/_kv/old").content == b"of the snapshot"
                kill_at = time.monotonic() + rng.uniform(0.1, 0.4)
                number = 0
                with suppress(httpx.TransportError):
                    while True:
                        if time.monotonic() > kill_at:
                            process.send_signal(signal.SIGKILL)
                        key = f"k{turn}-{number}"
                        if client.put(f"/_kv/{key}", content=key.encode()).status_code == 200:
                            told[key] = key.encode()
                        number += 1
        finally:
            process.kill()
            process.wait()
    spool = Spool(region.directory / SPOOL, epoch=9)
    report = drain_and_clear(region.engine, spool, rebuilt=True)
    spool.close()
    assert report.conflicts == 0 and report.applied >= len(told) > 20
    for key, value in told.items():
        assert region.live.get(key).value == value


def gateway_process(addresses: RegionAddresses) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from gateway.serve import run_gateway;"
        "from models.addresses import RegionAddresses;"
        "sys.exit(run_gateway([RegionAddresses.model_validate_json(sys.argv[1])]))"
    )
    return subprocess.Popen([sys.executable, "-c", code, addresses.model_dump_json()])


def answers(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_a_restored_store_is_served_at_once_by_the_process_that_runs(
    tmp_path: Path, region: Region
):
    """A primary whose file was deleted takes no write any more, though the process has it open."""
    pointer = PrimaryPointer(tmp_path / "primary.json")
    primary = PrimaryEngine(region.url, pointer)
    restored = f"sqlite:///{tmp_path}/restored.db"
    create_all(open_engine(restored))
    app = kv_application(primary, REGION, recovery=region.directory)
    async with TestClient(TestServer(app)) as client:
        assert (await client.put("/_kv/k", data=b"first", headers=HOST)).status == 200
        for path in tmp_path.glob("eu.db*"):
            path.unlink()
        assert (await client.put("/_kv/k", data=b"lost", headers=HOST)).status == 503
        pointer.move(Pointer(store="0" * 32, epoch=2, database=restored))
        assert (await client.put("/_kv/k", data=b"second", headers=HOST)).status == 200
        pointer.path.write_text("{")
        assert (await client.get("/_kv/k", headers=HOST)).status == 503
    assert TenantKV(open_engine(restored), "a").get("k").value == b"second"


async def test_a_store_that_hangs_keeps_nobody_from_the_buffer(
    api: TestClient, region: Region, monkeypatch: pytest.MonkeyPatch
):
    """As a stopped PostgreSQL does: requests wait for it, more of them than there are threads."""
    hanging, begun = threading.Event(), []

    def hang(kv: TenantKV, key: str) -> None:
        if kv._engine is region.engine:  # not the snapshot
            begun.append(key)
            hanging.wait()

    monkeypatch.setattr(TenantKV, "get", hang)
    stuck = [asyncio.ensure_future(api.get("/_kv/k", headers=HOST)) for _ in range(40)]
    stuck += [asyncio.ensure_future(api.get("/healthz")) for _ in range(4)]
    try:
        while len(begun) < _ASKERS:
            await asyncio.sleep(0.01)
        region.switch("buffered")
        for number in range(3):
            answer = await api.put(f"/_kv/k{number}", data=b"v", headers=HOST)
            assert answer.status == 200 and answer.headers["X-Chainring-Mode"] == "degraded"
            assert (await api.get(f"/_kv/k{number}", headers=HOST)).status == 200
        assert (await api.get("/_notices", headers=HOST)).status == 200
    finally:
        for each in stuck:
            each.cancel()
        hanging.set()
