"""How a region's Envoy is started: its directory, its first files and its command line."""

import shutil
import sys
from pathlib import Path
from uuid import uuid4

from gateway.bootstrap import clusters_file, render_bootstrap, routes_file
from gateway.envoy import render_clusters, render_unready
from models.addresses import GatewayAddress
from stores.files import write_atomic

LOG_FLUSH_SECONDS = 0.2


def find_envoy() -> str:
    """The Envoy binary: beside the running interpreter, else on the PATH.

    Raises:
        FileNotFoundError: there is none.
    """
    beside = Path(sys.executable).parent / "envoy"
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        raise FileNotFoundError("envoy: not found beside the interpreter nor on the PATH")
    return found


def bootstrap_file(directory: Path) -> Path:
    """What Envoy starts with; written by `prepare`."""
    return directory / "bootstrap.json"


def log_file(directory: Path) -> Path:
    """Envoy's own log: the only place where it says why it refused a file."""
    return directory / "envoy.log"


def prepare(address: GatewayAddress, region: str) -> None:
    """Write what Envoy needs to start; clusters and routes that are there already stay.

    Must have run before Envoy starts and before anything is published.
    """
    directory = address.directory
    for path in (routes_file(directory), clusters_file(directory)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(bootstrap_file(directory), render_bootstrap(address))
    if not clusters_file(directory).exists():
        write_atomic(clusters_file(directory), render_clusters([]))
    if not routes_file(directory).exists():
        write_atomic(routes_file(directory), render_unready(region))


def command(address: GatewayAddress, region: str) -> list[str]:
    """Command line of a region's Envoy. Call it again for each start.

    The node id is new each time: it names the incarnation whose counters a gate reads. One worker
    thread makes a swap of the routes atomic; a second would make it so per thread only.
    """
    return [
        find_envoy(),
        *("--config-path", str(bootstrap_file(address.directory))),
        *("--concurrency", "1"),
        *("--service-cluster", f"chainring-{region}"),
        *("--service-node", f"{region}/{uuid4().hex}"),
        *("--log-level", "warning"),
        *("--log-path", str(log_file(address.directory))),
        *("--file-flush-interval-msec", str(int(LOG_FLUSH_SECONDS * 1000))),
        "--disable-hot-restart",
    ]
