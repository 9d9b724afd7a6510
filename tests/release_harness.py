"""A home with regions, a release store and a real release host, for tests."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from stores.oci import ImageLayout
from stores.processes import ProcessStore, ReleaseProcess
from stores.sql import create_all, open_engine
from workers.host_system import HOST_VARIABLE
from workers.samples import assemble

FAST = {"interval_ms": 100, "timeout_ms": 1000, "deadline_ms": 5000}


class Stack:
    """A home with regions, a release store and a host."""

    def __init__(self, home: Path, regions: tuple[str, ...] = ("eu",)) -> None:
        self.home = home
        self.regions = regions
        self.layout = ImageLayout(home / "releases")
        self.stores: dict[str, ProcessStore] = {}
        self.host: subprocess.Popen[bytes] | None = None
        for region in regions:
            self._write_addresses(region)
            engine = open_engine(self.database(region))
            create_all(engine)
            self.stores[region] = ProcessStore(engine)

    def database(self, region: str) -> str:
        return f"sqlite:///{self.home}/regions/{region}/region.db"

    def workdir(self, region: str = "eu") -> Path:
        return self.home / "regions" / region / "work"

    def start(self) -> None:
        self.host = self.spawn()

    def spawn(self, **options: object) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "workers", "host", *self.regions],
            env={**os.environ, "CHAINRING_HOME": str(self.home), "SECRET_TOKEN": "s3cret"},
            cwd=Path(__file__).parents[1],
            **options,
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.host is not None
        self.host.send_signal(number)
        return self.host.wait(30)

    def put(self, version: str = "1.0.0", *, health: dict | None = None, **behaviour) -> str:
        directory = self.home / "build" / version
        directory.mkdir(parents=True)
        assemble(directory, "catalog", version, behaviour)
        return self.put_directory(directory, version, health=health)

    def put_directory(self, directory: Path, version: str, health: dict | None = None) -> str:
        description = json.loads((directory / "release.json").read_text())
        description |= {"health": {**FAST, **(health or {})}, "stop_grace_ms": 1000}
        (directory / "release.json").write_text(json.dumps(description))
        return self.layout.put_release("catalog", version, directory)

    def put_program(self, text: str, **description) -> str:
        directory = self.home / "build" / "program"
        directory.mkdir(parents=True)
        (directory / "service.py").write_text(text)
        values = {"entrypoint": ["python3", "-S", "service.py"], **description}
        (directory / "release.json").write_text(json.dumps(values))
        return self.put_directory(directory, "program")

    def wait(
        self, release: str, wanted: Callable[[ReleaseProcess], bool], region: str = "eu"
    ) -> ReleaseProcess:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            row = self.stores[region].get(release)
            if row is not None and wanted(row):
                return row
            time.sleep(0.05)
        raise AssertionError(f"never came: {self.stores[region].list()}")

    def healthy(self, release: str, region: str = "eu") -> ReleaseProcess:
        return self.wait(release, lambda row: row.state == "healthy", region)

    def run(self, release: str, region: str = "eu") -> ReleaseProcess:
        self.stores[region].want(release)
        return self.healthy(release, region)

    def release_processes(self) -> list[int]:
        """Every process on this machine that carries the mark of one of our regions."""
        marks = {(self.workdir(region) / "host.id").read_text() for region in self.regions}
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(HOST_VARIABLE) in marks:
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def gone(self) -> None:
        until = time.monotonic() + 10
        while self.release_processes() and time.monotonic() < until:
            time.sleep(0.05)
        assert self.release_processes() == []

    def _write_addresses(self, region: str) -> None:
        directory = self.home / "regions" / region
        directory.mkdir(parents=True)
        value = {
            "region": region,
            "temporal": {"address": "localhost:1", "namespace": region, "task_queue": "region"},
            "worker": {"health_port": 0, "metrics_port": 0},
            "database": self.database(region),
            "signing_key": str(directory / "key.pem"),
            "config": str(directory / "config.toml"),
            "releases": str(self.home / "releases"),
            "workdir": str(self.workdir(region)),
            "gateway": {
                "port": 1,
                "admin_port": 1,
                "kv_port": 1,
                "directory": str(directory / "gw"),
            },
        }
        (directory / "addresses.json").write_text(json.dumps(value))


def running(stack: Stack) -> Iterator[Stack]:
    stack.start()
    try:
        yield stack
    finally:
        if stack.host is not None and stack.host.poll() is None:
            stack.stop()
