"""What a region's Envoy is told while it runs: its clusters (CDS) and its routes (RDS), as bytes.

Pure rendering, and reading back of what was rendered. The files are discovery responses in JSON
(https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol), each with ``version_info`` as
its first field, so that a file's version is read from its first bytes.

Tenants are exact host names, which Envoy finds by a hash look-up: the cost of a request does not
grow with the number of tenants.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from models.fleet import RouteTable, ShardRoute
from models.ids import is_tenant_id, short

DOMAIN = "fleet.internal"
ROUTES_NAME = "tenants"
KV_CLUSTER = "tenant-kv"
KV_PREFIX = "/_kv"
NOTICES_PREFIX = "/_notices"
UNREADY = -1
"""The generation of a gateway that has not been given a route table yet."""

ROUTE_TIMEOUT = "15s"

Message = dict[str, Any]


@dataclass(frozen=True)
class ReleaseEndpoint:
    """Where the process of a release listens in this region."""

    release: str
    port: int
    host: str = "127.0.0.1"


def cluster_name(release: str) -> str:
    """Name of the cluster, and prefix of the statistics, of a release."""
    return f"release-{short(release)}"


def tenant_host(tenant: str, region: str) -> str:
    """The one host name under which a tenant is served."""
    return f"{tenant}.{region}.{DOMAIN}"


def probe_host(region: str) -> str:
    """A host name that answers with the generation of the routes in force.

    No tenant can have it: a tenant id holds no underscore.
    """
    return f"_routes.{region}.{DOMAIN}"


def tenant_of(authority: str, region: str) -> str | None:
    """The tenant that a request's authority (with or without a port) names, else None."""
    if not authority.isascii():  # lower() would turn a Kelvin sign into a k
        return None
    host = re.sub(r":[0-9]*\Z", "", authority).lower()
    tenant = host.removesuffix(f".{region}.{DOMAIN}")
    return tenant if tenant != host and is_tenant_id(tenant) else None


def render_clusters(endpoints: Sequence[ReleaseEndpoint]) -> bytes:
    """The CDS file: one cluster per release. Its version is a digest of its content.

    Raises:
        ValueError: two releases share a cluster name, or a release is named twice.
    """
    by_name: dict[str, ReleaseEndpoint] = {}
    for endpoint in sorted(endpoints, key=lambda each: each.release):
        name = cluster_name(endpoint.release)
        if name in by_name:
            raise ValueError(
                f"endpoints: {endpoint.release} and {by_name[name].release} are both {name}"
            )
        by_name[name] = endpoint
    resources = [_cluster(name, endpoint) for name, endpoint in by_name.items()]
    return _discovery(hashlib.sha256(_json(resources)).hexdigest()[:16], resources)


def render_routes(table: RouteTable, region: str) -> bytes:
    """The RDS file: a virtual host per shard, one for suspended tenants, and 404 for all others.

    Raises:
        ValueError: a tenant is routed twice, or its id is malformed.
    """
    _check_tenants(table)
    hosts = [_shard_host(route, region) for route in table.shards if route.tenants]
    if table.suspended:
        hosts.append(_suspended_host(table.suspended, region))
    hosts.append(_fallback_host(404, "unknown_tenant", "no tenant has this host name"))
    return _route_file(table.generation, hosts, region)


def render_unready(region: str) -> bytes:
    """The RDS file of a gateway that knows no tenant yet: 503 for all, instead of a wrong 404."""
    return _route_file(
        UNREADY, [_fallback_host(503, "not_ready", "the gateway has no routes yet")], region
    )


def file_generation(content: bytes) -> int:
    """The generation of a rendered RDS file, read from its first bytes.

    Raises:
        ValueError: not such a file.
    """
    match = re.match(rb'\{"version_info":"(-?[0-9]+)"', content)
    if match is None:
        raise ValueError("routes file: it does not begin with a numeric version_info")
    return int(match[1])


def file_clusters(content: bytes) -> list[ReleaseEndpoint]:
    """The endpoints in a rendered CDS file."""
    found = []
    for cluster in msgspec.json.decode(content)["resources"]:
        lb_endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]
        address = lb_endpoint["endpoint"]["address"]["socket_address"]
        release = cluster["metadata"]["filter_metadata"]["chainring"]["release"]
        found.append(ReleaseEndpoint(release, address["port_value"], address["address"]))
    return found


def file_routes(content: bytes) -> dict[str, tuple[str | None, list[str]]]:
    """For each shard in a rendered RDS file: the cluster that serves it, and its host names."""
    shards = {}
    for host in msgspec.json.decode(content)["resources"][0]["virtual_hosts"]:
        kind, _, name = host["name"].partition("/")
        if kind == "shard":
            shards[name] = (host["routes"][-1].get("route", {}).get("cluster"), host["domains"])
    return shards


def _check_tenants(table: RouteTable) -> None:
    seen: set[str] = set()
    for tenants in (*(route.tenants for route in table.shards), table.suspended):
        for tenant in tenants:
            if not is_tenant_id(tenant):
                raise ValueError(f"tenant: {tenant[:80]!r} is not a tenant id")
            if tenant in seen:
                raise ValueError(f"tenant: {tenant} is routed twice")
            seen.add(tenant)


def _shard_host(route: ShardRoute, region: str) -> Message:
    ours = [_own_route(KV_PREFIX), _own_route(NOTICES_PREFIX)]
    return {
        "name": f"shard/{route.shard}",
        "domains": [tenant_host(tenant, region) for tenant in route.tenants],
        "response_headers_to_add": [_header("x-chainring-shard", route.shard)],
        "routes": [*ours, _release_route(route)],
    }


def _own_route(prefix: str) -> Message:
    """What the gateway's own process serves."""
    return {
        "match": {"path_separated_prefix": prefix},
        "route": {
            "cluster": KV_CLUSTER,
            "timeout": ROUTE_TIMEOUT,
            "retry_policy": _SAFE_RETRIES,
        },
    }


def _release_route(route: ShardRoute) -> Message:
    if route.release is None:
        return _direct(503, "no_release", f"shard {route.shard} has no release yet")
    return {
        "match": {"prefix": "/"},
        "route": {
            "cluster": cluster_name(route.release),
            "timeout": ROUTE_TIMEOUT,
            "retry_policy": _SAFE_RETRIES,
        },
        "response_headers_to_add": [_header("x-chainring-release", short(route.release))],
    }


_SAFE_RETRIES: Message = {
    # Only where the other side cannot have seen the request, so that none is done twice.
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 3,
    "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.250s"},
}


def _suspended_host(tenants: Iterable[str], region: str) -> Message:
    return {
        "name": "suspended",
        "domains": [tenant_host(tenant, region) for tenant in tenants],
        "routes": [_direct(403, "suspended", "this tenant is suspended")],
    }


def _fallback_host(status: int, error: str, message: str) -> Message:
    return {"name": "fallback", "domains": ["*"], "routes": [_direct(status, error, message)]}


def _route_file(generation: int, hosts: list[Message], region: str) -> bytes:
    probe = {
        "name": "probe",
        "domains": [probe_host(region)],
        "routes": [_answer(200, {"generation": generation})],
    }
    resource = {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": ROUTES_NAME,
        "virtual_hosts": [*hosts, probe],
    }
    return _discovery(str(generation), [resource])


def _direct(status: int, error: str, message: str) -> Message:
    return _answer(status, {"error": error, "message": message})


def _answer(status: int, body: Message) -> Message:
    """A route that Envoy answers by itself, with JSON."""
    return {
        "match": {"prefix": "/"},
        "direct_response": {"status": status, "body": {"inline_string": _json(body).decode()}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


def _header(name: str, value: str) -> Message:
    """Overwrites what the release says: its word about itself is not evidence."""
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _cluster(name: str, endpoint: ReleaseEndpoint) -> Message:
    resource = static_cluster(name, endpoint.host, endpoint.port)
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        **resource,
        "metadata": {"filter_metadata": {"chainring": {"release": endpoint.release}}},
    }


def static_cluster(name: str, host: str, port: int) -> Message:
    """A cluster of one address."""
    address = {"socket_address": {"address": host, "port_value": port}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "circuit_breakers": {"thresholds": [_LIMITS]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _UPSTREAM_HTTP
        },
    }


_LIMITS: Message = {
    "max_connections": 2048,
    "max_pending_requests": 4096,
    "max_requests": 8192,
    "max_retries": 256,
}

_UPSTREAM_HTTP: Message = {
    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    # Below the shortest keep-alive that common servers have (2 s): a connection that the server is
    # closing is then not chosen for a request that must not be sent twice.
    "common_http_protocol_options": {"idle_timeout": "1s"},
    "explicit_http_config": {"http_protocol_options": {}},
}


def _discovery(version: str, resources: list[Message]) -> bytes:
    return _json({"version_info": version, "resources": resources})


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)
