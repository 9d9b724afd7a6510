"""A region's worker: its side of every rollout. `python -m workers region eu`."""

from activities.metrics.base import MetricProvider, ProcessFacts
from activities.metrics.envoy import EnvoyProvider
from activities.metrics.prometheus import PrometheusProvider
from activities.region import RegionActivities
from activities.targets.local import LocalTarget
from gateway.publisher import RoutePublisher
from models.addresses import RegionAddresses
from stores.changelog import protect
from stores.checkpoints import Notary
from stores.fleet import FleetStore
from stores.keys import load_key
from stores.ledger import Ledger
from stores.processes import ProcessStore
from stores.shards import ShardStore
from stores.sql import open_engine
from workers.nexus_region import RegionService
from workers.primary import end_when_primary_changes, require_primary
from workers.process import PATIENCE, activities_of, connect, make_worker, serve
from workers.release_store import open_releases
from workers.settings import load_region
from workflows.region import REGION_WORKFLOWS


def deployment(region: str) -> str:
    """Name of the region's worker deployment in Temporal."""
    return f"chainring-{region}"


class RegionParts:
    """One region's stores, target and metrics, wired from its addresses alone."""

    def __init__(self, addresses: RegionAddresses) -> None:
        region = addresses.region
        require_primary(addresses)
        engine = open_engine(addresses.database)
        protect(engine, region)
        self.ledger = Ledger(engine, region)
        self.fleet = FleetStore(engine, self.ledger, region)
        self.shards = ShardStore(engine, self.ledger, region)
        self.processes = ProcessStore(engine)
        self.target = LocalTarget(
            addresses,
            self.shards,
            self.processes,
            open_releases(addresses),
            RoutePublisher(addresses.gateway, region),
        )
        self.activities = RegionActivities(
            region,
            target=self.target,
            shards=self.shards,
            ledger=self.ledger,
            notary=Notary(self.ledger, load_key(addresses.signing_key)),
        )
        self.service = RegionService(
            region, self.fleet, self.shards, metric_provider(addresses, self.processes)
        )


def metric_provider(addresses: RegionAddresses, processes: ProcessStore) -> MetricProvider:
    """Prometheus where the region has one, otherwise its Envoy and the releases themselves."""

    def running() -> dict[str, ProcessFacts]:
        return {
            each.release: ProcessFacts(port=each.port, restarts=each.restarts, source=each.source)
            for each in processes.list()
            if each.port is not None and each.desired == "running"
        }

    if addresses.prometheus is not None:
        return PrometheusProvider(addresses.region, addresses.prometheus, processes=running)
    return EnvoyProvider(addresses.region, addresses.gateway, running)


async def run_region(region: str) -> int:
    """Run until told to stop."""
    addresses = load_region(region)
    end_when_primary_changes([region])
    client = await connect(
        addresses.temporal,
        metrics_port=addresses.worker.metrics_port,
        otlp_endpoint=addresses.otlp_endpoint,
        patience=PATIENCE,
    )
    parts = RegionParts(addresses)
    worker = make_worker(
        client,
        addresses.temporal,
        addresses.worker,
        deployment=deployment(region),
        workflows=REGION_WORKFLOWS,
        activities=activities_of(parts.activities),
        nexus=[parts.service],
    )
    return await serve(f"region {region}", client, addresses.worker, worker, deployment(region))
