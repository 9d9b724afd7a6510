"""The watch over a region's primary, wired from its addresses, and started once for good."""

import asyncio
import time
from pathlib import Path

from prometheus_client import Counter, Gauge
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.watching import WatchActivities
from models.config import Config, load_config
from models.probe import Pace, Probe, Verdict, pace
from models.watch import WatchRequest, WatchSettings
from stores.primary import PrimaryFile
from stores.probe import Prober
from workers.backup import RegionBackup
from workers.temporal_setup import RECOVERY_QUEUE

PROBES = Counter("chainring_probes", "Probes of a region's primary", ["region", "outcome"])
READ_SECONDS = Gauge("chainring_probe_read_seconds", "Reads of the newest probe", ["region"])
LAST_GOOD = Gauge("chainring_probe_last_good_timestamp_seconds", "Unix time", ["region"])
VERDICT = Gauge(
    "chainring_primary_verdict", "1 while this stands against the primary", ["region", "fault"]
)
FAILOVERS = Counter("chainring_failovers", "Failovers the watch followed", ["region", "outcome"])

NAMESPACE_PATIENCE_S = 30.0
_FAULTS = ("down", "corrupted", "slow")


class RegionGauges:
    """`activities.watching.Gauges` in Prometheus."""

    def __init__(self, region: str) -> None:
        self._region = region
        self.standing(None)

    def probed(self, probe: Probe) -> None:
        """See `Gauges`."""
        PROBES.labels(self._region, probe.outcome).inc()
        READ_SECONDS.labels(self._region).set(probe.seconds)
        if probe.outcome == "ok":
            LAST_GOOD.labels(self._region).set(probe.at.timestamp())

    def standing(self, verdict: Verdict | None) -> None:
        """See `Gauges`."""
        for fault in _FAULTS:
            stands = verdict is not None and verdict.fault == fault
            VERDICT.labels(self._region, fault).set(stands)

    def failed_over(self, *, normal: bool) -> None:
        """See `Gauges`."""
        FAILOVERS.labels(self._region, "normal" if normal else "failed").inc()


def watch_activities(backup: RegionBackup, directory: Path, config: Path) -> WatchActivities:
    """What the watch of a region runs; ``directory``: of its mode file."""

    def loaded() -> Config:
        return load_config(config.read_text())

    def rules() -> Pace:
        return pace(loaded().failure_detection)

    region, mode = backup.region, PrimaryFile(directory, backup.region)
    return WatchActivities(
        Prober(region, backup.primary, distrust=lambda: backup.distrusted, slow=rules().slow),
        rules=rules,
        settings=lambda: watch_settings(loaded()),
        degraded=lambda: mode.read().mode != "normal",
        gauges=RegionGauges(region),
    )


def watch_settings(config: Config) -> WatchSettings:
    """What the watch's workflow goes by."""
    return WatchSettings(
        interval=config.failure_detection.heartbeat_interval_seconds,
        timeout=config.failure_detection.heartbeat_timeout_seconds,
        automatic=config.failover.automatic_failover_enabled,
        initiate_within=config.failover.failover_timeout_seconds,
    )


def watch_id(region: str) -> str:
    """The one workflow that watches a region."""
    return f"watch/{region}"


async def ensure_watch(client: Client, region: str) -> bool:
    """Start the region's watch; false when it runs already.

    A namespace that was made a moment ago is waited for.
    """
    ends = time.monotonic() + NAMESPACE_PATIENCE_S
    while True:
        try:
            await client.start_workflow(
                "WatchRegion", WatchRequest(), id=watch_id(region), task_queue=RECOVERY_QUEUE
            )
        except WorkflowAlreadyStartedError:
            return False
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND or time.monotonic() > ends:
                raise
            await asyncio.sleep(0.5)
        else:
            return True
