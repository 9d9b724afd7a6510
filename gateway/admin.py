"""What a running Envoy says about itself: a small client of its admin interface, with deadlines.

Each call opens its own connection, so that one client serves any number of threads.
Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin
"""

import http.client
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from gateway.bootstrap import LOOPBACK, STAT_PREFIX
from gateway.envoy import ROUTES_NAME, cluster_name, probe_host
from gateway.errors import GatewayUnavailable
from models.addresses import GatewayAddress

ROUTES_STATS = f"http.{STAT_PREFIX}.rds.{ROUTES_NAME}"
CLUSTERS_STATS = "cluster_manager.cds"

_ANY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 - recognised, never bound


@dataclass(frozen=True)
class ServerInfo:
    """One incarnation of Envoy: ``node`` is new at each start, counters begin at zero with it."""

    node: str
    state: str
    version: str
    uptime_seconds: int


class EnvoyAdmin:
    """Reads one Envoy. ``timeout`` in seconds bounds each call.

    Every method raises `GatewayUnavailable` when Envoy does not answer in time, or not as expected.
    """

    def __init__(self, address: GatewayAddress, *, timeout: float = 2.0) -> None:
        self._address = address
        self._timeout = timeout

    def get(self, path: str) -> bytes:
        """The body of an admin page."""
        status, body = self._fetch(LOOPBACK, self._address.admin_port, path, "admin")
        if status != HTTPStatus.OK:
            raise GatewayUnavailable(f"envoy admin {path}: status {status}")
        return body

    def ready(self) -> bool:
        """Whether Envoy is live, its clusters and routes loaded and its listener open."""
        try:
            return self.get("/ready").strip() == b"LIVE"
        except GatewayUnavailable:
            return False

    def server_info(self) -> ServerInfo:
        info = self._get_json("/server_info")
        return ServerInfo(
            node=info["node"]["id"],
            state=info["state"],
            version=info["version"].split("/")[1],
            uptime_seconds=int(info["uptime_current_epoch"].removesuffix("s")),
        )

    def cluster_addresses(self) -> dict[str, tuple[str, int]]:
        """Address of each cluster that is in use; one that still warms is not among them."""
        found = {}
        for status in self._get_json("/clusters?format=json").get("cluster_statuses", []):
            for host in status.get("host_statuses", []):
                address = host["address"]["socket_address"]
                found[status["name"]] = (address["address"], address["port_value"])
        return found

    def counter(self, name: str) -> int:
        """A counter or gauge; 0 when Envoy does not have it (yet)."""
        pattern = quote(f"^{name.replace('.', '[.]')}$")
        for stat in self._get_json(f"/stats?format=json&filter={pattern}").get("stats", []):
            if stat.get("name") == name:
                return int(stat["value"])
        return 0

    def active_requests(self, release: str) -> int:
        """Requests that are at a release or wait for a connection to it."""
        prefix = f"cluster.{cluster_name(release)}"
        active = self.counter(f"{prefix}.upstream_rq_active")
        return active + self.counter(f"{prefix}.upstream_rq_pending_active")

    def rejected_routes(self) -> int:
        """How many route files this incarnation of Envoy has refused."""
        return self.counter(f"{ROUTES_STATS}.update_rejected")

    def rejected_clusters(self) -> int:
        """How many cluster files this incarnation of Envoy has refused."""
        return self.counter(f"{CLUSTERS_STATS}.update_rejected")

    def applied_generation(self, region: str) -> int:
        """Generation of the routes that requests meet now.

        Asked on the request path itself: the admin interface names a new version when the main
        thread has read it, which is before the thread that serves requests uses it.
        """
        host = LOOPBACK if self._address.host in _ANY_ADDRESS else self._address.host
        status, body = self._fetch(host, self._address.port, "/", probe_host(region))
        if status != HTTPStatus.OK:
            raise GatewayUnavailable(f"envoy: {probe_host(region)} answered {status}")
        return int(_parse(body, probe_host(region))["generation"])

    def _get_json(self, path: str) -> dict[str, Any]:
        return _parse(self.get(path), path)

    def _fetch(self, host: str, port: int, path: str, authority: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
        try:
            connection.request("GET", path, headers={"Host": authority})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise GatewayUnavailable(f"envoy at {host}:{port}{path}: {error!r}") from error
        finally:
            connection.close()


def _parse(body: bytes, what: str) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError as error:
        raise GatewayUnavailable(f"envoy {what}: not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise GatewayUnavailable(f"envoy {what}: not a JSON object")
    return parsed
