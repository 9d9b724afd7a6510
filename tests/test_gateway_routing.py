"""What a tenant's request meets: a real Envoy in front of small real upstreams."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest
from gateway_harness import REGION, Gateway, Upstream, digest, running_gateway, table, upstream

from gateway.bootstrap import LATENCY_BOUNDS_MS
from gateway.envoy import ReleaseEndpoint, cluster_name, tenant_host
from models.fleet import RouteTable, ShardRoute
from models.ids import short

OLD, NEW = digest(1), digest(2)


@dataclass
class Fleet:
    """Tenants a and b on OLD in shard eu-001, c in eu-002 without a release, s suspended."""

    envoy: Gateway
    old: Upstream
    new: Upstream
    kv: Upstream
    generation: int = 0

    def route(self, release: str | None) -> None:
        self.generation += 1
        routes = table(self.generation, release, suspended=("s",))
        self.envoy.publisher.publish_routes(lambda: routes, self.generation)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with ExitStack() as stack:
        old, new = (stack.enter_context(upstream(name)) for name in ("old", "new"))
        directory = tmp_path_factory.mktemp("routing") / "gateway"
        envoy = stack.enter_context(running_gateway(directory))
        kv = stack.enter_context(upstream("kv", port=envoy.address.kv_port))
        yield Fleet(envoy, old, new, kv)


@pytest.fixture(autouse=True)
def on_the_old_release(fleet: Fleet) -> None:
    fleet.envoy.publisher.publish_clusters([fleet.old.endpoint(OLD), fleet.new.endpoint(NEW)])
    fleet.route(OLD)
    for each in (fleet.old, fleet.new, fleet.kv):
        each.gate.set()
        each.reached.clear()
        each.paths.clear()
        each.headers.clear()
        each.answer_headers.clear()


def test_a_tenant_reaches_the_release_of_its_shard(fleet: Fleet):
    answer = fleet.envoy.get("a", "/some/path?x=1")
    assert (answer.status, answer.body, fleet.old.paths) == (200, b"old", ["/some/path?x=1"])
    assert answer.headers["x-chainring-shard"] == "eu-001"
    assert answer.headers["x-chainring-release"] == short(OLD)
    assert "x-envoy-upstream-service-time" not in answer.headers


def test_a_shard_moves_whole(fleet: Fleet):
    fleet.route(NEW)
    assert [fleet.envoy.get(tenant).body for tenant in "ab"] == [b"new", b"new"]
    assert fleet.old.paths == []


@pytest.mark.parametrize(
    "host",
    [
        "nobody.eu.fleet.internal",
        "a.us.fleet.internal",
        "a",
        "a.eu.fleet.internal.",
        "x.a.eu.fleet.internal",
        "eu.fleet.internal",
        "*.eu.fleet.internal",
        "127.0.0.1",
        "%61.eu.fleet.internal",
        "a%2eeu.fleet.internal",
        "a" * 10_240,
    ],
)
def test_an_unknown_host_is_404_without_reaching_a_release(fleet: Fleet, host: str):
    answer = fleet.envoy.get(host=host)
    assert (answer.status, json.loads(answer.body)["error"]) == (404, "unknown_tenant")
    assert answer.headers["content-type"] == "application/json"
    assert fleet.old.paths == fleet.new.paths == []


@pytest.mark.parametrize("path", ["/", "/deep/er", "/_kv", "/_kv/key"])
def test_a_suspended_tenant_is_403_on_every_path(fleet: Fleet, path: str):
    answer = fleet.envoy.get("s", path)
    assert (answer.status, json.loads(answer.body)["error"]) == (403, "suspended")
    assert fleet.old.paths == fleet.new.paths == []


def test_a_shard_without_a_release_is_503_and_says_so(fleet: Fleet):
    answer = fleet.envoy.get("c")
    assert (answer.status, json.loads(answer.body)["error"]) == (503, "no_release")


@pytest.mark.parametrize("host", ["A.EU.Fleet.Internal", "a.eu.fleet.internal:9999"])
def test_case_and_port_of_the_host_do_not_matter(fleet: Fleet, host: str):
    assert fleet.envoy.get(host=host).body == b"old"


def test_a_full_url_in_the_request_line_decides_over_the_host_header(fleet: Fleet):
    received = fleet.envoy.raw(
        b"GET http://s.eu.fleet.internal/ HTTP/1.1\r\nHost: a.eu.fleet.internal\r\n\r\n"
    )
    assert received.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: a.eu.fleet.internal\r\nHost: b.eu.fleet.internal\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.eu.fleet.internal\x00\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \N{CYRILLIC SMALL LETTER A}.eu.fleet.internal\r\n\r\n".encode(),
    ],
)
def test_a_host_that_could_be_read_in_two_ways_reaches_nobody(fleet: Fleet, request_head: bytes):
    status = int(fleet.envoy.raw(request_head).split()[1])
    assert status in (400, 404)
    assert fleet.old.paths == []


@pytest.mark.parametrize("path", ["/a%2fb", "/a%5Cb", "/_kv%2fkey", "/_kv/a%2F..%2Fb"])
def test_an_escaped_slash_is_refused(fleet: Fleet, path: str):
    assert fleet.envoy.get("a", path).status == 400
    assert fleet.old.paths == []


def test_paths_are_normalised_before_they_are_routed(fleet: Fleet):
    fleet.envoy.get("a", "//x//y/../z")
    assert fleet.old.paths == ["/x/z"]


@pytest.mark.parametrize(
    "path",
    ["/_kv", "/_kv/key", "/_kv?prefix=a", "//_kv/key", "/x/../_kv/key", "/%5fkv/key", "/_notices"],
)
def test_state_never_goes_to_a_release(fleet: Fleet, path: str):
    answer = fleet.envoy.get("a", path)
    assert (answer.status, answer.body) == (200, b"kv")
    assert fleet.kv.headers[0]["host"] == "a.eu.fleet.internal"
    assert fleet.old.paths == []


@pytest.mark.parametrize("path", ["/_kvx", "/_k", "/x/_kv", "/_kv/../x", "/_KV/key"])
def test_other_paths_never_go_to_the_state(fleet: Fleet, path: str):
    assert fleet.envoy.get("a", path).body == b"old"
    assert fleet.kv.paths == []


def test_our_headers_cannot_be_forged(fleet: Fleet):
    fleet.old.answer_headers = {"X-Chainring-Release": "forged", "x-chainring-shard": "forged"}
    answer = fleet.envoy.get("a", X_Chainring_Tenant="b", x_chainring_release="forged", x_other="1")
    sent = fleet.old.headers[0]
    assert [name for name in sent if name.startswith("x-chainring")] == []
    assert sent["x-other"] == "1"
    assert answer.headers["x-chainring-release"] == short(OLD)
    assert answer.headers["x-chainring-shard"] == "eu-001"


def test_a_client_does_not_set_our_timeouts_and_retries(fleet: Fleet):
    fleet.old.gate.clear()
    threading.Timer(0.3, fleet.old.gate.set).start()
    answer = fleet.envoy.get(
        "a", x_envoy_upstream_rq_timeout_ms="1", x_envoy_retry_on="5xx", x_envoy_max_retries="9"
    )
    assert (answer.status, len(fleet.old.paths)) == (200, 1)


def test_a_release_that_is_down_is_503_with_a_reason(fleet: Fleet):
    gone = digest(9)
    with upstream("gone") as short_lived:
        endpoint = short_lived.endpoint(gone)
    fleet.envoy.publisher.publish_clusters([fleet.old.endpoint(OLD), endpoint])
    fleet.route(gone)
    answer = fleet.envoy.get("a")
    assert (answer.status, json.loads(answer.body)["error"]) == (503, "upstream")


def test_a_kept_connection_follows_the_swap(fleet: Fleet):
    with closing(fleet.envoy.connect()) as connection:
        for release, expected in ((OLD, b"old"), (NEW, b"new"), (OLD, b"old")):
            fleet.route(release)
            connection.request("GET", "/", headers={"Host": tenant_host("a", REGION)})
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, expected)


def test_a_request_in_flight_ends_on_the_release_it_began_on(fleet: Fleet):
    """Over the swap, and over the removal of the old release from the clusters."""
    fleet.old.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(fleet.envoy.get, "a")
        assert fleet.old.reached.wait(10)
        fleet.route(NEW)
        assert fleet.envoy.get("a").body == b"new"
        fleet.envoy.publisher.publish_clusters([fleet.new.endpoint(NEW)])
        assert cluster_name(OLD) not in fleet.envoy.admin.cluster_addresses()
        assert not asked.done()
        fleet.old.gate.set()
        assert asked.result(timeout=10).body == b"old"


def test_a_request_in_flight_survives_a_move_of_its_release_to_another_port(fleet: Fleet):
    fleet.old.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(fleet.envoy.get, "a")
        assert fleet.old.reached.wait(10)
        fleet.envoy.publisher.publish_clusters(
            [ReleaseEndpoint(OLD, fleet.new.port), fleet.new.endpoint(NEW)]
        )
        assert fleet.envoy.get("a").body == b"new"
        fleet.old.gate.set()
        assert asked.result(timeout=10).body == b"old"


def test_an_envoy_that_starts_again_routes_as_before(fleet: Fleet):
    fleet.route(NEW)
    fleet.envoy.start_again()
    assert fleet.envoy.get("a").body == b"new"
    assert fleet.envoy.get("nobody").status == 404


def test_the_latency_buckets_are_fine_enough_for_a_gate(fleet: Fleet):
    fleet.envoy.get("a")
    name = f'envoy_cluster_upstream_rq_time_bucket{{envoy_cluster_name="{cluster_name(OLD)}",le="'
    deadline = time.monotonic() + 20  # envoy merges its histograms every 5 s
    while True:
        page = fleet.envoy.admin.get("/stats/prometheus").decode()
        lines = [line for line in page.splitlines() if line.startswith(name)]
        if lines:
            break
        assert time.monotonic() < deadline
        time.sleep(0.25)
    bounds = [line.removeprefix(name).partition('"')[0] for line in lines]
    assert [float(bound) for bound in bounds[:-1]] == LATENCY_BOUNDS_MS


def test_many_tenants_are_each_routed_to_their_own_shard(fleet: Fleet):
    shards = [
        ShardRoute(f"eu-{n:03d}", (OLD, NEW)[n % 2], [f"t{n:03d}-{k}" for k in range(50)])
        for n in range(40)
    ]
    fleet.generation += 1
    routes = RouteTable(fleet.generation, shards, [])
    fleet.envoy.publisher.publish_routes(lambda: routes, fleet.generation)
    with closing(fleet.envoy.connect()) as connection:
        for shard in shards:
            for tenant in (shard.tenants[0], shard.tenants[-1]):
                response = ask(connection, tenant)
                assert response.headers["x-chainring-shard"] == shard.shard
                assert response.read() == (b"old" if shard.release == OLD else b"new")


def ask(connection: http.client.HTTPConnection, tenant: str) -> http.client.HTTPResponse:
    connection.request("GET", "/", headers={"Host": tenant_host(tenant, REGION)})
    return connection.getresponse()
