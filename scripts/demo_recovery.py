"""The demo's outage: a region's database is destroyed under writes, and comes back whole."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
from rich.console import Console
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from gateway.envoy import tenant_host
from models.addresses import RegionAddresses
from models.recovery import FailOverStatus, RestoreStatus
from stores.fleet_reader import FleetReader
from stores.sql import open_engine
from workers.process import connect
from workers.settings import home, load_region

REGION = "eu"
TENANTS = 50
PATIENCE_S = 180.0
CHAINRING = Path(sys.executable).parent / "chainring"


@dataclass
class Writes:
    """A tenant's client: writes one key after the other, and knows which were acknowledged."""

    url: str
    hosts: list[str]
    acknowledged: dict[tuple[str, str], bytes] = field(default_factory=dict)
    normal: int = 0
    degraded: int = 0
    refused: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Write until stopped; an answer that does not come is not an acknowledgement."""
        with httpx.Client(timeout=5) as client:
            number = 0
            while not self._stop.is_set():
                self._write(client, number)
                number += 1

    def stop(self) -> None:
        self._stop.set()

    def missing(self) -> list[tuple[str, str]]:
        """Acknowledged writes that do not read back as they were written."""
        with httpx.Client(timeout=10) as client:
            return [
                (host, key)
                for (host, key), value in self.acknowledged.items()
                if client.get(f"{self.url}/{key}", headers={"Host": host}).content != value
            ]

    def _write(self, client: httpx.Client, number: int) -> None:
        host, key, value = self.hosts[number % len(self.hosts)], f"demo-{number}", b"%d" % number
        try:
            answer = client.put(f"{self.url}/{key}", content=value, headers={"Host": host})
        except httpx.HTTPError:
            self.refused += 1
            return
        if not answer.is_success:
            self.refused += 1
            self._stop.wait(0.05)
            return
        self.acknowledged[host, key] = value
        if "X-Chainring-Mode" in answer.headers:
            self.degraded += 1
        else:
            self.normal += 1


def outage(console: Console) -> bool:
    """Destroy region eu's database while tenants write; whether all came back by itself."""
    addresses = load_region(REGION)
    writes = Writes(f"http://127.0.0.1:{addresses.gateway.port}/_kv", _hosts(addresses))
    writer = threading.Thread(target=writes.run)
    writer.start()
    try:
        _until(lambda: writes.normal > 500, "no tenant could write")
        _until(_backed_up, "the backup does not follow")
        destroyed = datetime.now(UTC)
        for path in Path(addresses.database.removeprefix("sqlite:///")).parent.glob("region.db*"):
            path.unlink()
        console.print(
            f"  {destroyed:%H:%M:%S}  the database of {REGION} is deleted: {writes.normal} "
            "writes are acknowledged so far"
        )
        over = asyncio.run(_watch_over(addresses, console, writes, destroyed))
    finally:
        writes.stop()
        writer.join()
    return _account(console, writes, over)


def tampered_backup(console: Console) -> bool:
    """Turn one bit in a region's backup, and ask for a restore; whether it was refused."""
    region = "latam"
    backup = load_region(region).backup
    assert backup is not None
    segments = (Path(backup.objects) / region).rglob("*.seg@[0-9a-f]*")
    segment = max(segments, key=lambda path: path.stat().st_size)
    good = segment.read_bytes()
    turned = bytearray(good)
    turned[len(good) // 2] ^= 1
    segment.chmod(0o600)
    segment.write_bytes(turned)
    console.print(f"[dim]one bit of {segment.name.partition('@')[0]} of {region} is turned[/dim]")
    try:
        asked = ("--actor", "demo", "--reason", "is the backup good", "--dry-run")
        ended = subprocess.run([str(CHAINRING), "restore", "start", region, *asked], check=False)
    finally:
        segment.write_bytes(good)
    console.print(f"  refused: {'yes' if ended.returncode else 'NO'}")
    return ended.returncode != 0


async def _watch_over(
    addresses: RegionAddresses, console: Console, writes: Writes, destroyed: datetime
) -> FailOverStatus:
    client = await connect(addresses.temporal)
    handle = await _failover(client, destroyed)
    started = (await handle.describe()).start_time
    console.print(
        f"  {started:%H:%M:%S}  noticed after {(started - destroyed).total_seconds():.1f} s: "
        f"workflow {handle.id} in namespace {REGION}"
    )
    said = ""
    while True:
        status: FailOverStatus = await handle.query("status", result_type=FailOverStatus)
        progress = await _progress(client, status, handle.id)
        line = f"{status.state}{progress}, {writes.degraded} writes buffered"
        if line != said:
            console.print(f"  {datetime.now(UTC):%H:%M:%S}  {line}")
            said = line
        if status.state in ("normal", "failed"):
            return status
        await asyncio.sleep(0.5)


async def _failover(client: Client, destroyed: datetime) -> WorkflowHandle[object, object]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        async for found in client.list_workflows("WorkflowType = 'FailOver'"):
            if found.start_time >= destroyed:
                return client.get_workflow_handle(found.id, run_id=found.run_id)
        await asyncio.sleep(0.3)
    raise SystemExit("nobody noticed that the database is gone")


def _account(console: Console, writes: Writes, over: FailOverStatus) -> bool:
    missing = writes.missing()
    restored = over.restore
    console.print(
        f"  writes acknowledged: {len(writes.acknowledged)}, {writes.degraded} of them while the "
        f"store was away; refused: {writes.refused}; [bold]missing: {len(missing)}[/bold]"
    )
    if restored is None or restored.report is None or over.drained is None:
        return False
    proved = _verify_certificate(console, restored)
    return proved and over.state == "normal" and not missing and over.drained.pending == 0


async def _progress(client: Client, status: FailOverStatus, failover: str) -> str:
    """How far the restore's activity says it is, by its last heartbeat."""
    if status.state != "restoring":
        return ""
    try:
        found = await client.get_workflow_handle(f"{failover}/restore").describe()
        for pending in found.raw_description.pending_activities:
            beats = await client.data_converter.decode(pending.heartbeat_details.payloads)
            if beats:
                return f": {', '.join(str(each) for each in beats)}"
    except RPCError:
        pass  # not started yet
    return ""


def _verify_certificate(console: Console, restored: RestoreStatus) -> bool:
    assert restored.report is not None
    console.print(f"  restore certificate: {restored.certificate}")
    head = home() / "witness" / f"{REGION}-state-{restored.report.source_store}.note"
    key = home() / f"{REGION}.vkey"
    key.write_bytes(_output("receipts", "key", REGION))
    asked = ("certificate", "verify", restored.certificate, "--key", str(key), "--head", str(head))
    console.print(f"[dim]chainring {' '.join(asked)}[/dim]")
    return subprocess.run([str(CHAINRING), *asked], check=False).returncode == 0


def _hosts(addresses: RegionAddresses) -> list[str]:
    engine = open_engine(addresses.database)
    try:
        page = FleetReader(engine, addresses.region).list(limit=TENANTS)
    finally:
        engine.dispose()
    return [tenant_host(each.id, addresses.region) for each in page.tenants]


def _backed_up() -> bool:
    asked = ("backup", "status", REGION, "--json")
    return (
        subprocess.run([str(CHAINRING), *asked], capture_output=True, check=False).returncode == 0
    )


def _output(*arguments: str) -> bytes:
    return subprocess.run([str(CHAINRING), *arguments], capture_output=True, check=True).stdout


def _until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(otherwise)
        time.sleep(0.2)
