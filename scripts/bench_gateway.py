"""What tenant routing costs: Envoy with 10,000 tenants in 100 shards against Envoy with one route.

    scripts/bench_gateway.py --pairs 10 --seconds 2

All pass what they get to the same upstream, an Envoy that answers by itself. They run in turn, in
one run of this script, and each round gives two ratios: against the gateway as it is with one
tenant, which is what so many tenants cost; and against the plainest configuration that Envoy starts
with, which is all that the gateway adds (headers of its own, retries, limits, an edge that trusts
nobody). Uses ``wrk`` when it is installed, else a generator in Python, which is slower than Envoy
and so shows less of a difference.

The processor time that Envoy takes for a request is measured beside the rate: on a machine that
does other things too, it is the steadier of the two.
"""

import argparse
import asyncio
import json
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from load_connection import Connection, Request, Response

from gateway.admin import EnvoyAdmin
from gateway.envoy import ReleaseEndpoint, static_cluster, tenant_host
from gateway.envoy_process import bootstrap_file, command, log_file, prepare
from gateway.publisher import RoutePublisher
from models.addresses import GatewayAddress
from models.fleet import RouteTable, ShardRoute

REGION = "eu"
TENANTS_PER_SHARD = 100
SHARDS = 100
CONNECTIONS = 32
TARGET = 0.9
RELEASE = "sha256:" + "0" * 64

Message = dict[str, Any]


@dataclass(frozen=True)
class Proxy:
    """A running Envoy."""

    address: GatewayAddress
    process: psutil.Process

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@dataclass(frozen=True)
class Side:
    """One of those that are compared, and a file with the hosts that its requests name."""

    name: str
    proxy: Proxy
    hosts: Path


@dataclass(frozen=True)
class Measured:
    """One measurement: requests a second, and microseconds of Envoy's processor for each."""

    rate: float
    micros: float


def plain_bootstrap(address: GatewayAddress, *, route: Message, clusters: list[Message]) -> bytes:
    """Envoy with one listener and one route, and nothing else."""
    extensions = "type.googleapis.com/envoy.extensions.filters"
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {"name": "one", "virtual_hosts": [host]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{extensions}.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.http_connection_manager", "typed_config": manager}]
    listener = {
        "name": "ingress",
        "address": _socket(address.port),
        "filter_chains": [{"filters": filters}],
    }
    static = {"listeners": [listener], "clusters": clusters}
    return json.dumps(
        {"admin": {"address": _socket(address.admin_port)}, "static_resources": static}
    ).encode()


def _socket(port: int) -> Message:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def envoy(directory: Path, bootstrap: Message | None = None) -> Iterator[Proxy]:
    """An Envoy as Chainring starts it, with its own bootstrap or with a plain one."""
    address = GatewayAddress(
        port=free_port(), admin_port=free_port(), kv_port=free_port(), directory=directory
    )
    prepare(address, REGION)
    if bootstrap is not None:
        bootstrap_file(directory).write_bytes(plain_bootstrap(address, **bootstrap))
    process = subprocess.Popen(command(address, REGION))
    try:
        while not EnvoyAdmin(address).ready():
            if process.poll() is not None:
                raise SystemExit(f"envoy ended: {log_file(directory).read_text()}")
            time.sleep(0.05)
        yield Proxy(address, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


def tenants_of(shard: int) -> list[str]:
    return [f"tenant-{shard:03d}-{n:03d}" for n in range(TENANTS_PER_SHARD)]


def publish_tenants(
    address: GatewayAddress, upstream_port: int, shards: Sequence[ShardRoute]
) -> None:
    publisher = RoutePublisher(address, REGION)
    publisher.publish_clusters([ReleaseEndpoint(RELEASE, upstream_port)])
    publisher.publish_routes(lambda: RouteTable(1, [*shards], []), 1)


def fleet() -> list[ShardRoute]:
    return [ShardRoute(f"eu-{n:03d}", RELEASE, tenants_of(n)) for n in range(SHARDS)]


def hosts_of(shards: Sequence[ShardRoute]) -> list[str]:
    hosts = [tenant_host(tenant, REGION) for shard in shards for tenant in shard.tenants]
    random.Random(1).shuffle(hosts)
    return hosts


def measure_with_wrk(port: int, seconds: int, hosts: Path) -> float:
    script = hosts.with_suffix(".lua")
    script.write_text(
        f"""
        local requests, n = {{}}, 0
        for host in io.lines("{hosts}") do
          requests[#requests + 1] = wrk.format("GET", "/", {{ Host = host }})
        end
        request = function() n = n % #requests + 1; return requests[n] end
        """
    )
    wrk = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)]
    out = subprocess.run(
        [*wrk, f"http://127.0.0.1:{port}/"], check=True, capture_output=True, text=True
    ).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"requests failed:\n{out}")
    found = re.search(r"Requests/sec:\s+([0-9.]+)", out)
    assert found is not None, out
    return float(found[1])


def measure_with_python(port: int, seconds: int, hosts: Path) -> float:
    return asyncio.run(_closed_loop(port, seconds, hosts.read_text().split()))


async def _closed_loop(port: int, seconds: int, hosts: Sequence[str]) -> float:
    requests = [f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() for host in hosts]
    loop, until, answers = asyncio.get_running_loop(), time.monotonic() + seconds, 0
    idle: asyncio.Queue[Connection] = asyncio.Queue()

    def answered(response: Response) -> None:
        nonlocal answers
        if response.status != 200:
            raise SystemExit(f"a request failed: status {response.status}")
        answers += 1

    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(
            lambda: Connection(idle.put_nowait), "127.0.0.1", port
        )
        idle.put_nowait(connection)
    while time.monotonic() < until:
        connection = await idle.get()
        connection.send(Request(requests[answers % len(requests)], answered))
    return answers / seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=9, help="rounds")
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    options = parser.parse_args()
    measure = measure_with_wrk if shutil.which("wrk") else measure_with_python
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = _sides(stack, home)
        for each in sides:
            measure(each.proxy.address.port, 1, each.hosts)
        rounds = []
        for number in range(options.pairs):
            # Each goes first as often as the others: what the machine does meanwhile hits all.
            first = number % len(sides)
            order = [*sides[first:], *sides[:first]]
            found = {each.name: _measure(measure, each, options.seconds) for each in order}
            rounds.append([found[each.name] for each in sides])
    return report(rounds, measure is measure_with_wrk)


def _sides(stack: ExitStack, home: Path) -> list[Side]:
    answers = {"direct_response": {"status": 200, "body": {"inline_string": "ok"}}}
    behind = stack.enter_context(envoy(home / "behind", {"route": answers, "clusters": []}))
    port = behind.address.port
    everybody, one = fleet(), [ShardRoute("eu-000", RELEASE, tenants_of(0)[:1])]
    passes = {
        "route": {"route": {"cluster": "behind"}},
        "clusters": [static_cluster("behind", "127.0.0.1", port)],
    }
    sides = []
    for name, shards, bootstrap in (
        ("tenants", everybody, None),
        ("one tenant", one, None),
        ("plain", everybody, passes),
    ):
        proxy = stack.enter_context(envoy(home / name, bootstrap))
        if bootstrap is None:
            publish_tenants(proxy.address, port, shards)
        hosts = home / f"{name}.hosts"
        hosts.write_text("\n".join(hosts_of(shards)))
        sides.append(Side(name, proxy, hosts))
    return sides


def _measure(measure: Callable[[int, int, Path], float], side: Side, seconds: int) -> Measured:
    before = side.proxy.cpu_seconds()
    rate = measure(side.proxy.address.port, seconds, side.hosts)
    return Measured(rate, 1e6 * (side.proxy.cpu_seconds() - before) / (rate * seconds))


def report(rounds: Sequence[Sequence[Measured]], with_wrk: bool) -> int:
    tenants = f"{SHARDS * TENANTS_PER_SHARD:,} tenants"
    print(f"| round | {tenants}, req/s | one tenant | ratio | plain Envoy | ratio | CPU ratios |")
    print("|---|---|---|---|---|---|---|")
    for number, (many, one, plain) in enumerate(rounds, start=1):
        print(
            f"| {number} | {many.rate:,.0f} | {one.rate:,.0f} | {many.rate / one.rate:.3f} "
            f"| {plain.rate:,.0f} | {many.rate / plain.rate:.3f} "
            f"| {one.micros / many.micros:.3f}, {plain.micros / many.micros:.3f} |"
        )
    ratio, plainly = (
        statistics.median(each[0].rate / each[other].rate for each in rounds) for other in (1, 2)
    )
    cpu = [
        statistics.median(each[other].micros / each[0].micros for each in rounds)
        for other in (1, 2)
    ]
    print(f"| median | | | **{ratio:.3f}** | | {plainly:.3f} | {cpu[0]:.3f}, {cpu[1]:.3f} |")
    tool = "wrk" if with_wrk else "a generator in Python"
    print(f"\n{CONNECTIONS} connections, {tool}; target against one tenant: {TARGET} or more.")
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
