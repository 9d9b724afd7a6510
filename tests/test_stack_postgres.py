"""The whole stack on PostgreSQL, and its servers killed in the middle of a rollout."""

import asyncio
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from database_killer import Mortal, adopting, mortal
from embedded import CONFIG, REGIONS, Stack, running_stack, start
from faults_harness import ended
from postgres import fresh_database
from sqlalchemy import Engine, text

from models.rollout import RolloutState
from stores.oci import ImageLayout
from stores.sql import open_engine, read

SHARDS = 10
"""Of each region."""


@pytest.mark.fault
@pytest.mark.timeout(300)
@pytest.mark.postgres
def test_a_rollout_ends_right_on_postgresql_whose_servers_are_killed(tmp_path: Path) -> None:
    with ExitStack() as resources:
        resources.enter_context(adopting())
        servers = {place: resources.enter_context(mortal()) for place in ("control", "eu")}
        urls = {place: each.server.get_uri(driver="psycopg") for place, each in servers.items()}
        urls["us-east"] = resources.enter_context(fresh_database())
        options = [part for place in urls for part in ("--database", f"{place}={urls[place]}")]
        stack = resources.enter_context(running_stack(tmp_path / "home", CONFIG, *options))
        stack.chainring("fleet", "seed", "--tenants", "100", "--shards", f"{2 * SHARDS}")
        stack.build_samples("1.0.0")
        engines = {region: open_engine(urls[region]) for region in REGIONS}

        state = asyncio.run(installed(stack, servers, engines["eu"]))

        assert state == RolloutState.COMPLETED
        verified = stack.json("receipts", "verify")
        assert {each["ledger"] for each in verified} == {"control", *REGIONS}
        for engine in engines.values():
            assert switched(engine) == (1, SHARDS), "one receipt a shard, and one release"
            engine.dispose()
    assert not list((tmp_path / "home").rglob("region.db"))


async def installed(stack: Stack, servers: dict[str, Mortal], eu: Engine) -> RolloutState:
    """Roll out, and kill the servers once the first shard of ``eu`` has its release."""
    layout = ImageLayout(Path(stack.addresses("control")["releases"]))
    release = layout.resolve("catalog:1.0.0")
    client = await stack.client()
    handle = await start(client, "install", release=release, skip_gates="first installation")
    while switched(eu)[1] == 0:
        await asyncio.sleep(0.02)
    for server, how in zip(servers.values(), (signal.SIGQUIT, signal.SIGKILL), strict=True):
        assert await asyncio.to_thread(server.kill, 0, how)
    return RolloutState((await ended(handle)).state)


def switched(engine: Engine) -> tuple[int, int]:
    """Releases that the shards of a region run, and receipts that they were switched."""
    query = (
        "SELECT (SELECT count(DISTINCT release) FROM shard), "
        "(SELECT count(*) FROM receipt WHERE kind = 'shard.activated')"
    )
    with read(engine) as connection:
        releases, receipts = connection.execute(text(query)).one()
    return releases, receipts
