"""A region's recovery worker over a store and a backup in a directory, for tests of workflows."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

from recovery_harness import REGION, Backup
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from activities.failover import FailOverActivities
from activities.recovery import RecoveryActivities
from models.recovery import RestoreRequest, RestoreStatus
from stores.checkpoints import CheckpointFiles, default_directory
from stores.pointer import Pointer, PrimaryPointer
from stores.shipping import Shipper
from stores.snapshots import Snapshotter
from stores.sql import open_engine
from workers.process import activities_of, sandbox
from workers.recovery import RECOVERY_WORKFLOWS

QUEUE = "recovery-test"
Handle = WorkflowHandle[object, RestoreStatus]


class Recovery:
    """One region: its backup, its pointer, and workflows that restore it."""

    def __init__(self, directory: Path, client: Client) -> None:
        self.client = client
        self.url = f"sqlite:///{directory}/region.db"
        self._open: AbstractContextManager[Shipper] | None = None
        self.backup = Backup(open_engine(self.url), directory)
        self.pointer = PrimaryPointer(directory / "primary.json")
        found = self.backup.identity
        self.pointer.move(Pointer(store=found.id, epoch=found.epoch, database=self.url))
        backup = self.backup
        self.activities = RecoveryActivities(
            REGION,
            primary=self.primary,
            pointer=self.pointer,
            follower=self,
            objects=backup.objects,
            witness=backup.witness,
            key=backup.key,
            checkpoints=CheckpointFiles(default_directory(backup.key.path), REGION),
            unseal=backup.seals.unseal,
            certificates=directory / "certificates",
            version="test",
        )

    def primary(self) -> Pointer:
        found = self.pointer.read()
        assert found is not None
        return found

    def snapshotter(self) -> Snapshotter:
        """The follower's part: a snapshot is one call here."""
        context = self.backup.shipper()
        self._open = context
        return Snapshotter(self.backup.engine, context.__enter__())

    def catch_up(self) -> None:
        """The store gives nothing more: what tests ship, they ship."""

    def close(self) -> None:
        """Let go of the state tree."""
        if self._open is not None:
            self._open.__exit__(None, None, None)
        self._open = None

    async def start(self, **request: object) -> Handle:
        asked = RestoreRequest.model_validate({"actor": "ana", "reason": "disk lost", **request})
        return await self.client.start_workflow(
            "RestoreRegion",
            asked,
            id=f"restore/{REGION}/{uuid.uuid4().hex[:8]}",
            task_queue=QUEUE,
            result_type=RestoreStatus,
        )


@asynccontextmanager
async def recovery_worker(directory: Path, client: Client) -> AsyncIterator[Recovery]:
    made = Recovery(directory, client)
    failover = FailOverActivities(REGION, directory / "path", made.primary, made.catch_up)
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=RECOVERY_WORKFLOWS,
        activities=activities_of(made.activities, failover),
        activity_executor=ThreadPoolExecutor(4),
        workflow_runner=sandbox(),
    ):
        yield made
    made.close()
    made.backup.engine.dispose()


async def restore_status(handle: Handle) -> RestoreStatus:
    return await handle.query("status", result_type=RestoreStatus)


async def until_restore(handle: Handle, state: str) -> RestoreStatus:
    for _ in range(400):
        found = await restore_status(handle)
        if found.state == state:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"never {state}: {found}")


def lose_a_segment(recovery: Recovery) -> str:
    """Remove the newest segment from the bucket."""
    backup = recovery.backup
    prefix = f"{REGION}/{backup.identity.id}/changelog/"
    found = list(backup.objects.list(prefix))[-1]
    backup.objects.delete(found.name, if_generation=found.generation)
    return found.name
