"""A control plane and two regions whose databases are killed, for tests of whole workflows.

Builder, ledgers, stores, activities and workflows are the real ones. Played are what the verifier
says, the traffic, and the processes of releases. The control plane's database and the one of ``eu``
are on a PostgreSQL server each; ``us-east`` has SQLite, so that one region always goes on.
"""

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
from build_harness import TEMPORAL, Yard
from database_killer import Killer, Mortal, adopting, mortal
from fake_region import FakeRegion
from fake_verifier import FakeVerifier
from rollout_harness import BREAKER, UNVERSIONED, address
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from activities.incidents import IncidentActivities
from activities.overrides import OverrideActivities
from activities.region import RegionActivities
from activities.targets.base import Heartbeat, Staged
from activities.verification import VerificationActivities
from models.contracts import ShardActivation
from models.ids import short
from models.receipts import Draft, Receipt
from models.seeding import FleetLayout
from stores.chain_check import check_ledger
from stores.changelog import protect
from stores.checkpoints import Notary
from stores.control import ControlStore
from stores.fleet import FleetStore
from stores.keys import ensure_key
from stores.ledger import Ledger
from stores.overrides import OverrideStore
from stores.shards import ShardStore
from stores.sql import open_engine
from workers.control import CONTROL_WORKFLOWS
from workers.nexus_region import RegionService
from workers.process import activities_of, make_worker
from workers.temporal_setup import CONTROL_QUEUE, REGION_QUEUE, ensure
from workflows.region import REGION_WORKFLOWS

REGIONS = ("eu", "us-east")
LAYOUT = FleetLayout(tenants=20, shards=10, regions=REGIONS)
CONFIG = """
[fleet]
name = "{run}"
[rollout]
canary_percentage = 20
max_blast_radius_percent = 20
rollout_rings = [100]
region_down_after_seconds = 120
[gates]
bake_seconds = 0
looks = 1
min_samples = 100
hold_seconds = 3600
[deployment_verification]
follow_up = "propose_rollback"
[regions.eu]
name = "eu"
catalog_shard = 1
receipt_partition = 1
[regions.us-east]
name = "us-east"
catalog_shard = 2
receipt_partition = 2
"""
_numbers = itertools.count(1)


class Target:
    """In place of a deploy target's processes; its shards and their receipts are real."""

    def __init__(self, shards: ShardStore) -> None:
        self._shards = shards
        self._staged: set[str] = set()

    def stage(self, release: str, *, heartbeat: Heartbeat) -> Staged:
        self._staged.add(release)
        return Staged(release, healthy=True)

    def activate(self, shard: str, release: str, epoch: int, draft: Draft) -> ShardActivation:
        assert release in self._staged
        return self._shards.activate(shard=shard, release=release, epoch=epoch, draft=draft)[0]

    def staged(self) -> list[str]:
        return sorted(self._staged)

    def drain(self, release: str, *, heartbeat: Heartbeat) -> None:
        self._staged.discard(release)


class Region:
    """One region: its database, and what its worker needs."""

    def __init__(self, code: str, home: Path, database: str) -> None:
        self.code = code
        self.engine = open_engine(database)
        protect(self.engine, code)
        self.ledger = Ledger(self.engine, code)
        self.fleet = FleetStore(self.engine, self.ledger, code)
        self.fleet.seed(LAYOUT, actor="ana")
        self.shards = ShardStore(self.engine, self.ledger, code)
        self.activities = RegionActivities(
            code,
            target=Target(self.shards),  # type: ignore[arg-type]
            shards=self.shards,
            ledger=self.ledger,
            notary=Notary(self.ledger, ensure_key(home / f"{code}.pem")),
        )

    def worker(self, client: Client) -> Any:
        service = RegionService(self.code, self.fleet, self.shards, FakeRegion(self.code))  # type: ignore[arg-type]
        return make_worker(
            client,
            address(self.code, REGION_QUEUE),
            UNVERSIONED,
            deployment="region",
            workflows=REGION_WORKFLOWS,
            activities=activities_of(self.activities),
            nexus=[service],
        )


class Realm:
    """One run: databases of its own on the servers that die, and whatever works on them."""

    def __init__(self, home: Path, client: Client, killer: Killer, servers: "Servers") -> None:
        self.run, self.killer, self.client = f"run-{next(_numbers)}", killer, client
        killer.names[self.run] = "N"
        urls = {name: servers.database(name, self.run) for name in servers.mortals}
        self.yard = Yard(home, database=urls["control"])
        builder = self.yard.builder
        (builder.home / "config.toml").write_text(CONFIG.format(run=self.run))
        self.ledger, self.layout = builder.ledger, builder.layout
        self.verifier = FakeVerifier()
        sqlite = f"sqlite:///{home}/us-east.db"
        self.regions = [Region(each, home, urls.get(each, sqlite)) for each in REGIONS]
        killer.watch(self.ledger.engine, "control", servers.mortals["control"])
        killer.watch(self.regions[0].engine, "eu", servers.mortals["eu"])

    def control_worker(self) -> Any:
        builder, overrides = self.yard.builder, OverrideStore(self.ledger.engine, self.ledger)
        incidents = IncidentActivities(
            store=ControlStore(self.ledger.engine, self.ledger),
            ledger=self.ledger,
            layout=self.layout,
            config=builder.home / "config.toml",
        )
        verification = VerificationActivities(
            verifier=self.verifier, layout=self.layout, ledger=self.ledger, overrides=overrides
        )
        return make_worker(
            self.client,
            address("default", CONTROL_QUEUE),
            UNVERSIONED,
            deployment="control",
            workflows=CONTROL_WORKFLOWS,
            activities=activities_of(
                *(builder.activities, builder.control, verification, incidents),
                OverrideActivities(overrides),
            ),
        )

    def release(self, version: str) -> str:
        """A release of this run, without a build; its digest."""
        program = self.yard.builder.home / f"program-{version}"
        program.mkdir()
        (program / "serve").write_text(f"{self.run} {version}")
        release = self.layout.put_release("web", version, program, entrypoint=["serve"])
        self.killer.names[short(release)] = version
        return release

    async def start(self, workflow: str, request: dict[str, Any], id: str, result: type) -> Any:
        handle: WorkflowHandle[Any, Any] = await self.client.start_workflow(
            workflow, request, id=id, task_queue=CONTROL_QUEUE, result_type=result
        )
        return handle

    def running(self) -> set[str | None]:
        """The releases that shards run."""
        return {shard.release for region in self.regions for shard in region.shards.shards()}

    def receipts(self) -> dict[str, list[Receipt]]:
        """Every ledger's, once its chain verifies."""
        ledgers = [self.ledger, *(region.ledger for region in self.regions)]
        for ledger in ledgers:
            check_ledger(ledger)
        return {each.name: [stored.receipt for stored in each.read()] for each in ledgers}

    def close(self) -> None:
        for engine in (self.ledger.engine, *(region.engine for region in self.regions)):
            engine.dispose()


class Servers:
    """The servers that die: the control plane's and the one of ``eu``."""

    def __init__(self, control: Mortal, eu: Mortal) -> None:
        self.mortals = {"control": control, "eu": eu}

    def database(self, name: str, run: str) -> str:
        """A new database; its URL."""
        server = self.mortals[name].server
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{run}" TEMPLATE template0')
        return str(server.get_uri(database=run, driver="psycopg"))


@contextlib.contextmanager
def running_servers() -> Iterator[Servers]:
    with adopting(), mortal() as control, mortal() as eu:
        yield Servers(control, eu)


@contextlib.asynccontextmanager
async def running_temporal() -> AsyncIterator[WorkflowEnvironment]:
    """A server that knows the regions."""
    environment = await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=str(TEMPORAL),
        dev_server_log_level="error",
        # Else a region whose database was away is not asked for a minute more.
        dev_server_extra_args=["--dynamic-config-value", f'{BREAKER}={{"timeout": 1}}'],
    )
    async with environment:
        await ensure(environment.client, list(REGIONS))
        yield environment


@contextlib.asynccontextmanager
async def running_realm(
    home: Path, temporal: WorkflowEnvironment, servers: Servers, *, every: int, seed: int
) -> AsyncIterator[Realm]:
    """Everything that works, with a killer that is not armed yet."""
    killer = Killer(every=every, seed=seed)
    realm = Realm(home, temporal.client, killer, servers)
    async with contextlib.AsyncExitStack() as workers:
        workers.callback(realm.close)
        await workers.enter_async_context(realm.control_worker())
        for region in realm.regions:
            client = await Client.connect(
                temporal.client.service_client.config.target_host,
                namespace=region.code,
                data_converter=pydantic_data_converter,
            )
            await workers.enter_async_context(region.worker(client))
        yield realm
