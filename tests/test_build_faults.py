"""A builder or registry killed anywhere leaves no half of a release, and no evidence twice."""

import asyncio
import multiprocessing
import os
import random
import sys
import threading
import time

import build_worker
import pytest
from build_harness import Yard, only, server, start, statements
from registry_harness import REGISTRY, Faults, Registry, proxied

from stores.oci import ReleaseNotFound
from stores.registry_client import RegistryClient
from stores.registry_layout import RegistryLayout
from stores.registry_source import RegistrySource

SEED = int(os.environ.get("CHAINRING_FAULT_SEED", "1"))
COUNT = int(os.environ.get("CHAINRING_FAULT_POINTS", "2"))
POINTS = [
    "put_unnamed before 1",
    "put_unnamed after 1",
    *(f"sign {when} {number}" for when in ("before", "after") for number in (1, 2, 3, 4)),
    *(f"attach {when} {number}" for when in ("before", "after") for number in (1, 2, 3, 4)),
    "give_name before 1",
    "give_name after 1",
    # The receipt: the control worker's part, which is the same process in the embedded stack.
    "append before 1",
    "append after 1",
]
WRITES = 30
"""Requests that change something in the registry when a release is built into it, at least."""
OUTAGES = [f"{when} {number}" for when in ("before", "after") for number in range(1, WRITES + 1)]

# Workers are forked from a process that has imported everything: to import it takes seconds.
_SERVER = multiprocessing.get_context("forkserver")

pytestmark = pytest.mark.fault


def work(yard, address, queue, point):
    """One worker process, which may die."""
    arguments = (str(yard.builder.home), address, queue, point)
    process = _SERVER.Process(target=build_worker.run, args=arguments)
    process.start()
    return process


def unseen(yard):
    """What a client sees of a build under way: nothing by its name."""
    with pytest.raises(ReleaseNotFound):
        yard.builder.layout.resolve("web:1.0.0")


async def killed_at(client, tmp_path, point):
    yard = Yard(tmp_path)
    address, queue = client.service_client.config.target_host, point.replace(" ", "-")
    handle = await start(client, yard.request(yard.commit()), queue)
    first = work(yard, address, queue, point)
    try:
        await asyncio.to_thread(first.join, 60)
    finally:
        first.kill()
    assert (yard.builder.home / "killed").exists(), f"{point}: never came"
    if not point.startswith(("give_name after", "append")):
        unseen(yard)
    second = work(yard, address, queue, point)
    try:
        result = await asyncio.wait_for(handle.result(), 60)
    finally:
        second.kill()
        await asyncio.to_thread(second.join, 10)
    return yard, result


async def test_a_builder_killed_anywhere_is_followed_by_another(tmp_path, monkeypatch):
    # The process that the others are forked from looks only there for what it imports ahead.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    _SERVER.set_forkserver_preload(["build_worker"])
    points = random.Random(SEED).sample(POINTS, min(COUNT, len(POINTS)))
    directories = [tmp_path / str(number) for number in range(len(points))]
    for directory in directories:
        directory.mkdir()
    async with server() as client:
        ended = await asyncio.gather(
            *(killed_at(client, *pair) for pair in zip(directories, points, strict=True))
        )
    for (yard, result), point in zip(ended, points, strict=True):
        layout = yard.builder.layout
        assert layout.resolve("web:1.0.0") == result.release, point
        assert layout.verify(result.release)
        assert len(layout.referrers(result.release)) == len(layout.evidence(result.release)) == 4
        assert len(statements(yard, result.release)) == 4, point
        assert only(yard, "release.built").subject == result.release
        assert not list(yard.builder.ledger.read(kinds=["build.failed"]))
        assert not list((yard.builder.home / "work" / "builds").glob("*"))


class Outage:
    """Kills a registry at one of the requests that change it; `over` starts it again."""

    def __init__(self, registry: Registry, faults: Faults, point: str) -> None:
        when, number = point.split()
        self._registry, self._faults = registry, faults
        self._when, self._left = when, int(number)
        self._lock = threading.Lock()
        self._killed = threading.Event()

    def __call__(self, when: str, line: str) -> bool:
        with self._lock:
            if when != self._when or not line.startswith(("PUT", "POST")):
                return False
            self._left -= 1
            if self._left != 0:
                return False
            self._registry.kill()
            self._killed.set()
            return True

    async def over(self) -> None:
        """Start it again, by this thread: the process dies with the thread that started it."""
        assert await asyncio.to_thread(self._killed.wait, 60), "it never came to that"
        asked = any(line.endswith("/manifests/1.0.0") for line in writes(self._faults))
        await asyncio.sleep(0.3)
        self._registry.start()
        if not asked:
            with pytest.raises(ReleaseNotFound):
                source(self._registry.url).resolve("web:1.0.0")


def source(url):
    def client(root):
        return RegistryClient(root, pause=lambda seconds: time.sleep(min(seconds, 0.4)))

    return RegistrySource(f"{url}/fleet", client)


def writes(faults):
    return [line for line in faults.seen if line.startswith(("PUT", "POST"))]


async def built_through(client, directory, point):
    yard = Yard(directory)
    registry = Registry(directory / "registry")
    try:
        with proxied(registry.port) as (url, faults):
            outage = faults.hook = Outage(registry, faults, point)
            layout = RegistryLayout(directory / "cache", source(url))
            yard.builder.activities._shelf = layout
            queue = f"registry-{point.replace(' ', '-')}"
            async with yard.builder.worker(client, queue):
                handle = await start(client, yard.request(yard.commit()), queue)
                await outage.over()
                result = await asyncio.wait_for(handle.result(), 60)
        there = yard.builder.layout = RegistryLayout(directory / "there", source(registry.url))
        assert there.resolve("web:1.0.0") == result.release, point
        assert there.verify(result.release)
        assert len(there.referrers(result.release)) == len(there.evidence(result.release)) == 4
        assert len(statements(yard, result.release)) == 4, point
        assert only(yard, "release.built").subject == result.release
        assert not list(yard.builder.ledger.read(kinds=["build.failed"]))
    finally:
        registry.kill()


@pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed")
@pytest.mark.parametrize(
    "point", random.Random(SEED).sample(OUTAGES, min(max(1, COUNT // 2), len(OUTAGES)))
)
async def test_a_registry_killed_anywhere_has_the_whole_release_in_the_end(tmp_path, point):
    async with server() as client:
        await built_through(client, tmp_path, point)
