"""A real registry for tests, and a proxy before it that misbehaves on request."""

import http.client
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ports import free_port

from stores.http_registry import HttpRepository
from stores.registry_client import RegistryClient
from workers.children import die_with_parent

REGISTRY = shutil.which("docker-registry")
_HOPS = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}


class Registry:
    """One docker-registry on loopback, with its blobs in a directory."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = directory / "registry.yml"
        directory.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            f"version: 0.1\nlog: {{level: error}}\n"
            f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
            f"http: {{addr: '127.0.0.1:{self.port}'}}\n"
        )
        self.start()

    def start(self) -> None:
        assert REGISTRY is not None
        self.process = subprocess.Popen(
            [REGISTRY, "serve", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the registry does not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def repository(url: str, **how) -> HttpRepository:
    """A repository for the release ``web``; pauses take no time."""
    how.setdefault("pause", lambda _: None)
    return HttpRepository(RegistryClient(url, **how), "chainring/web")


class Faults:
    """What the proxy does to requests: each fault is used up by one request that it fits."""

    def __init__(self) -> None:
        self._planned: list[tuple[str, str, str]] = []
        self.seen: list[str] = []
        self.hook: Callable[[str, str], bool] = lambda when, line: False
        """Called ``before`` and ``after`` each request is passed on; true breaks the connection."""

    def plan(self, fault: str, method: str = "", path: str = "", times: int = 1) -> None:
        """A status, ``cut`` (in the middle of the body) or ``wrong`` (other bytes)."""
        self._planned += [(fault, method, path)] * times

    def take(self, method: str, path: str) -> str:
        self.seen.append(f"{method} {path}")
        for planned in self._planned:
            fault, wanted, part = planned
            if (not wanted or wanted == method) and part in path:
                self._planned.remove(planned)
                return fault
        return ""


@contextmanager
def proxied(port: int) -> Iterator[tuple[str, Faults]]:
    """A proxy before a registry."""
    faults = Faults()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self._body()
            fault = faults.take(self.command, self.path)
            if fault in ("403", "429", "500"):
                self.send_response(int(fault))
                if fault == "429":
                    self.send_header("Retry-After", "1")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            line = f"{self.command} {self.path}"
            broken = faults.hook("before", line)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOPS}
            try:
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
            except OSError:
                broken = True
            if faults.hook("after", line) or broken:
                self.close_connection = True
                return
            self._give(answer, data, fault)
            connection.close()

        def _give(self, answer: http.client.HTTPResponse, data: bytes, fault: str) -> None:
            if fault == "wrong" and data:
                data = bytes([data[0] ^ 1]) + data[1:]
            self.send_response(answer.status)
            own = f":{server.server_address[1]}/"
            for name, given in answer.getheaders():
                value = given.replace(f":{port}/", own) if name.lower() == "location" else given
                if name.lower() not in _HOPS | {"content-length"}:
                    self.send_header(name, value)
            length = answer.headers["Content-Length"] if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault == "cut":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.wfile.write(data)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                whole = b""
                while size := int(self.rfile.readline(), 16):
                    whole += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return whole
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        do_GET = do_PUT = do_POST = do_HEAD = do_PATCH = _pass

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", faults
    finally:
        server.shutdown()
        server.server_close()
