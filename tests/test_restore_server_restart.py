"""Temporal's server killed and started again in the middle of a restore's steps."""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from build_harness import TEMPORAL
from ports import free_port
from recovery_harness import REGION
from restore_harness import Recovery, recovery_worker
from rollout_harness import eventually
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from activities import recovery as steps
from models.recovery import RestoreStatus
from models.restore_certificate_check import verify_certificate
from stores.chain_check import check_ledger
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.pointer import PrimaryPointer
from stores.sql import open_engine
from workers.children import die_with_parent
from workers.temporal_setup import ensure

EFFECTS: list[tuple[Any, str]] = [
    (steps, "settle"),  # all is built, and nobody knows
    (PrimaryPointer, "move"),  # the old store is fenced, the new one not yet the primary
    (steps, "keep_certificate"),
]

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


class Server:
    """Temporal's dev server, whose state is in a file."""

    def __init__(self, directory: Path) -> None:
        self._file, self._port = directory / "temporal.db", free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(TEMPORAL), "server", "start-dev", "--headless", "--log-level", "never"]
        command += ["--port", str(self._port), "--db-filename", str(self._file)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent
        )

    def kill(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    async def client(self) -> Client:
        """A client, as soon as the server answers."""
        for _ in range(300):
            with contextlib.suppress(RuntimeError):
                return await Client.connect(
                    f"127.0.0.1:{self._port}", data_converter=pydantic_data_converter
                )
            await asyncio.sleep(0.1)
        raise AssertionError("the server does not answer")


class Held:
    """One effect, which stands still at its first call until it is let go."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self.work = work
        self.entered, self.released = threading.Event(), threading.Event()
        self.calls = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        self.entered.set()
        assert self.released.wait(60)
        return self.work(*arguments, **named)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    made.kill()


def hold(monkeypatch: pytest.MonkeyPatch) -> list[Held]:
    found = []
    for owner, name in EFFECTS:
        held = Held(getattr(owner, name))
        # A function, so that it is bound as a method where the effect is one.
        monkeypatch.setattr(owner, name, lambda *a, _held=held, **n: _held(*a, **n))
        found.append(held)
    return found


async def test_a_restore_goes_on_after_each_restart_of_the_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await server.client()
    await ensure(client, [])
    home = tmp_path / REGION
    home.mkdir()
    async with recovery_worker(home, client) as recovery:
        backup = recovery.backup
        backup.work(10)
        backup.snapshot()
        backup.work(5)
        backup.ship()
        wanted = {each.key: each.value for each in TenantKV(backup.engine, "tenant-1").items()}
        for path in home.glob("region.db*"):
            path.unlink()
        effects = hold(monkeypatch)
        handle = await recovery.start()
        for held in effects:
            await eventually(held.entered.is_set, 60)
            server.kill()
            held.released.set()  # what it did is told to nobody: there is no server
            server.start()
        await server.client()
        status = await asyncio.wait_for(handle.result(), 120)
        assert status.state == "published"
        judge(recovery, status, wanted)


def judge(recovery: Recovery, status: RestoreStatus, wanted: dict[bytes, bytes]) -> None:
    """One store was published, once, with all that was there, and its certificate stands."""
    backup = recovery.backup
    primary = recovery.primary()
    report = status.report
    assert report is not None and report.complete and primary.store == report.restored_store
    engine = open_engine(primary.database)
    assert {each.key: each.value for each in TenantKV(engine, "tenant-1").items()} == wanted
    ledger = Ledger(engine, REGION)
    assert [each.kind for each in ledger.read()].count("region.restored") == 1
    check_ledger(ledger)
    engine.dispose()
    data = Path(status.certificate).read_bytes()
    note = backup.witness.head(REGION, report.source_store)
    assert note is not None
    certificate = verify_certificate(data, [backup.key.public(REGION)], [note])
    assert certificate.heads == 1 and certificate.predicate.missing == 0
    assert certificate.predicate.reached_seq == certificate.expected.size
