"""One region under simulation: its stores, its buffer, its backup, and the processes on them."""

import asyncio
import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from sim_faults import Faults, SimBucket
from sim_model import Doc, Model, Operation, Violation
from sqlalchemy import Engine, select
from temporalio.testing import ActivityEnvironment

import workers.backup
from activities.failover import FailOverActivities
from gateway.kv_mode import RegionMode
from models.addresses import (
    BackupAddress,
    GatewayAddress,
    RegionAddresses,
    TemporalAddress,
    WorkerAddress,
)
from models.primary import Primary
from models.seeding import FleetLayout
from models.tables_buffer import BufferMarkRow
from models.verifier import verify_chain
from stores.changelog import last_seq, protect
from stores.fleet import FleetStore
from stores.keys import ensure_key
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.pointer import Pointer
from stores.primary import SPOOL, PrimaryFile
from stores.spool_files import open_spool
from stores.sql import open_engine, read, table
from workers.backup import RegionBackup

REGION = "eu"
TENANTS = ("acme", "bolt", "crux")
Database = Callable[[str], str]
"""Gives the URL of a fresh database for a name."""

_Result = TypeVar("_Result")


class Writer:
    """The processes that serve tenants and operators: gateway and region worker in one."""

    def __init__(self, world: "World") -> None:
        self.primary = world.primary()
        self.engine = open_engine(self.primary.database)
        self.store = self.primary.store
        self.ledger = Ledger(self.engine, REGION, clock=world.faults.utc)
        self.fleet = FleetStore(self.engine, self.ledger, REGION, clock=world.faults.utc)
        self.mode = RegionMode(lambda: self.engine, REGION, world.path)

    def let_go(self) -> None:
        """What the system does for a process that is gone."""
        serving = self.mode._serving
        if serving is not None and serving.buffer is not None and serving.buffer.spool is not None:
            serving.buffer.spool._held.close()
        self.mode._pool.shutdown(wait=False)
        self.engine.dispose()


class World:
    """A region; everything that it is made of lies below ``home``."""

    def __init__(self, home: Path, seed: int, database: Database) -> None:
        self.home = home
        self.chance = random.Random(seed)
        self.faults = Faults(seed)
        self.model = Model()
        self.path = home / "path"
        self.path.mkdir()
        self.bucket = SimBucket(home / "objects", self.faults)
        self.destroyed: set[str] = set()
        self.damage: dict[str, bytes] = {}
        """Objects that somebody changed or removed, and what they were."""
        self.lowered: set[str] = set()
        """Former stores that nobody could fence yet."""
        self.first = database("region")
        key = ensure_key(home / "key.pem")
        self.key = key.public(REGION)
        self.addresses = _addresses(home, self.first)
        (home / "regions" / REGION).mkdir(parents=True)
        with self.faults.installed(), self.faults.paused():
            self._prepare()
        self._backup: RegionBackup | None = None
        self._writer: Writer | None = None
        self.zombies: list[Writer] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While the block runs, this world is the one."""
        opened = patch.object(workers.backup, "open_objects", lambda _address: self.bucket)
        home = patch.dict(os.environ, {"CHAINRING_HOME": str(self.home)})
        with self.faults.installed(), opened, home:
            try:
                yield
            finally:
                self.faults.disarm()
                self.faults.down.clear()
                for each in [*self.zombies, self._writer]:
                    if each is not None:
                        each.let_go()
                self.stop_recovery()

    # --- processes ---

    @property
    def backup(self) -> RegionBackup:
        """The recovery process, started when it is not there."""
        if self._backup is None:
            assert self.addresses.backup is not None
            self._backup = RegionBackup(
                self.addresses, self.addresses.backup, clock=self.faults.clock
            )
        return self._backup

    @property
    def writer(self) -> Writer:
        """The serving process, started on the primary when it is not there."""
        if self._writer is None:
            self._writer = Writer(self)
        return self._writer

    def stop_recovery(self) -> None:
        """The recovery process is gone."""
        if self._backup is not None:
            self._backup._close()
        self._backup = None

    def stop_writer(self) -> None:
        """The serving process is gone."""
        if self._writer is not None:
            self._writer.let_go()
        self._writer = None

    def orphan_writer(self) -> None:
        """The serving process is cut off; another one will be started in its place."""
        writer = self._writer
        serving = None if writer is None else writer.mode._serving
        if writer is not None and serving is not None and serving.buffer is None:
            self.zombies.append(writer)
            self._writer = None

    def activity(self, name: str, argument: Any, beat: Callable[[], None] = lambda: None) -> Any:
        """Run an activity of the recovery process, as its worker does."""
        environment = ActivityEnvironment()
        environment.on_heartbeat = lambda *_details: beat()
        drains = FailOverActivities(REGION, self.path, self.backup.primary, self.backup.secure)
        holder = drains if hasattr(drains, name) else self.backup.activities()
        return environment.run(getattr(holder, name), argument)

    # --- what is there, seen from outside ---

    def primary(self) -> Pointer:
        """The region's primary."""
        found = workers.backup.primary_pointer(REGION).read()
        assert found is not None
        return found

    def mode(self) -> Primary:
        """The state of the request path."""
        return PrimaryFile(self.path, REGION).read()

    def serve(self, work: Callable[[Any], _Result], tenant: str) -> _Result:
        """A request of a tenant, by the mode that is in force."""
        mode = self.writer.mode

        async def request() -> _Result:
            serving = await mode.serving()
            return work(serving.keys(tenant, None))

        return asyncio.run(request())

    def reachable(self, url: str) -> bool:
        """Whether a database answers."""
        return url not in self.faults.down

    def seq(self, database: str) -> int:
        """The last change of a store."""
        with self.looking(database) as engine, read(engine) as connection:
            return last_seq(connection)

    def documents(self, database: str) -> dict[Doc, bytes]:
        """Everything that operations made, as it is in a store; checks every digest and chain."""
        found: dict[Doc, bytes] = {}
        with self.looking(database) as engine:
            for tenant in TENANTS:
                kv, after = TenantKV(engine, tenant), None
                while True:
                    page = kv.list(after=after)
                    for each in page.keys:
                        value = kv.get(each.key)
                        assert value is not None
                        found["kv", tenant, each.key] = value.value
                    if (after := page.after) is None:
                        break
            ledger = Ledger(engine, REGION)
            for one in FleetStore(engine, ledger, REGION).list(limit=1000).tenants:
                found["tenant", one.id] = one.state.value.encode()
            lines = list(ledger.read())
            for stored in lines:
                if stored.kind == "sim.done":
                    receipt = stored.receipt
                    found["receipt", receipt.idempotency_key] = str(receipt.body["n"]).encode()
            verify_chain([each.data for each in lines], ledger=REGION)
        return found

    def document(self, database: str, doc: Doc) -> bytes | None:
        """One of them."""
        return self.documents(database).get(doc)

    def records(self) -> int:
        """The number of the last record that the spool's next owner will count."""
        found = open_spool(self.path / SPOOL) if (self.path / SPOOL).exists() else None
        return 0 if found is None else found.last

    def note_marks(self, pointer: Pointer) -> None:
        """Tell the model which buffered writes a store has got."""
        marks = table(BufferMarkRow)
        with self.looking(pointer.database) as engine, read(engine) as connection:
            rows = connection.execute(select(marks.c.number, marks.c.applied)).all()
            seq = last_seq(connection)
        for number, applied in sorted(rows):
            if number in self.model.buffered:
                self.model.drained(number, applied=applied, store=pointer.store, seq=seq)

    def compare(self, pointer: Pointer) -> None:
        """See that a store holds what it must hold, all of it and nothing else."""
        wanted, found = self.model.expected(pointer.store), self.documents(pointer.database)
        for doc in sorted(wanted.keys() | found.keys()):
            if wanted.get(doc) != found.get(doc):
                raise Violation(
                    f"{'/'.join(doc)} in store {pointer.store[:8]} is {found.get(doc)!r}, it must "
                    f"be {wanted.get(doc)!r}"
                )

    # --- outages ---

    def lose(self, url: str) -> None:
        """The store's disk is gone for good."""
        self.faults.down.add(url)
        self.destroyed.add(url)
        with self.faults.paused():
            for path in _files(url):
                path.unlink(missing_ok=True)

    def cut_off(self, url: str, *, away: bool) -> None:
        """The store does not answer; ``away``: its directory is not mounted."""
        self.faults.down.add(url)
        if away:
            self._move(_files(url), self.home / "away")

    def bring_back(self, url: str) -> None:
        """It answers again."""
        self.faults.down.discard(url)
        away = self.home / "away"
        self._move([away / path.name for path in _files(url)], self.home)

    def _move(self, files: list[Path], to: Path) -> None:
        with self.faults.paused():
            to.mkdir(exist_ok=True)
            for path in files:
                if path.exists():
                    shutil.move(path, to / path.name)

    def _prepare(self) -> None:
        """A region as it is when everything works: seeded, protected, its primary known."""
        engine = open_engine(self.first)
        found = protect(engine, REGION)
        ledger = Ledger(engine, REGION, clock=self.faults.utc)
        fleet = FleetStore(engine, ledger, REGION, clock=self.faults.utc)
        fleet.seed(FleetLayout(tenants=len(TENANTS), shards=2, regions=[REGION]), actor="sim")
        engine.dispose()
        with patch.dict(os.environ, {"CHAINRING_HOME": str(self.home)}):
            workers.backup.primary_pointer(REGION).move(
                Pointer(store=found.id, epoch=found.epoch, database=self.first)
            )
        for doc, value in self.documents(self.first).items():
            self.model.happened(Operation(doc, value, acknowledged=True), found.id, 0)

    @contextlib.contextmanager
    def looking(self, database: str) -> Iterator[Engine]:
        """See a database past all faults."""
        with self.faults.paused():
            for path in _files(database)[:1]:
                if not path.exists():
                    database = f"sqlite:///{self.home / 'away' / path.name}"
            engine = open_engine(database)
            try:
                yield engine
            finally:
                engine.dispose()


def _files(url: str) -> list[Path]:
    if not url.startswith("sqlite:///"):
        return []
    path = url.removeprefix("sqlite:///")
    return [Path(path + suffix) for suffix in ("", "-wal", "-shm")]


def _addresses(home: Path, database: str) -> RegionAddresses:
    (home / "config.toml").write_text("")
    return RegionAddresses(
        region=REGION,
        temporal=TemporalAddress(address="localhost:1", namespace=REGION, task_queue="recovery"),
        worker=WorkerAddress(health_port=0, metrics_port=0),
        database=database,
        signing_key=home / "key.pem",
        config=home / "config.toml",
        releases=home / "releases",
        workdir=home / "work",
        gateway=GatewayAddress(port=1, admin_port=1, directory=home, kv_port=1),
        backup=BackupAddress(
            objects=str(home / "objects"),
            work=home / "backup",
            witness=home / "witness",
            tenant_keys=f"sqlite:///{home}/tenant-keys.db",
            region_key=home / "region.key",
        ),
    )
