"""A recovery process killed at any effect of a failover: another one brings that to its end."""

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_harness import server
from embedded import environment
from postgres import databases_like, fresh_database, lose_database
from temporalio.client import Client

from gateway.kv_mode import ModeUnavailable, RegionMode
from models.receipts import Draft
from models.recovery import FailOverRequest, FailOverStatus
from stores.backup_layout import manifests
from stores.chain_check import check_ledger
from stores.changelog import identity
from stores.changelog import last_seq as last_change
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.pointer import PrimaryEngine, PrimaryPointer
from stores.spool import SpoolError
from stores.sql import StoreUnavailable, open_engine, read
from workers.backup_places import open_objects
from workers.children import die_with_parent
from workers.settings import load_region, region_file
from workers.stack_plan import Options, set_up
from workers.temporal_setup import RECOVERY_QUEUE, ensure

SEED = int(os.environ.get("CHAINRING_FAULT_SEED", "1"))
COUNT = int(os.environ.get("CHAINRING_FAULT_POINTS", "3"))
POINTS = [
    f"{what} {when} {number}"
    for what, number in (
        ("switch", 1),  # into buffered mode
        ("target", 1),
        ("settle", 1),
        ("put:epochs", 1),
        ("receipt", 1),
        ("point", 1),
        ("put:certificates", 1),
        ("put:snapshots", 1),  # of the restored store, before its buffer is drained
        ("put:changelog", 1),
        ("witness", 1),
        ("switch", 2),  # draining
        ("receipt", 2),
        ("clear", 1),
        ("switch", 3),  # normal
    )
    for when in ("before", "after")
]
STORE = os.environ.get("CHAINRING_FAULT_STORE", "sqlite")
"""Or "postgresql"."""
HERE = Path(__file__).parent
TENANT = "acme"

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1800)]


def configured(regions: list[str]) -> str:
    parts = [f"[tenants]\ntotal_tenants = {len(regions)}\nshards = {len(regions)}\n"]
    parts += [
        f'[regions.{each}]\nname = "{each}"\ncatalog_shard = {n}\nreceipt_partition = {n}\n'
        for n, each in enumerate(regions, start=1)
    ]
    return "\n".join(parts)


class Region:
    """A region whose gateway is this process, and whose recovery process dies once."""

    def __init__(self, name: str, point: str) -> None:
        self.addresses = load_region(name)
        self.name, self.point = name, point
        self.place = region_file(name).parent
        self.told: dict[str, bytes] = {}
        self.turn = asyncio.Lock()
        self.pointer = PrimaryPointer(self.place / "primary.json")
        engine = PrimaryEngine(self.addresses.database, self.pointer)
        self.mode = RegionMode(engine, name, self.addresses.recovery)

    @contextlib.contextmanager
    def process(self) -> Iterator["subprocess.Popen[bytes]"]:
        home = self.place.parent.parent
        with (self.place / "recovery.log").open("ab") as log:
            found = subprocess.Popen(
                [sys.executable, str(HERE / "recovery_process.py"), self.name, self.point],
                env=environment(home) | {"PYTHONPATH": f"{HERE.parent}:{HERE}"},
                stderr=log,
                preexec_fn=die_with_parent,
            )
        try:
            yield found
        finally:
            found.kill()
            found.wait()

    async def write(self, until: asyncio.Event) -> None:
        """What a tenant writes; an error is no acknowledgement."""
        number = 0
        while not until.is_set():
            key, number = f"k{number}", number + 1
            async with self.turn:
                await self._put(key)
            await asyncio.sleep(0.05)

    async def _put(self, key: str) -> None:
        with contextlib.suppress(ModeUnavailable, StoreUnavailable, SpoolError):
            serving = await self.mode.serving()
            keys = serving.keys(TENANT, None)
            await self.mode.call(serving, lambda k=key, on=keys: on.put(k, k.encode()))
            self.told[key] = key.encode()

    def lose(self) -> None:
        """Its store is gone for good."""
        if STORE == "postgresql":
            lose_database(self.addresses.database)
        for path in self.place.glob("region.db*"):
            path.unlink()

    def stores(self) -> set[str]:
        """The names of the databases of the region that there are."""
        if STORE == "postgresql":
            return databases_like(self.addresses.database)
        return {each.name for each in self.place.glob("region*.db")}

    def backed_up(self) -> bool:
        """Whether its head is witnessed, and a snapshot is there that the changes follow."""
        backup = self.addresses.backup
        assert backup is not None
        engine = open_engine(self.addresses.database)
        try:
            with read(engine) as connection:
                newest = last_change(connection)
            store = identity(engine, self.name).id
            note = backup.witness / f"{self.name}-state-{store}.note"
            shipped = note.exists() and int(note.read_text().splitlines()[1]) >= newest
            return shipped and any(True for _ in manifests(open_objects(backup), self.name, store))
        finally:
            engine.dispose()


async def until(holds, seconds: float = 120) -> None:
    for _ in range(int(seconds * 10)):
        if holds():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it does not come")


async def killed_at(client: Client, region: Region) -> None:
    engine = open_engine(region.addresses.database)
    ledger = Ledger(engine, region.name)
    ledger.append([Draft(kind="test.done", actor="ana", subject="x", body={}, idempotency_key="1")])
    over, follow = asyncio.Event(), asyncio.create_task(region.mode.follow())
    writing = asyncio.create_task(region.write(over))
    with region.process() as first:
        await until(lambda: len(region.told) > 10)
        # What was acknowledged within the lag before a disk is lost, is lost with it.
        async with region.turn:
            await until(region.backed_up)
            region.lose()
        (region.place / "armed").touch()
        regional = await Client.connect(
            client.service_client.config.target_host,
            namespace=region.name,
            data_converter=client.data_converter,
        )
        handle = await regional.start_workflow(
            "FailOver",
            FailOverRequest(actor="ana", reason="disk lost"),
            id=f"failover/{region.name}/1",
            task_queue=RECOVERY_QUEUE,
            result_type=FailOverStatus,
        )
        await until(lambda: first.poll() is not None)
    assert (region.place / "killed").exists(), f"{region.point}: it ended by itself"
    with region.process():
        status = await asyncio.wait_for(handle.result(), 150)
        await asyncio.sleep(0.5)
    over.set()
    await writing
    follow.cancel()
    await region.mode.close()
    assert status.state == "normal" and status.drained is not None
    assert (status.drained.pending, status.drained.conflicts) == (0, 0), region.point
    check(region)
    engine.dispose()


def check(region: Region) -> None:
    """One primary, that holds all that was acknowledged, and whose ledger verifies."""
    primary = region.pointer.read()
    assert primary is not None and primary.epoch >= 2
    engine = open_engine(primary.database)
    held = {each.key.decode(): each.value for each in TenantKV(engine, TENANT).items()}
    missing = {key for key, value in region.told.items() if held.get(key) != value}
    assert missing == set(), region.point
    check_ledger(Ledger(engine, region.name))
    kinds = [each.kind for each in Ledger(engine, region.name).read()]
    assert kinds.count("region.restored") == 1, region.point
    assert region.stores() == {Path(engine.url.database or "").name}, region.point
    engine.dispose()


async def test_a_recovery_process_killed_anywhere_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path / "home"))
    points = random.Random(SEED).sample(POINTS, min(COUNT, len(POINTS)))
    names = [f"r{number}" for number in range(len(points))]
    (tmp_path / "fleet.toml").write_text(configured(names))
    async with contextlib.AsyncExitStack() as stack:
        databases = {}
        if STORE == "postgresql":
            databases = {name: stack.enter_context(fresh_database()) for name in names}
        config = tmp_path / "fleet.toml"
        set_up(Options(config=config, temporal_port=0, databases=databases))
        client = await stack.enter_async_context(server())
        await ensure(client, names)
        address = client.service_client.config.target_host
        for name in names:
            file = tmp_path / "home" / "regions" / name / "addresses.json"
            old = load_region(name)
            temporal = old.temporal.model_copy(update={"address": address})
            file.write_text(old.model_copy(update={"temporal": temporal}).model_dump_json())
        regions = [Region(name, point) for name, point in zip(names, points, strict=True)]
        for some in range(0, len(regions), 4):
            await asyncio.gather(*(killed_at(client, each) for each in regions[some : some + 4]))
