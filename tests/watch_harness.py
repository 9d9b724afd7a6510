"""A watched region for tests: a store with a backup, its recovery worker, and `WatchRegion`."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from recovery_harness import REGION
from restore_harness import QUEUE, Recovery, recovery_worker
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from activities.watching import WatchActivities
from models.probe import Pace, Probe, Verdict
from models.watch import WatchRequest, WatchSettings, WatchStatus
from stores.primary import PrimaryFile
from stores.probe import Prober
from stores.webhook import Webhook

RULES = Pace(interval=0.2, beside=2.0, patience=5.0, slow=10.0)
Watch = WorkflowHandle[object, None]


@dataclass
class Seen:
    """What would be in Prometheus."""

    probes: list[Probe] = field(default_factory=list)
    standing_: list[Verdict | None] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)

    def probed(self, probe: Probe) -> None:
        self.probes.append(probe)

    def standing(self, verdict: Verdict | None) -> None:
        self.standing_.append(verdict)

    def failed_over(self, *, normal: bool) -> None:
        self.ended.append(normal)


@dataclass
class Watched:
    """A region that is watched."""

    recovery: Recovery
    watch: Watch
    seen: Seen
    mode: PrimaryFile

    async def status(self) -> WatchStatus:
        return await self.watch.query("status", result_type=WatchStatus)

    async def until(self, holds: Callable[[WatchStatus], bool]) -> WatchStatus:
        for _ in range(600):
            found = await self.status()
            if holds(found):
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"it never holds: {found}")

    async def until_probed(self, count: int = 1) -> None:
        """Until so many more probes were made."""
        wanted = len(self.seen.probes) + count
        await self.until(lambda _: len(self.seen.probes) >= wanted)

    def lose_the_store(self) -> None:
        self.recovery.backup.engine.dispose()
        for each in self.recovery.backup.directory.glob("region.db*"):
            each.unlink()

    async def failovers(self) -> list[str]:
        """The ids of all that were started for this region's worker."""
        query = f'WorkflowType = "FailOver" AND TaskQueue = "{QUEUE}"'
        return [each.id async for each in self.recovery.client.list_workflows(query)]


@asynccontextmanager
async def watched_region(
    directory: Path,
    client: Client,
    *,
    automatic: bool = True,
    webhook: Webhook | None = None,
    rounds: int = 500,
) -> AsyncIterator[Watched]:
    """A region whose backup has everything, and whose watch has begun to probe."""
    seen = Seen()
    settings = WatchSettings(interval=1, timeout=10, automatic=automatic, initiate_within=60)
    mode = PrimaryFile(directory / "path", REGION)

    def activities(recovery: Recovery) -> list[object]:
        made = WatchActivities(
            Prober(REGION, recovery.primary, slow=10.0),
            rules=lambda: RULES,
            settings=lambda: settings,
            degraded=lambda: mode.read().mode != "normal",
            gauges=seen,
        )
        return [made]

    async with recovery_worker(directory, client, more=activities, webhook=webhook) as recovery:
        recovery.backup.work(10)
        recovery.backup.snapshot()
        recovery.backup.work(5)
        recovery.backup.ship()
        watch: Watch = await client.start_workflow(
            "WatchRegion",
            WatchRequest(rounds=rounds),
            id=f"watch/{uuid.uuid4().hex[:8]}",
            task_queue=QUEUE,
        )
        made = Watched(recovery, watch, seen, mode)
        try:
            await made.until_probed()
            yield made
        finally:
            with contextlib.suppress(RPCError):
                await watch.terminate("the test is over")
