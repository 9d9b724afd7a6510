"""The configuration with which a region's Envoy starts; it does not change while Envoy runs.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/bootstrap/v3/bootstrap.proto
"""

import json
from pathlib import Path
from typing import Any

from gateway.envoy import KV_CLUSTER, ROUTES_NAME, static_cluster
from models.addresses import GatewayAddress

STAT_PREFIX = "ingress"
LATENCY_BOUNDS_MS = [
    *(0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750),
    *(1000, 2000, 5000, 10000),
]
"""Upper bounds of Envoy's latency histograms, in milliseconds: what a gate can tell apart."""

LOOPBACK = "127.0.0.1"

Message = dict[str, Any]

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"


def routes_file(directory: Path) -> Path:
    """The RDS file of a gateway. Its directory holds nothing else: each move there is a reload."""
    return directory / "routes" / "rds.json"


def clusters_file(directory: Path) -> Path:
    """The CDS file of a gateway, in a directory of its own for the same reason."""
    return directory / "clusters" / "cds.json"


def render_bootstrap(address: GatewayAddress) -> bytes:
    """Envoy's start configuration as JSON. Admin listens on loopback, always."""
    directory = address.directory.absolute()
    return json.dumps(
        {
            "admin": {"address": _address(LOOPBACK, address.admin_port)},
            # A gate's look must not lag what tenants feel: histograms are merged at each flush.
            "stats_flush_interval": "1s",
            "stats_config": {"histogram_bucket_settings": [_LATENCY_BUCKETS]},
            "dynamic_resources": {"cds_config": _watched(clusters_file(directory))},
            "static_resources": {
                "listeners": [
                    {
                        "name": "ingress",
                        "address": _address(address.host, address.port),
                        "filter_chains": [{"filters": [_connection_manager(directory)]}],
                    }
                ],
                "clusters": [static_cluster(KV_CLUSTER, LOOPBACK, address.kv_port)],
            },
        },
        indent=1,
    ).encode()


_LATENCY_BUCKETS: Message = {
    "match": {"suffix": "upstream_rq_time"},
    "buckets": LATENCY_BOUNDS_MS,
}


def _connection_manager(directory: Path) -> Message:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network"
            ".http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": STAT_PREFIX,
            "codec_type": "AUTO",
            "rds": {
                "route_config_name": ROUTES_NAME,
                "config_source": _watched(routes_file(directory)),
            },
            **_AUTHORITY_AND_PATH,
            **_EDGE,
            "local_reply_config": {"mappers": [_FAILURE_AS_JSON]},
            "http_filters": [_STRIP_OUR_HEADERS, _ROUTER],
        },
    }


_AUTHORITY_AND_PATH: Message = {
    "strip_any_host_port": True,
    "normalize_path": True,
    "merge_slashes": True,
    "path_with_escaped_slashes_action": "REJECT_REQUEST",
}

_EDGE: Message = {
    # Clients are outside: their x-envoy-* headers (timeouts, retries) are dropped, because no
    # address but one reserved for documentation (RFC 5737) counts as internal.
    "use_remote_address": True,
    "internal_address_config": {"cidr_ranges": [{"address_prefix": "192.0.2.0", "prefix_len": 32}]},
    "server_header_transformation": "PASS_THROUGH",
    "generate_request_id": False,
    "request_headers_timeout": "10s",
    "stream_idle_timeout": "60s",
    "common_http_protocol_options": {"idle_timeout": "600s"},
    "http2_protocol_options": {"max_concurrent_streams": 256},
}

_FAILURE_AS_JSON: Message = {
    # Envoy's own answers about a release that cannot be reached. Direct responses of routes have
    # none of these flags and keep the body that the route gives them.
    "filter": {
        "response_flag_filter": {
            "flags": ["UF", "UO", "UH", "UT", "UC", "UR", "URX", "NC", "LR", "SI", "UMSDR", "OM"]
        }
    },
    "body_format_override": {
        "json_format": {"error": "upstream", "message": "%RESPONSE_CODE_DETAILS%"},
        "content_type": "application/json",
    },
}

_STRIP_OUR_HEADERS: Message = {
    "name": "envoy.filters.http.header_mutation",
    "typed_config": {
        "@type": f"{_HTTP}.header_mutation.v3.HeaderMutation",
        "mutations": {
            "request_mutations": [
                {
                    "remove_on_match": {
                        "key_matcher": {"prefix": "x-chainring-", "ignore_case": True}
                    }
                }
            ]
        },
    },
}

_ROUTER: Message = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{_HTTP}.router.v3.Router", "suppress_envoy_headers": True},
}


def _watched(path: Path) -> Message:
    return {
        "resource_api_version": "V3",
        "path_config_source": {
            "path": str(path),
            "watched_directory": {"path": str(path.parent)},
        },
    }


def _address(host: str, port: int) -> Message:
    return {"socket_address": {"address": host, "port_value": port}}
