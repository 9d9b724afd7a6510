"""The recovery process of one or more regions. `python -m workers recovery eu`.

It needs no region's store to start: when one is lost, this is what brings it back.
"""

import asyncio
import threading
from contextlib import AsyncExitStack

from activities.failover import FailOverActivities
from workers.backup import RegionBackup
from workers.process import activities_of, connect, log, make_worker, stop_asked
from workers.settings import SettingsError, load_region
from workers.temporal_setup import RECOVERY_QUEUE
from workflows.fail_over import FailOver
from workflows.restore_region import RestoreRegion
from workflows.snapshot_region import SnapshotRegion

RECOVERY_WORKFLOWS = [SnapshotRegion, RestoreRegion, FailOver]


async def run_recovery(regions: list[str]) -> int:
    """Run until told to stop.

    Raises:
        SettingsError: a region's addresses are missing, or name no backup.
    """
    stop = stop_asked()
    workers, stopping, threads = [], threading.Event(), []
    for region in regions:
        addresses = load_region(region)
        if addresses.backup is None:
            raise SettingsError(f"region {region}: its addresses name no backup")
        backup = RegionBackup(addresses, addresses.backup)
        holders: list[object] = [backup.activities()]
        if addresses.recovery is not None:
            holders.append(
                FailOverActivities(region, addresses.recovery, backup.primary, backup.secure)
            )
        temporal = addresses.temporal.model_copy(update={"task_queue": RECOVERY_QUEUE})
        client = await connect(temporal, otlp_endpoint=addresses.otlp_endpoint)
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
