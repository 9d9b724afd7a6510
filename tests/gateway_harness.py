"""A real Envoy and small real upstreams for the tests of the gateway."""

import ctypes
import http.client
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ports import free_port

from gateway.admin import EnvoyAdmin
from gateway.envoy import ReleaseEndpoint, tenant_host
from gateway.envoy_process import command, log_file, prepare
from gateway.publisher import RoutePublisher
from models.addresses import GatewayAddress
from models.fleet import RouteTable, ShardRoute

REGION = "eu"


def digest(n: int) -> str:
    """A release digest whose short forms differ for different ``n``."""
    return f"sha256:{n:012x}{'0' * 52}"


def table(generation: int, release: str | None, *, suspended: tuple[str, ...] = ()) -> RouteTable:
    """Two shards: the first with tenants a and b on ``release``, the second with c on none."""
    return RouteTable(
        generation=generation,
        shards=[
            ShardRoute(shard="eu-001", release=release, tenants=["a", "b"]),
            ShardRoute(shard="eu-002", release=None, tenants=["c"]),
        ],
        suspended=list(suspended),
    )


def free_address(directory: Path) -> GatewayAddress:
    return GatewayAddress(
        port=free_port(), admin_port=free_port(), kv_port=free_port(), directory=directory
    )


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Gateway:
    """An Envoy that runs, and what talks to it."""

    address: GatewayAddress
    process: subprocess.Popen[bytes]
    admin: EnvoyAdmin
    publisher: RoutePublisher

    def get(
        self, tenant: str = "", path: str = "/", *, host: str | None = None, **headers: str
    ) -> Answer:
        """A GET for a tenant, or for any other ``host``, on a connection of its own."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        authority = tenant_host(tenant, REGION) if host is None else host
        with closing(self.connect()) as connection:
            connection.request("GET", path, headers={"Host": authority, **named})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.address.port, timeout=10)

    def raw(self, content: bytes) -> bytes:
        """The head of what comes back for bytes that no client library would send."""
        with socket.create_connection(("127.0.0.1", self.address.port), timeout=10) as connection:
            connection.sendall(content)
            received = b""
            while b"\r\n\r\n" not in received and (chunk := connection.recv(65536)):
                received += chunk
            return received

    def start_again(self) -> None:
        """Kill Envoy as a crash would, and start it on the same files."""
        self.process.kill()
        self.process.wait()
        self.process = start(self.address)


@contextmanager
def running_gateway(directory: Path, *, deadline: float = 10.0) -> Iterator[Gateway]:
    address = free_address(directory)
    prepare(address, REGION)
    gateway = Gateway(
        address=address,
        process=start(address),
        admin=EnvoyAdmin(address),
        publisher=RoutePublisher(address, REGION, deadline=deadline),
    )
    try:
        yield gateway
    finally:
        gateway.process.kill()
        gateway.process.wait()


def start(address: GatewayAddress) -> subprocess.Popen[bytes]:
    """Start Envoy, wait until it is ready, and have it end with this process."""
    process = subprocess.Popen(command(address, REGION), preexec_fn=_end_with_parent)
    admin = EnvoyAdmin(address)
    deadline = time.monotonic() + 20
    while not admin.ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"envoy did not start: {log_file(address.directory).read_text()}")
        time.sleep(0.02)
    return process


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@dataclass
class Upstream:
    """A release's process: answers its name, and keeps what it was asked.

    While ``gate`` is clear, answers wait.
    """

    name: str
    port: int = 0
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answer_headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def endpoint(self, release: str) -> ReleaseEndpoint:
        return ReleaseEndpoint(release, self.port)


@contextmanager
def upstream(name: str, *, port: int = 0) -> Iterator[Upstream]:
    about = Upstream(name)
    about.gate.set()
    server = _Server(("127.0.0.1", port), _handler(about))
    about.port = server.server_address[1]
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05))
    thread.start()
    try:
        yield about
    finally:
        about.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that went away is what some tests do."""


def _handler(about: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            about.paths.append(self.path)
            about.headers.append({key.lower(): value for key, value in self.headers.items()})
            about.reached.set()
            about.gate.wait(30)
            content = about.name.encode()
            self.send_response(200)
            for key, value in about.answer_headers.items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Silent: pytest shows what matters."""

    return Handler
