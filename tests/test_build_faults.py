"""A builder that is killed anywhere leaves no half-published release, and no evidence twice."""

import asyncio
import multiprocessing
import os
import random
import sys

import build_worker
import pytest
from build_harness import Yard, only, server, start, statements

from stores.oci import ReleaseNotFound

SEED = int(os.environ.get("CHAINRING_FAULT_SEED", "1"))
COUNT = int(os.environ.get("CHAINRING_FAULT_POINTS", "2"))
POINTS = [
    "put_unnamed before 1",
    "put_unnamed after 1",
    *(f"sign {when} {number}" for when in ("before", "after") for number in (1, 2, 3, 4)),
    *(f"attach {when} {number}" for when in ("before", "after") for number in (1, 2, 3, 4)),
    "give_name before 1",
    "give_name after 1",
]

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
    if not point.startswith("give_name after"):
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
