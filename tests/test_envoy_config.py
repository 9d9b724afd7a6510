"""Rendering of Envoy's files: what is in them, what is refused, and that Envoy accepts them."""

import json
import subprocess
from pathlib import Path

import pytest
from gateway_harness import REGION, digest, free_address, table
from hypothesis import given
from hypothesis import strategies as st

from gateway.bootstrap import render_bootstrap
from gateway.envoy import (
    UNREADY,
    ReleaseEndpoint,
    cluster_name,
    file_clusters,
    file_generation,
    file_routes,
    probe_host,
    render_clusters,
    render_routes,
    render_unready,
    tenant_host,
    tenant_of,
)
from gateway.envoy_process import command, prepare
from models.fleet import RouteTable, ShardRoute
from models.ids import is_tenant_id


def hosts_of(content: bytes) -> dict[str, dict]:
    resource = json.loads(content)["resources"][0]
    return {host["name"]: host for host in resource["virtual_hosts"]}


def test_each_shard_is_a_virtual_host_of_exact_names():
    hosts = hosts_of(render_routes(table(7, digest(1)), REGION))
    assert hosts["shard/eu-001"]["domains"] == ["a.eu.fleet.internal", "b.eu.fleet.internal"]
    route = hosts["shard/eu-001"]["routes"][-1]
    assert route["route"]["cluster"] == cluster_name(digest(1)) == "release-000000000001"


def test_a_shard_without_a_release_keeps_its_state_but_answers_503():
    hosts = hosts_of(render_routes(table(7, digest(1)), REGION))
    kv, notices, release = hosts["shard/eu-002"]["routes"]
    assert kv["match"] == {"path_separated_prefix": "/_kv"}
    assert notices["match"] == {"path_separated_prefix": "/_notices"}
    assert release["direct_response"]["status"] == 503


def test_a_shard_without_tenants_is_left_out_for_envoy_refuses_it():
    empty = RouteTable(1, [ShardRoute("eu-001", digest(1), [])], [])
    assert set(hosts_of(render_routes(empty, REGION))) == {"fallback", "probe"}


def test_suspended_tenants_have_a_host_of_their_own():
    hosts = hosts_of(render_routes(table(7, digest(1), suspended=("x", "y")), REGION))
    assert hosts["suspended"]["domains"] == ["x.eu.fleet.internal", "y.eu.fleet.internal"]
    assert [each["direct_response"]["status"] for each in hosts["suspended"]["routes"]] == [403]


def test_the_generation_is_the_version_and_is_read_back():
    assert file_generation(render_routes(table(12345, digest(1)), REGION)) == 12345
    assert file_generation(render_unready(REGION)) == UNREADY


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version_info":"x"}', b'{"version_info":""}'])
def test_a_file_without_a_generation_is_refused(content):
    with pytest.raises(ValueError, match="version_info"):
        file_generation(content)


def test_routes_and_clusters_are_read_back():
    content = render_routes(table(7, digest(1)), REGION)
    assert file_routes(content) == {
        "eu-001": (cluster_name(digest(1)), ["a.eu.fleet.internal", "b.eu.fleet.internal"]),
        "eu-002": (None, ["c.eu.fleet.internal"]),
    }
    endpoints = [ReleaseEndpoint(digest(1), 1001), ReleaseEndpoint(digest(2), 1002, "10.0.0.2")]
    assert file_clusters(render_clusters(endpoints)) == endpoints


def test_clusters_do_not_depend_on_the_order_they_come_in():
    one, two = ReleaseEndpoint(digest(1), 1001), ReleaseEndpoint(digest(2), 1002)
    assert render_clusters([one, two]) == render_clusters([two, one])
    assert render_clusters([one]) != render_clusters([two])


@pytest.mark.parametrize(
    ("shards", "suspended"),
    [
        ([ShardRoute("eu-001", None, ["a", "a"])], []),
        ([ShardRoute("eu-001", None, ["a"]), ShardRoute("eu-002", None, ["a"])], []),
        ([ShardRoute("eu-001", None, ["a"])], ["a"]),
    ],
)
def test_a_tenant_routed_twice_is_refused(shards, suspended):
    with pytest.raises(ValueError, match="tenant: a is routed twice"):
        render_routes(RouteTable(1, shards, suspended), REGION)


@pytest.mark.parametrize("tenant", ["", "A", "a.b", "*", "a/b", "_routes", "a\n", "x" * 64])
def test_a_malformed_tenant_is_refused(tenant):
    with pytest.raises(ValueError, match="not a tenant id"):
        render_routes(RouteTable(1, [ShardRoute("eu-001", None, [tenant])], []), REGION)


def test_releases_that_share_a_short_name_are_refused():
    alike = [ReleaseEndpoint(f"sha256:{'a' * 12}{tail * 52}", 1001) for tail in "bc"]
    with pytest.raises(ValueError, match="release-aaaaaaaaaaaa"):
        render_clusters(alike)


@pytest.mark.parametrize(
    "authority",
    [
        "",
        "a",
        "eu.fleet.internal",
        ".eu.fleet.internal",
        "a.us.fleet.internal",
        "a.eu.fleet.internal.",
        "a.eu.fleet.internal.example.org",
        "a.b.eu.fleet.internal",
        "a%2e.eu.fleet.internal",
        "a@b.eu.fleet.internal",
        "\N{KELVIN SIGN}.eu.fleet.internal",
        "a.eu.fleet.internal:80:80",
        "a.eu.fleet.internal:http",
        "a.eu.fleet.internal\n",
        "a" * 10_240,
    ],
)
def test_an_authority_that_names_no_tenant(authority):
    assert tenant_of(authority, REGION) is None


def test_one_tenant_has_one_name_in_any_case_and_with_any_port():
    for authority in ("a.eu.fleet.internal", "A.EU.Fleet.Internal", "a.eu.fleet.internal:8080"):
        assert tenant_of(authority, REGION) == "a"
    assert tenant_of(probe_host(REGION), REGION) is None


@given(st.text(max_size=80))
def test_only_the_name_of_a_tenant_leads_to_it(text):
    found = tenant_of(f"{text}.eu.fleet.internal", REGION)
    assert found is None or (is_tenant_id(found) and text.lower() == found and text.isascii())


@given(st.from_regex(r"\A[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"))
def test_every_tenant_is_found_by_its_host(tenant):
    assert tenant_of(tenant_host(tenant, REGION), REGION) == tenant


def test_the_admin_interface_stays_on_loopback_wherever_envoy_listens(tmp_path: Path):
    address = free_address(tmp_path).model_copy(update={"host": "0.0.0.0"})
    bootstrap = json.loads(render_bootstrap(address))
    assert bootstrap["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    listener = bootstrap["static_resources"]["listeners"][0]
    assert listener["address"]["socket_address"]["address"] == "0.0.0.0"


def test_prepare_keeps_what_was_published_and_envoy_accepts_its_files(tmp_path: Path):
    address = free_address(tmp_path / "gateway")
    prepare(address, REGION)
    routes = tmp_path / "gateway" / "routes" / "rds.json"
    assert file_generation(routes.read_bytes()) == UNREADY
    routes.write_bytes(render_routes(table(3, digest(1)), REGION))
    prepare(address, REGION)
    assert file_generation(routes.read_bytes()) == 3
    subprocess.run([*command(address, REGION), "--mode", "validate"], check=True, timeout=60)
