"""What the fault tests share: moments, ways to hurt a running stack, and the questions afterwards.

A moment is counted in the rollout's own progress (receipts of shards switched so far), not in
seconds since its start, so that a seed hits the same step on a fast machine and on a slow one.
"""

import asyncio
import contextlib
import http.client
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from embedded import REGIONS, Stack
from sqlalchemy import select
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from check_load import backwards, failed
from load import Answer, LoadGenerator, targets_of_home

from gateway.admin import EnvoyAdmin
from gateway.envoy import cluster_name, tenant_host
from models.addresses import GatewayAddress
from models.ids import short
from models.receipts import Receipt
from models.rollout import RolloutResult, RolloutStatus
from models.tables_control import FleetLease
from stores.ledger import Ledger
from stores.oci import ImageLayout
from stores.processes import ProcessStore
from stores.shards import ACTIVATED, ShardStore
from stores.sql import open_engine, read, table
from workers.cli.receipts import app as receipts_command
from workers.host_system import HOST_VARIABLE

TENANTS, SHARDS = 400, 20
QUICK = {"rollout.rollout_rings": [100]}
"""Canary and everything else: two rings, so that a rollout takes a few seconds."""

POLL_S = 0.01
RATE = 40.0
BROKEN = "1.3.0-broken"  # starts well, then answers every second request with an error
BESIDE_THE_REQUESTS = frozenset({"control", "region-eu", "region-us-east", "temporal", "gateway"})
"""Processes whose death no tenant's request may notice."""


class Change(NamedTuple):
    """One receipt of a shard that was switched."""

    seq: int
    rollout: str
    epoch: int
    shard: str
    previous: str | None
    release: str
    generation: int


class RegionView:
    """One region as its database, its Envoy and its processes show it, each asked directly."""

    def __init__(self, stack: Stack, region: str) -> None:
        addresses = stack.addresses(region)
        engine = open_engine(addresses["database"])
        self.name = region
        self.database = str(addresses["database"]).removeprefix("sqlite:///")
        self.ledger = Ledger(engine, region)
        self.shards = ShardStore(engine, self.ledger, region)
        self.processes = ProcessStore(engine)
        self.gateway = GatewayAddress.model_validate(addresses["gateway"])
        self._mark = Path(addresses["workdir"]) / "host.id"

    def rows(self) -> dict[str, str | None]:
        """What the database says each shard runs."""
        return {shard.id: shard.release for shard in self.shards.shards()}

    def changes(self, since: int = 0) -> list[Change]:
        """Every switch that has a receipt, in the ledger's order."""
        return [_change(stored.receipt) for stored in self.ledger.read(since, kinds=[ACTIVATED])]

    def routed(self) -> dict[str, str | None]:
        """The cluster that Envoy itself says each shard is routed to."""
        dump = json.loads(
            EnvoyAdmin(self.gateway).get("/config_dump?resource=dynamic_route_configs")
        )
        [config] = dump["configs"]
        return {
            host["name"].removeprefix("shard/"): host["routes"][-1].get("route", {}).get("cluster")
            for host in config["route_config"]["virtual_hosts"]
            if host["name"].startswith("shard/")
        }

    def ask(self, tenant: str, connection: http.client.HTTPConnection) -> tuple[str, str, str]:
        """Shard and release that Envoy names, and the version that the program itself says."""
        connection.request("GET", "/", headers={"Host": tenant_host(tenant, self.name)})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            return f"status {answer.status}", "", ""
        shard, release = answer.headers["x-chainring-shard"], answer.headers["x-chainring-release"]
        return shard, release, json.loads(body)["version"]

    def running(self) -> Counter[str]:
        """How many processes run each release here, by what the system shows."""
        with contextlib.suppress(FileNotFoundError):
            mark = self._mark.read_text()
            return Counter(
                environ["CHAINRING_RELEASE"]
                for environ in _environments()
                if environ.get(HOST_VARIABLE) == mark and "CHAINRING_RELEASE" in environ
            )
        return Counter()


class Fleet:
    """A seeded stack under test."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        stack.chainring("fleet", "seed", "--tenants", str(TENANTS), "--shards", str(SHARDS))
        stack.build_samples("1.0.0", "1.1.0", "1.2.0", BROKEN)
        control = stack.addresses("control")
        self._engine = open_engine(control["database"])
        self.control = Ledger(self._engine, "control")
        self.regions = {region: RegionView(stack, region) for region in REGIONS}
        layout = ImageLayout(Path(control["releases"]))
        catalog = [each for each in layout.list() if each.name == "catalog"]
        self.digests = {each.version: each.digest for each in catalog}
        self.versions = {each.digest: each.version for each in catalog}

    def present(self) -> str | None:
        """The one release that every shard runs."""
        [release] = {row for view in self.regions.values() for row in view.rows().values()}
        return release

    def other(self) -> str:
        """A good release that the fleet does not run."""
        present = self.present()
        good = ("1.0.0", "1.1.0", "1.2.0")
        return next(self.digests[one] for one in good if self.digests[one] != present)

    def mark(self) -> dict[str, int]:
        """Where the regions' ledgers end now."""
        return {name: view.ledger.head().size for name, view in self.regions.items()}

    def switched(self, since: Mapping[str, int]) -> int:
        """How many shards were switched since ``mark``."""
        return sum(len(view.changes(since[name])) for name, view in self.regions.items())

    def holders(self) -> list[str]:
        """Rollouts that hold a fleet."""
        with read(self._engine) as connection:
            found = connection.execute(select(table(FleetLease).c.holder)).scalars()
            return [holder for holder in found if holder]

    def phase(self) -> str:
        """What the supervisor says: "ready", or who is not."""
        state = json.loads((self.stack.home / "stack" / "state.json").read_text())
        late = [
            each["name"]
            for each in state["processes"]
            if not (each["ready"] and _lives(each["pid"]))  # it was killed a moment ago
        ]
        return ", ".join(late) or str(state["phase"])

    def release_pids(self, region: str) -> dict[int, str]:
        """The release processes that the host says it has."""
        return {
            each.pid: each.release
            for each in self.regions[region].processes.list()
            if each.pid is not None and each.state != "stopped"
        }

    async def recovered(self, seconds: float = 40) -> None:
        """Until every process of the stack, and every release that shards need, is up again."""
        deadline = time.monotonic() + seconds
        while self.phase() != "ready" or not all(map(_served, self.regions.values())):
            assert time.monotonic() < deadline, f"does not come back: {self.phase()}"
            await asyncio.sleep(0.1)

    @contextlib.contextmanager
    def traffic(self, *, watched: bool = True) -> Iterator[list[Answer]]:
        """Constant load on every shard; afterwards no answer may have gone backwards."""
        answers: list[Answer] = []
        since, before = self.mark(), {name: view.rows() for name, view in self.regions.items()}
        with _home(self.stack.home):
            targets = targets_of_home()
        generator = LoadGenerator(targets, rate=RATE, record=answers.append, even=True)
        with generator.running():
            yield answers
        if not watched:
            return
        order = {
            shard: [release or ""] for rows in before.values() for shard, release in rows.items()
        }
        for name, view in self.regions.items():
            for change in view.changes(since[name]):
                order[change.shard].append(change.release)
        stale = [violation.why for violation in backwards(answers, order)]
        assert not stale, stale[:5]

    def violations(self, expected: str | Mapping[str, str | None]) -> list[str]:
        """The questions after every fault; nothing must be under way. Empty: all is well.

        Args:
            expected: the release that every shard has to run, or one for each shard.
        """
        found = [f"the fleet is still held by {holder}" for holder in self.holders()]
        for view in self.regions.values():
            found += _wrong_rows(view, expected)
            found += wrong_receipts(view.name, view.rows(), view.changes())
            found += _wrong_routes(view)
            found += _wrong_answers(view, self.versions)
            found += _wrong_processes(view)
        return found + _wrong_runs(self.control) + _wrong_chains(self.stack.home)

    async def left_open(self, seconds: float = 20) -> list[str]:
        """Workflows that run on although every rollout has ended."""
        deadline = time.monotonic() + seconds
        while True:
            found = [one async for one in _open_workflows(self.stack)]
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.3)


@dataclass(frozen=True)
class Moment:
    """When it happens: so many shards switched, and then a little later."""

    switched: int
    delay_s: float

    @staticmethod
    def drawn(chance: random.Random, most: int = SHARDS) -> "Moment":
        return Moment(chance.randint(0, most), round(chance.uniform(0, 0.4), 3))

    async def come(
        self, fleet: Fleet, since: Mapping[str, int], handle: WorkflowHandle[Any, Any]
    ) -> None:
        """Wait for it, or for the end of a rollout that never gets there."""
        ended = time.monotonic()
        while fleet.switched(since) < self.switched:
            await asyncio.sleep(POLL_S)
            if time.monotonic() - ended > 1:
                ended = time.monotonic()
                if await _has_ended(handle):
                    return
        await asyncio.sleep(self.delay_s)


def kill(fleet: Fleet, victim: str, chance: random.Random) -> str:
    """kill -9 of one process; the words for a log, empty when it is not there now.

    ``victim``: a name of the supervisor's, or "release" for a release process of "eu".
    """
    if victim == "release":
        pids = fleet.release_pids("eu")
        if not pids:
            return ""
        pid = chance.choice(sorted(pids))
        victim = f"release {fleet.versions.get(pids[pid], '')} of eu"
    else:
        try:
            pid = fleet.stack.pid(victim)
        except StopIteration:
            raise ValueError(f"victim: the stack has no process {victim!r}") from None
        if pid is None:
            return ""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return victim
    return ""


async def hurt(fleet: Fleet, victim: str, chance: random.Random, seconds: float = 10) -> str:
    """`kill` as soon as the victim is there."""
    deadline = time.monotonic() + seconds
    while not (done := kill(fleet, victim, chance)):
        assert time.monotonic() < deadline, f"{victim} does not run"
        await asyncio.sleep(POLL_S)
    return done


async def freeze(fleet: Fleet, victim: str) -> None:
    """SIGSTOP a region's worker, not while it has the database: nobody else could write then."""
    view = fleet.regions[victim.removeprefix("region-")]
    while True:
        fleet.stack.freeze(victim)
        if not _is_locked(view.database):
            return
        fleet.stack.thaw(victim)
        await asyncio.sleep(POLL_S)


def stack_processes(stack: Stack) -> list[psutil.Process]:
    """The supervisor, and every process below it."""
    state = json.loads((stack.home / "stack" / "state.json").read_text())
    supervisor = psutil.Process(state["pid"])
    return [supervisor, *supervisor.children(recursive=True)]


async def ended(handle: WorkflowHandle[Any, Any], seconds: float = 90) -> RolloutStatus:
    """The end of a rollout, whatever happens to the server meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        assert left > 0, f"{handle.id} has not ended in {seconds} s"
        try:
            result: RolloutResult = await asyncio.wait_for(handle.result(), left)
        except (RPCError, TimeoutError):
            await asyncio.sleep(0.2)
        else:
            return result.status


def lost(answers: list[Answer]) -> list[str]:
    """Requests that failed."""
    return [f"{each.answer.tenant}: {each.why}" for each in failed(answers)]


def _wrong_rows(view: RegionView, expected: str | Mapping[str, str | None]) -> list[str]:
    return [
        f"{shard} runs {row}, not {wanted}"
        for shard, row in view.rows().items()
        if row != (wanted := expected if isinstance(expected, str) else expected[shard])
    ]


def wrong_receipts(
    region: str, rows: Mapping[str, str | None], changes: Sequence[Change]
) -> list[str]:
    """Whether the receipts alone tell one possible story that ends with the rows."""
    done = Counter((change.rollout, change.epoch, change.shard) for change in changes)
    found = [f"activated {count} times: {what}" for what, count in done.items() if count > 1]
    running: dict[str, str | None] = dict.fromkeys(rows)
    epoch = generation = 0
    for change in changes:
        here = f"{region} {change.seq}"
        if change.previous != running[change.shard]:
            found.append(f"{here}: {change.shard} ran another release before")
        if change.epoch < epoch:
            found.append(f"{here}: epoch {change.epoch} after {epoch}")
        if change.generation <= generation:
            found.append(f"{here}: generation {change.generation} again")
        running[change.shard] = change.release
        epoch, generation = max(epoch, change.epoch), change.generation
    if running != rows:
        found.append(f"{region}: receipts say {running}, rows {rows}")
    return found


def _wrong_routes(view: RegionView) -> list[str]:
    wanted = {shard: row and cluster_name(row) for shard, row in view.rows().items()}
    routed = view.routed()
    return [] if routed == wanted else [f"{view.name}: envoy routes {routed}, rows {wanted}"]


def _wrong_answers(view: RegionView, versions: Mapping[str, str]) -> list[str]:
    found = []
    connection = http.client.HTTPConnection(view.gateway.host, view.gateway.port, timeout=5)
    with contextlib.closing(connection):
        for route in view.shards.routes().shards:
            assert route.release is not None
            wanted = (route.shard, short(route.release), versions[route.release])
            for tenant in route.tenants:
                answer = view.ask(tenant, connection)
                if answer != wanted:
                    found.append(f"{tenant} is answered by {answer}, not {wanted}")
    return found


def _wrong_processes(view: RegionView) -> list[str]:
    """Each release that a shard runs has exactly one process."""
    running = view.running()
    return [
        f"{view.name}: {running[release]} processes of {short(release)}"
        for release in view.shards.active_releases()
        if running[release] != 1
    ]


def _wrong_runs(control: Ledger) -> list[str]:
    """Each run that began has ended; neither is receipted twice."""
    kinds = ("rollout.started", "rollout.ended")
    receipts = [stored.receipt for stored in control.read(kinds=kinds)]
    told = Counter((each.kind, each.workflow_id, each.run_id) for each in receipts)
    found = [f"receipted {count} times: {what}" for what, count in told.items() if count > 1]
    begun, over = ({key[1:] for key in told if key[0] == kind} for kind in kinds)
    return found + [f"{run} began but has no end" for run in sorted(begun - over)]


def _wrong_chains(home: Path) -> list[str]:
    """`chainring receipts verify`, in this process."""
    result = CliRunner().invoke(
        receipts_command, ["verify", "--strict", "--json"], env={"CHAINRING_HOME": str(home)}
    )
    if result.exit_code not in (0, 1) or (result.exit_code and not result.stdout):
        return [f"receipts verify: {result.output} {result.exception!r}"]
    return [
        f"ledger {each['ledger']}: {each}"
        for each in json.loads(result.stdout)
        if not each["verified"] or not each["signed"]
    ]


def _change(receipt: Receipt) -> Change:
    body: dict[str, Any] = receipt.body
    fields = ("rollout", "epoch", "shard", "previous", "release", "generation")
    return Change(receipt.seq, *(body[name] for name in fields))


def _served(view: RegionView) -> bool:
    """Whether Envoy is there, and every release that shards run is healthy."""
    if not EnvoyAdmin(view.gateway).ready():
        return False
    healthy = {
        each.release
        for each in view.processes.list()
        if each.state == "healthy" and _lives(each.pid)  # or the host has not seen it yet
    }
    return view.shards.active_releases().keys() <= healthy


def _lives(pid: int | None) -> bool:
    """Whether a process that is said to run does."""
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _environments() -> Iterator[dict[str, str]]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            yield process.environ()


async def _open_workflows(stack: Stack) -> Any:
    for namespace in ("control", *REGIONS):
        client = await stack.client(namespace)
        # A region's watch is meant to run for ever.
        query = 'ExecutionStatus = "Running" AND WorkflowType != "WatchRegion"'
        async for found in client.list_workflows(query):
            yield f"{client.namespace}: {found.id}"


async def _has_ended(handle: WorkflowHandle[Any, Any]) -> bool:
    with contextlib.suppress(RPCError, TimeoutError):
        described = await asyncio.wait_for(handle.describe(), 2)
        return described.status != WorkflowExecutionStatus.RUNNING
    return False


def _is_locked(database: str) -> bool:
    with contextlib.closing(sqlite3.connect(database, timeout=0.2, isolation_level=None)) as probe:
        try:
            probe.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        probe.execute("ROLLBACK")
        return False


@contextlib.contextmanager
def _home(path: Path) -> Iterator[None]:
    before = os.environ.get("CHAINRING_HOME")
    os.environ["CHAINRING_HOME"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CHAINRING_HOME"]
        else:
            os.environ["CHAINRING_HOME"] = before
