"""A region's database that is locked, full or read-only during a rollout, each by a real cause.

The database lies on a small file system of its own, which only root may mount.
"""

import asyncio
import contextlib
import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from embedded import running_stack, start
from faults_harness import QUICK, SHARDS, Fleet, Moment, ended, lost

from stores.sql import BUSY_TIMEOUT_MS

pytestmark = pytest.mark.fault

SECONDS = 60.0


def mount(*arguments: object) -> None:
    """Mount, or skip the test with what the system said."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the file system that is filled and made read-only")
    done = subprocess.run(
        ["mount", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this machine does not let us mount: {done.stderr.strip()}")


def unmount(directory: Path) -> None:
    """Also while files are open there."""
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 16 MiB for the database of "eu"."""
    directory = tmp_path_factory.mktemp("disk")
    mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", directory)
    try:
        yield directory
    finally:
        unmount(directory)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[Fleet]:
    home = tmp_path_factory.mktemp("faults") / "home"
    (home / "regions" / "eu").mkdir(parents=True)
    (home / "regions" / "eu" / "region.db").symlink_to(disk / "region.db")
    with running_stack(home) as stack:
        fleet = Fleet(stack)
        asyncio.run(_roll(fleet, "1.0.0"))
        yield fleet


async def _roll(fleet: Fleet, version: str) -> None:
    request = {"skip_gates": "no gate matters here", "overrides": QUICK}
    client = await fleet.stack.client()
    handle = await start(client, f"roll/{version}", release=fleet.digests[version], **request)
    assert (await ended(handle)).state == "completed"


async def _survives(
    fleet: Fleet, version: str, trouble: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    """A rollout goes into ``trouble`` after a seeded number of shards, and must come through."""
    since = fleet.mark()
    with fleet.traffic() as answers:
        rollout = asyncio.create_task(_roll(fleet, version))
        moment = Moment.drawn(random.Random(version), most=SHARDS // 2)
        while fleet.switched(since) < moment.switched:
            await asyncio.sleep(0.01)
        with trouble():
            await _noticed(fleet, trouble.__name__)
        await asyncio.wait_for(rollout, SECONDS)
    assert fleet.switched(since) == SHARDS
    assert fleet.violations(fleet.digests[version]) == []
    assert await fleet.left_open() == []
    assert lost(answers) == []


async def _noticed(fleet: Fleet, word: str) -> None:
    """Until the region's worker has said in its log what is wrong with its store."""
    log = fleet.stack.home / "logs" / "region-eu.log"
    deadline = time.monotonic() + SECONDS
    while f"store {word.replace('_', '-')}" not in log.read_text():
        assert time.monotonic() < deadline, f"no activity met a store that is {word}"
        await asyncio.sleep(0.1)


async def test_a_database_that_somebody_else_has_locked(fleet: Fleet):
    @contextlib.contextmanager
    def locked() -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(fleet.regions["eu"].database, timeout=30)) as other:
            other.isolation_level = None
            other.execute("BEGIN IMMEDIATE")
            time.sleep(BUSY_TIMEOUT_MS / 1000)
            yield

    await _survives(fleet, "1.1.0", locked)


async def test_a_database_whose_disk_is_full(fleet: Fleet, disk: Path):
    @contextlib.contextmanager
    def full() -> Iterator[None]:
        filler = disk / "filler"
        with contextlib.closing(sqlite3.connect(fleet.regions["eu"].database, timeout=30)) as other:
            # What the write-ahead log has room for must not hide that the disk has none.
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            filler.unlink()

    await _survives(fleet, "1.2.0", full)


async def test_a_database_that_became_read_only(fleet: Fleet, disk: Path):
    """A worker that starts on a read-only disk must go on by itself when it is writable again."""

    @contextlib.contextmanager
    def read_only() -> Iterator[None]:
        mount("--bind", disk, disk)
        try:
            mount("-o", "remount,ro,bind", disk)
            os.kill(fleet.stack.pid("region-eu"), 9)
            yield
        finally:
            unmount(disk)

    await _survives(fleet, "1.0.0", read_only)
