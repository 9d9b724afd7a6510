"""What every deploy target must do, run against each target that there is.

`LocalTarget` runs with a real release host, real releases and a real database; only Envoy is
replaced, by a recorder that keeps what was put in force.
"""

import http.server
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from release_harness import Stack, running

from activities.targets.base import DeployTarget, TargetRefused, TargetUnavailable
from activities.targets.local import LocalTarget
from models.addresses import RegionAddresses
from models.fleet import RouteTable
from models.receipts import Draft
from models.seeding import FleetLayout
from stores.fleet import FleetStore
from stores.ledger import Ledger
from stores.oci import ReleaseCorrupt, ReleaseNotFound
from stores.shards import ACTIVATED, ShardStore, StaleEpoch
from stores.sql import open_engine

SHARDS = ["eu-000", "eu-001", "eu-002"]


class RecordingGateway:
    """Keeps what was published, and answers for Envoy's gauges of active requests."""

    def __init__(self) -> None:
        self.clusters: dict[str, int] = {}
        self.table = RouteTable(generation=-1, shards=[], suspended=[])
        self.active = 0
        self.failures = 0
        self._lock = threading.Lock()
        gateway = self

        class Admin(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stats = [{"name": "cluster.x.upstream_rq_active", "value": gateway.active}]
                body = json.dumps({"stats": stats}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.admin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Admin)
        threading.Thread(target=self.admin.serve_forever, daemon=True).start()

    def publish_clusters(self, endpoints: Callable[[], Sequence[Any]]) -> None:
        self._fail_if_told()
        with self._lock:
            self.clusters = {each.release: each.port for each in endpoints()}

    def publish_routes(self, load: Callable[[], RouteTable], at_least: int) -> int:
        self._fail_if_told()
        with self._lock:
            table = load()
            assert table.generation >= at_least
            used = {route.release for route in table.shards} - {None}
            assert used <= set(self.clusters), "a route to a release that no cluster leads to"
            if table.generation > self.table.generation:
                self.table = table
            return self.table.generation

    def serves(self) -> dict[str, str | None]:
        return {route.shard: route.release for route in self.table.shards}

    def _fail_if_told(self) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the gateway is away")


class LocalEnvironment:
    """A region with three shards, `LocalTarget`, and a release host."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.gateway = RecordingGateway()
        address = json.loads((stack.home / "regions/eu/addresses.json").read_text())
        address["gateway"]["admin_port"] = self.gateway.admin.server_address[1]
        engine = open_engine(stack.database("eu"))
        self.ledger = Ledger(engine, "eu")
        self.shards = ShardStore(engine, self.ledger, "eu")
        FleetStore(engine, self.ledger, "eu").seed(FleetLayout(9, 3, ["eu"]), actor="test")
        self._address = RegionAddresses.model_validate(address)
        self.target = self.with_host_deadline(30)

    def with_host_deadline(self, seconds: float) -> DeployTarget:
        """The region's target with another patience with the host."""
        stack = self.stack
        return LocalTarget(
            self._address,
            self.shards,
            stack.stores["eu"],
            stack.layout,
            self.gateway,
            host_deadline_s=seconds,
            drain_deadline_s=4,
        )

    def put(self, version: str = "1.0.0", **behaviour: Any) -> str:
        return self.stack.put(version, **behaviour)

    def stage(self, version: str = "1.0.0", **behaviour: Any) -> str:
        release = self.put(version, **behaviour)
        staged = self.target.stage(release, heartbeat=ignore)
        assert staged.healthy, staged
        return release

    def activate(self, shard: str, release: str, epoch: int = 1, key: str = "") -> Any:
        draft = Draft(
            kind=ACTIVATED,
            actor="test",
            subject=shard,
            body={},
            idempotency_key=key or f"{epoch}/{shard}/{release}",
        )
        return self.target.activate(shard, release, epoch, draft)

    def activations(self) -> int:
        return len(list(self.ledger.read(kinds=[ACTIVATED])))


def ignore(_: str) -> None:
    pass


@pytest.fixture(params=[LocalEnvironment])
def region(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalEnvironment]:
    for stack in running(Stack(tmp_path)):
        environment = request.param(stack)
        yield environment
        environment.gateway.admin.shutdown()


def test_stage_starts_a_release_without_traffic_and_says_it_is_healthy(region):
    beats: list[str] = []
    release = region.put()
    staged = region.target.stage(release, heartbeat=beats.append)
    assert (staged.release, staged.healthy) == (release, True)
    assert beats
    assert region.target.staged() == [release]
    assert region.target.probe(release).healthy
    assert region.target.current() == dict.fromkeys(SHARDS)
    assert list(region.gateway.clusters) == [release]


def test_stage_is_idempotent(region):
    release = region.stage()
    before = region.stack.stores["eu"].get(release)
    assert region.target.stage(release, heartbeat=ignore).healthy
    assert region.stack.stores["eu"].get(release) == before


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ({"crash_at_start": True}, "cannot open the price list"),
        ({"healthy": False, "health": {"deadline_ms": 500}}, "not healthy within 0.5 s"),
    ],
)
def test_stage_of_a_release_that_does_not_run_says_why_and_removes_it(region, behaviour, words):
    release = region.put(**behaviour)
    staged = region.target.stage(release, heartbeat=ignore)
    assert not staged.healthy and words in staged.detail
    assert region.target.staged() == []
    assert region.gateway.clusters == {}
    assert not region.target.probe(release).healthy
    region.stack.wait(release, lambda row: row.state == "stopped")
    region.stack.gone()


def test_stage_of_an_unknown_or_damaged_release_starts_nothing(region):
    with pytest.raises(ReleaseNotFound):
        region.target.stage("sha256:" + "0" * 64, heartbeat=ignore)
    release = region.put()
    layer = region.stack.layout.manifest(release).layers[0].digest
    path = region.stack.home / "releases/blobs/sha256" / layer.removeprefix("sha256:")
    path.write_bytes(path.read_bytes().replace(b"HTTP", b"HTCP"))
    with pytest.raises(ReleaseCorrupt):
        region.target.stage(release, heartbeat=ignore)
    assert region.target.staged() == []


def test_stage_without_a_host_is_not_the_releases_fault(region):
    region.stack.stop(signal.SIGTERM)
    release = region.put()
    with pytest.raises(TargetUnavailable, match="release host"):
        region.with_host_deadline(1).stage(release, heartbeat=ignore)
    region.stack.start()
    assert region.target.stage(release, heartbeat=ignore).healthy


def test_a_cancelling_heartbeat_ends_stage(region):
    def cancel(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        region.target.stage(region.put(), heartbeat=cancel)


def test_activate_switches_one_shard_and_is_in_force_when_it_returns(region):
    release = region.stage()
    activation = region.activate("eu-001", release)
    assert (activation.shard, activation.previous, activation.release) == ("eu-001", None, release)
    expected = {**dict.fromkeys(SHARDS), "eu-001": release}
    assert region.target.current() == region.gateway.serves() == expected


def test_activate_again_with_the_same_key_changes_nothing(region):
    release = region.stage()
    first = region.activate("eu-000", release)
    generation = region.shards.generation()
    assert region.activate("eu-000", release) == first
    assert (region.activations(), region.shards.generation()) == (1, generation)


def test_an_activation_whose_publication_failed_is_completed_by_a_retry(region):
    release = region.stage()
    region.gateway.failures = 1
    with pytest.raises(ConnectionError):
        region.activate("eu-000", release)
    assert region.gateway.serves() == {}
    region.activate("eu-000", release)
    assert region.gateway.serves()["eu-000"] == release
    assert region.activations() == 1


def test_a_late_activation_of_an_older_rollout_is_refused(region):
    old, new = region.stage("1.0.0"), region.stage("2.0.0")
    region.activate("eu-000", new, epoch=5)
    with pytest.raises(StaleEpoch):
        region.activate("eu-000", old, epoch=4)
    region.shards.raise_epoch(6)
    with pytest.raises(StaleEpoch):
        region.activate("eu-001", old, epoch=5)
    assert region.gateway.serves()["eu-000"] == new
    assert region.activations() == 1


def test_activate_of_what_is_not_staged_is_refused(region):
    release = region.put()
    with pytest.raises(TargetRefused, match="not staged"):
        region.activate("eu-000", release)
    assert region.target.current() == dict.fromkeys(SHARDS)


def test_activate_of_what_is_down_just_now_is_put_off(region):
    release = region.stage()
    region.stack.stores["eu"].report(release, 1, state="unhealthy")
    with pytest.raises(TargetUnavailable):
        region.activate("eu-000", release)
    assert region.activations() == 0


def test_many_activations_at_once_all_come_into_force(region):
    releases = [region.stage("1.0.0"), region.stage("2.0.0")]
    for epoch, release in enumerate(releases, start=1):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda s, r=release, e=epoch: region.activate(s, r, e), SHARDS))
        assert region.gateway.serves() == dict.fromkeys(SHARDS, release)


def test_probe_asks_the_release_itself(region):
    release = region.stage()
    row = region.stack.stores["eu"].get(release)
    region.stack.stop(signal.SIGKILL)  # so the table still says healthy
    region.stack.gone()
    assert region.stack.stores["eu"].get(release) == row
    health = region.target.probe(release)
    assert not health.healthy and "/healthz" in health.detail


def test_drain_stops_a_release_that_no_shard_uses(region):
    old, new = region.stage("1.0.0"), region.stage("2.0.0")
    for epoch, release in ((1, old), (2, new)):
        for shard in SHARDS:
            region.activate(shard, release, epoch)
    region.target.drain(old, heartbeat=ignore)
    assert region.target.staged() == [new]
    assert list(region.gateway.clusters) == [new]
    assert len(region.stack.release_processes()) == 1
    region.target.drain(old, heartbeat=ignore)  # again: nothing happens
    assert region.target.probe(new).healthy


def test_drain_of_a_release_in_use_is_refused(region):
    release = region.stage()
    region.activate("eu-002", release)
    with pytest.raises(TargetRefused, match="1 shards still use it"):
        region.target.drain(release, heartbeat=ignore)
    assert region.target.staged() == [release]
    assert region.target.probe(release).healthy


def test_drain_waits_for_requests_under_way(region):
    release = region.stage()
    region.gateway.active = 3
    beats: list[str] = []
    with pytest.raises(TargetUnavailable, match="3 requests"):
        region.target.drain(release, heartbeat=beats.append)
    assert region.target.probe(release).healthy
    assert any("3 requests" in beat for beat in beats)
    threading.Timer(0.5, lambda: setattr(region.gateway, "active", 0)).start()
    region.target.drain(release, heartbeat=ignore)
    assert region.target.staged() == []


def test_drain_first_brings_a_committed_switch_into_force(region):
    """Else requests would still go to the release that is being stopped."""
    old, new = region.stage("1.0.0"), region.stage("2.0.0")
    region.activate("eu-000", old)
    region.gateway.failures = 1
    with pytest.raises(ConnectionError):
        region.activate("eu-000", new, epoch=2)
    region.target.drain(old, heartbeat=ignore)
    assert region.gateway.serves()["eu-000"] == new


def test_a_failed_restage_does_not_stop_a_release_that_shards_use(region):
    release = region.stage()
    region.activate("eu-000", release)
    store = region.stack.stores["eu"]
    region.stack.stop(signal.SIGTERM)
    store.report(release, 1, state="failed", detail="for the test")
    thread = threading.Timer(0.5, lambda: store.report(release, 2, state="failed", source="x"))
    thread.start()
    assert not region.target.stage(release, heartbeat=ignore).healthy
    assert store.get(release).desired == "running"


def test_a_drained_release_can_be_staged_again(region):
    release = region.stage()
    region.target.drain(release, heartbeat=ignore)
    assert region.target.stage(release, heartbeat=ignore).healthy
    assert region.activate("eu-000", release).release == release


def test_staging_and_draining_at_once_never_hides_a_staged_release(region):
    first = region.stage("1.0.0")
    second = region.put("2.0.0")
    with ThreadPoolExecutor(2) as pool:
        staging = pool.submit(region.target.stage, second, heartbeat=ignore)
        time.sleep(0.05)
        draining = pool.submit(region.target.drain, first, heartbeat=ignore)
        assert staging.result().healthy
        draining.result()
    assert list(region.gateway.clusters) == region.target.staged() == [second]
