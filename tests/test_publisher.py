"""Publishing to a real Envoy: what is in force when a publication returns, and what goes wrong."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from gateway_harness import (
    REGION,
    Gateway,
    digest,
    running_gateway,
    table,
    upstream,
    wait_until,
)
from ports import free_port

import gateway.publisher
from gateway.bootstrap import clusters_file, routes_file
from gateway.envoy import ReleaseEndpoint, cluster_name, file_generation, render_routes
from gateway.publisher import GatewayError, GatewayUnavailable, RoutePublisher
from models.fleet import RouteTable


@pytest.fixture
def envoy(tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(tmp_path / "gateway") as running:
        yield running


def generation_on_disk(envoy: Gateway) -> int:
    return file_generation(routes_file(envoy.address.directory).read_bytes())


def test_routes_are_in_force_when_the_call_returns(envoy: Gateway):
    assert envoy.get("a").status == 503  # nothing is published: not a wrong 404
    with upstream("one") as one, upstream("two") as two:
        envoy.publisher.publish_clusters([one.endpoint(digest(1)), two.endpoint(digest(2))])
        for generation in range(1, 41):
            expected = 1 + generation % 2
            current = table(generation, digest(expected))
            assert envoy.publisher.publish_routes(lambda t=current: t, generation) == generation
            answer = envoy.get("a")
            assert answer.body.decode() == ("one" if expected == 1 else "two")


def test_a_new_generation_with_the_same_routes_is_in_force_too(envoy: Gateway):
    for generation in (1, 2, 3):
        envoy.publisher.publish_routes(lambda g=generation: table(g, None), generation)
        assert envoy.admin.applied_generation(REGION) == generation


def test_an_older_table_never_replaces_a_newer_one(envoy: Gateway):
    envoy.publisher.publish_routes(lambda: table(9, digest(1)), 9)
    another = RoutePublisher(envoy.address, REGION)  # as in another process: it remembers nothing
    another.publish_routes(lambda: table(5, digest(2)), 5)
    assert generation_on_disk(envoy) == 9
    assert envoy.admin.applied_generation(REGION) == 9


def test_a_generation_that_is_already_in_force_is_not_loaded_again(envoy: Gateway):
    envoy.publisher.publish_routes(lambda: table(4, None), 4)

    def unwanted() -> RouteTable:
        raise AssertionError("loaded")

    assert envoy.publisher.publish_routes(unwanted, 3) == 4


def test_a_table_older_than_asked_for_is_refused_and_changes_nothing(envoy: Gateway):
    envoy.publisher.publish_routes(lambda: table(4, None), 4)
    with pytest.raises(GatewayError, match="generation 5, older than 6"):
        envoy.publisher.publish_routes(lambda: table(5, None), 6)
    assert generation_on_disk(envoy) == 4
    assert envoy.publisher.publish_routes(lambda: table(6, None), 6) == 6  # the turn was passed on


def test_many_callers_share_few_publications(envoy: Gateway):
    guard, committed, loads = threading.Lock(), 0, []

    def load() -> RouteTable:
        with guard:
            loads.append(committed)
            return table(committed, None)

    def activate(_: int) -> tuple[int, int]:
        nonlocal committed
        with guard:
            committed += 1
            mine = committed
        return mine, envoy.publisher.publish_routes(load, mine)

    with ThreadPoolExecutor(24) as pool:
        results = list(pool.map(activate, range(96)))
    assert all(applied >= mine for mine, applied in results)
    assert envoy.admin.applied_generation(REGION) == 96
    assert len(loads) < 60  # each publication would otherwise be one of 96


def test_a_failed_load_reaches_its_caller_only(envoy: Gateway):
    def broken() -> RouteTable:
        raise LookupError("store")

    with pytest.raises(LookupError):
        envoy.publisher.publish_routes(broken, 1)
    assert envoy.publisher.publish_routes(lambda: table(1, None), 1) == 1


def test_what_envoy_refuses_is_an_error_and_does_not_stay_on_disk(
    envoy: Gateway, monkeypatch: pytest.MonkeyPatch
):
    envoy.publisher.publish_routes(lambda: table(1, None), 1)

    def twice(routes: RouteTable, region: str) -> bytes:
        return render_routes(routes, region).replace(b'"b.eu.', b'"a.eu.')

    monkeypatch.setattr(gateway.publisher, "render_routes", twice)
    with pytest.raises(GatewayError, match=r"a[.]eu[.]fleet[.]internal") as caught:
        envoy.publisher.publish_routes(lambda: table(2, None), 2)
    assert not isinstance(caught.value, GatewayUnavailable)
    monkeypatch.undo()
    assert generation_on_disk(envoy) == 1
    envoy.start_again()
    assert envoy.admin.applied_generation(REGION) == 1
    assert envoy.publisher.publish_routes(lambda: table(2, None), 2) == 2


def test_a_refused_cluster_is_an_error_and_does_not_stay_on_disk(envoy: Gateway):
    good = ReleaseEndpoint(digest(1), free_port())
    envoy.publisher.publish_clusters([good])
    with pytest.raises(GatewayError, match="refused by envoy"):
        envoy.publisher.publish_clusters([good, ReleaseEndpoint(digest(2), 70_000)])
    assert envoy.publisher.clusters() == [good]


def test_without_envoy_the_table_is_kept_for_its_return(envoy: Gateway):
    impatient = RoutePublisher(envoy.address, REGION, deadline=0.3)
    envoy.process.kill()
    envoy.process.wait()
    with pytest.raises(GatewayUnavailable, match="routes of generation 3"):
        impatient.publish_routes(lambda: table(3, None), 3)
    with pytest.raises(GatewayUnavailable, match="release-000000000001"):
        impatient.publish_clusters([ReleaseEndpoint(digest(1), free_port())])
    envoy.start_again()
    assert envoy.admin.applied_generation(REGION) == 3
    assert cluster_name(digest(1)) in envoy.admin.cluster_addresses()
    assert impatient.publish_routes(lambda: table(3, None), 3) == 3


def test_a_publication_waits_for_an_envoy_that_starts(envoy: Gateway):
    envoy.process.kill()
    envoy.process.wait()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(envoy.publisher.publish_routes, lambda: table(2, None), 2)
        envoy.start_again()
        assert waiting.result(timeout=20) == 2


def test_an_unprepared_directory_is_unavailable(tmp_path: Path, envoy: Gateway):
    elsewhere = envoy.address.model_copy(update={"directory": tmp_path / "nowhere"})
    with pytest.raises(GatewayUnavailable, match="prepared"):
        RoutePublisher(elsewhere, REGION).publish_routes(lambda: table(1, None), 1)


def test_clusters_can_take_requests_when_the_call_returns(envoy: Gateway):
    port = free_port()
    for n in range(1, 11):
        envoy.publisher.publish_clusters([ReleaseEndpoint(digest(n), port)])
        assert envoy.admin.cluster_addresses()[cluster_name(digest(n))] == ("127.0.0.1", port)
    envoy.publisher.publish_clusters([ReleaseEndpoint(digest(10), port)])  # nothing new: returns


def test_a_release_that_moves_to_another_port_is_followed(envoy: Gateway):
    with upstream("before") as before, upstream("after") as after:
        envoy.publisher.publish_clusters([before.endpoint(digest(1))])
        envoy.publisher.publish_routes(lambda: table(1, digest(1)), 1)
        assert envoy.get("a").body == b"before"
        envoy.publisher.publish_clusters([after.endpoint(digest(1))])
        assert envoy.get("a").body == b"after"


def test_a_cluster_stays_while_a_route_leads_to_it(envoy: Gateway):
    with upstream("one") as one, upstream("two") as two:
        first, second = one.endpoint(digest(1)), two.endpoint(digest(2))
        envoy.publisher.publish_clusters([first, second])
        envoy.publisher.publish_routes(lambda: table(1, digest(1)), 1)
        envoy.publisher.publish_clusters([second])
        assert envoy.get("a").body == b"one"
        envoy.publisher.publish_routes(lambda: table(2, digest(2)), 2)
        envoy.publisher.publish_clusters([second])
        assert envoy.publisher.clusters() == [second]
        assert envoy.get("a").body == b"two"


def test_the_newest_list_of_clusters_wins_over_threads(envoy: Gateway):
    port, known, guard = free_port(), [], threading.Lock()

    def stage(n: int) -> None:
        with guard:
            known.append(ReleaseEndpoint(digest(n), port))
        envoy.publisher.publish_clusters(lambda: list(known))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(stage, range(1, 25)))
    assert {each.release for each in envoy.publisher.clusters()} == {
        digest(n) for n in range(1, 25)
    }


def test_two_processes_take_turns(envoy: Gateway):
    publishers = [RoutePublisher(envoy.address, REGION) for _ in range(4)]

    def publish(n: int) -> int:
        return publishers[n % 4].publish_routes(lambda: table(n, None), n)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish, range(1, 41)))
    assert generation_on_disk(envoy) == 40
    assert envoy.admin.applied_generation(REGION) == 40


def test_requests_in_flight_are_counted(envoy: Gateway):
    with upstream("slow") as slow:
        envoy.publisher.publish_clusters([slow.endpoint(digest(1))])
        envoy.publisher.publish_routes(lambda: table(1, digest(1)), 1)
        slow.gate.clear()
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(envoy.get, "a") for _ in range(3)]
            wait_until(lambda: envoy.admin.active_requests(digest(1)) == 3)
            slow.gate.set()
            assert [each.result().status for each in asked] == [200] * 3
        wait_until(lambda: envoy.admin.active_requests(digest(1)) == 0)
    assert envoy.admin.active_requests(digest(99)) == 0  # a release that envoy never heard of


def test_each_start_of_envoy_is_an_incarnation(envoy: Gateway):
    first = envoy.admin.server_info()
    assert (first.state, first.node.partition("/")[0]) == ("LIVE", REGION)
    envoy.start_again()
    assert envoy.admin.server_info().node != first.node


def test_an_envoy_that_is_down_is_not_ready(envoy: Gateway):
    assert envoy.admin.ready()
    envoy.process.kill()
    envoy.process.wait()
    assert not envoy.admin.ready()
    with pytest.raises(GatewayUnavailable, match="server_info"):
        envoy.admin.server_info()


def test_a_same_generation_with_other_content_is_replaced(envoy: Gateway):
    """As after an upgrade of Chainring that renders differently."""
    envoy.publisher.publish_routes(lambda: table(1, None), 1)
    changed = replace(table(1, None), suspended=["z"])
    RoutePublisher(envoy.address, REGION).publish_routes(lambda: changed, 1)
    content = json.loads(routes_file(envoy.address.directory).read_bytes())
    names = [host["name"] for host in content["resources"][0]["virtual_hosts"]]
    assert "suspended" in names
    assert clusters_file(envoy.address.directory).exists()
