"""The recovery process of one or more regions. `python -m workers recovery eu`.

It needs no region's store to start: when one is lost, this is what brings it back.
"""

import asyncio
import threading
from contextlib import AsyncExitStack
from pathlib import Path

from prometheus_client import start_http_server

from activities.failover import FailOverActivities
from activities.notices import NoticeActivities
from models.addresses import RegionAddresses
from models.config import load_config
from stores.notices import NoticeBoard
from stores.webhook import Webhook
from workers.backup import RegionBackup
from workers.process import PATIENCE, activities_of, connect, log, make_worker, stop_asked
from workers.settings import SettingsError, load_region
from workers.temporal_setup import RECOVERY_QUEUE
from workers.upkeep import upkeep
from workers.watch import watch_activities
from workflows.deliver_notice import DeliverNotice
from workflows.fail_over import FailOver
from workflows.prune_backup import PruneBackup
from workflows.recovery_drill import RecoveryDrill
from workflows.recovery_incident import RecoveryIncident
from workflows.restore_region import RestoreRegion
from workflows.restore_tenant import RestoreTenant
from workflows.snapshot_region import SnapshotRegion
from workflows.validate_backup import ValidateBackup
from workflows.watch_region import WatchRegion

RECOVERY_WORKFLOWS: list[type] = [
    SnapshotRegion,
    RestoreRegion,
    RestoreTenant,
    FailOver,
    WatchRegion,
    DeliverNotice,
    RecoveryDrill,
    RecoveryIncident,
    ValidateBackup,
    PruneBackup,
]


async def run_recovery(regions: list[str]) -> int:
    """Run until told to stop.

    Raises:
        SettingsError: a region's addresses are missing, or name no backup.
    """
    stop = stop_asked()
    workers, stopping, threads = [], threading.Event(), []
    ports: set[int] = set()
    for region in regions:
        addresses = load_region(region)
        if addresses.backup is None:
            raise SettingsError(f"region {region}: its addresses name no backup")
        backup = RegionBackup(addresses, addresses.backup)
        ports.add(addresses.backup.metrics_port)
        holders: list[object] = [
            backup.activities(),
            backup.tenant_activities(),
            *upkeep(backup),
        ]
        if addresses.recovery is not None:
            holders.append(
                FailOverActivities(region, addresses.recovery, backup.primary, backup.secure)
            )
            holders.append(backup.snapshot_reads(addresses.recovery))
            holders.append(_notices(addresses, addresses.recovery))
            holders.append(watch_activities(backup, addresses.recovery, addresses.config))
        temporal = addresses.temporal.model_copy(update={"task_queue": RECOVERY_QUEUE})
        client = await connect(temporal, otlp_endpoint=addresses.otlp_endpoint, patience=PATIENCE)
        workers.append(
            make_worker(
                client,
                temporal,
                addresses.worker.model_copy(update={"versioning": "off"}),
                deployment=f"chainring-recovery-{region}",
                workflows=RECOVERY_WORKFLOWS,
                activities=activities_of(*holders),
            )
        )
        threads.append(
            threading.Thread(target=backup.run, args=(stopping,), name=f"backup-{region}")
        )
    for port in ports - {0}:
        start_http_server(port, addr="127.0.0.1")
    for thread in threads:
        thread.start()
    try:
        async with AsyncExitStack() as running:
            for worker in workers:
                await running.enter_async_context(worker)
            log.info("recovery is ready: %s", ", ".join(regions))
            await stop.wait()
    finally:
        stopping.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
    return 0


def _notices(addresses: RegionAddresses, directory: Path) -> NoticeActivities:
    """What tells the region's tenants; ``directory``: where the gateway looks for it."""
    hook = addresses.webhook
    return NoticeActivities(
        NoticeBoard(directory, addresses.region),
        wanted=lambda: load_config(addresses.config.read_text()).failover.notify_tenants,
        webhook=None if hook is None else Webhook(hook.url, hook.key_file),
    )
