"""A region's recovery worker over a store and a backup in a directory, for tests of workflows."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path

from recovery_harness import REGION, Backup
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.drills import DrillActivities
from activities.failover import FailOverActivities
from activities.notices import NoticeActivities
from activities.pruning import PruneActivities
from activities.recovery import RecoveryActivities
from activities.recovery_incidents import RecoveryIncidentActivities
from activities.snapshot_reads import SnapshotReadActivities
from activities.tenant_restore import TenantActivities
from activities.validation import ValidationActivities
from models.config_recovery import Backup as BackupConfig
from models.config_recovery import Sla
from models.recovery import RestoreRequest, RestoreStatus
from models.tenant_restore import TenantStatus
from stores.checkpoints import CheckpointFiles, default_directory
from stores.drill import Driller
from stores.notices import NoticeBoard
from stores.pointer import Pointer, PrimaryPointer
from stores.prune import Pruner, limits_of
from stores.scratch import ScratchStores
from stores.shipping import Shipper
from stores.snapshots import Snapshotter
from stores.sql import StoreUnavailable, open_engine
from stores.validation import RotationFile, Validator
from stores.webhook import Webhook
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
        self.make_worker: Callable[[], Worker]
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

        self.mode = directory / "path"
        self.mode.mkdir(exist_ok=True)
        self.quarantine = directory / "quarantine"
        self.tenants = TenantActivities(
            REGION,
            primary=self.primary,
            follower=self,
            objects=backup.objects,
            witness=backup.witness,
            key=backup.key,
            unseal=backup.seals.unseal,
            quarantine=self.quarantine,
            mode=self.mode,
            version="test",
        )

        checkpoints = CheckpointFiles(default_directory(backup.key.path), REGION)
        self.sla = Sla()
        self.drills = DrillActivities(
            REGION,
            primary=self.primary,
            driller=Driller(
                REGION,
                live=self,
                objects=backup.objects,
                witness=backup.witness,
                key=backup.key,
                checkpoints=checkpoints,
                unseal=backup.seals.unseal,
                unsealing_from_backup=lambda: nullcontext(backup.seals.unseal),
            ),
            scratch=ScratchStores(directory / "scratch"),
            objects=backup.objects,
            key=backup.key,
            certificates=directory / "certificates",
            version="test",
            sla=lambda: self.sla,
        )
        self.incidents = RecoveryIncidentActivities(
            REGION,
            primary=self.primary,
            objects=backup.objects,
            key=backup.key,
            sla=lambda: self.sla,
        )

        self.config = BackupConfig()
        self.rotation = RotationFile(directory / "validation.json")
        public = [backup.key.public(REGION)]
        self.validation = ValidationActivities(
            REGION,
            primary=self.primary,
            validator=Validator(backup.objects, REGION, public, backup.witness),
            rotation=self.rotation,
            objects=backup.objects,
            key=backup.key,
            unseal=backup.seals.unseal,
            config=lambda: self.config,
        )

        self.limits = limits_of(self.config)
        pruner = Pruner(backup.objects, REGION, public, lambda: self.limits)
        self.pruning = PruneActivities(REGION, objects=backup.objects, pruner=pruner)

    async def up(self) -> None:
        """Start a worker."""
        self._worker = self.make_worker()
        await self._worker.__aenter__()

    async def down(self) -> None:
        """End it, as for an update of its machine."""
        await self._worker.__aexit__(None, None, None)

    def primary(self) -> Pointer:
        found = self.pointer.read()
        assert found is not None
        return found

    def snapshotter(self) -> Snapshotter:
        """The follower's part: a snapshot is one call here."""
        if not (self.backup.directory / "region.db").exists():
            raise StoreUnavailable("unreachable", "the disk is lost")
        self.close()
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
async def recovery_worker(
    directory: Path,
    client: Client,
    *,
    more: Callable[[Recovery], Sequence[object]] = lambda _: (),
    webhook: Webhook | None = None,
) -> AsyncIterator[Recovery]:
    """``more``: further holders of activities."""
    made = Recovery(directory, client)
    failover = FailOverActivities(REGION, directory / "path", made.primary, made.catch_up)
    reads = SnapshotReadActivities(
        REGION,
        directory / "path",
        primary=made.primary,
        objects=made.backup.objects,
        witness=made.backup.witness,
        keys=[made.backup.key.public(REGION)],
        unseal=made.backup.seals.unseal,
    )
    (directory / "path").mkdir(exist_ok=True)
    notices = NoticeActivities(
        NoticeBoard(directory / "path", REGION), wanted=lambda: True, webhook=webhook
    )
    holders = (
        *(made.activities, made.tenants, failover, reads, notices),
        *(made.drills, made.incidents, made.validation, made.pruning, *more(made)),
    )
    made.make_worker = lambda: Worker(
        client,
        task_queue=QUEUE,
        workflows=RECOVERY_WORKFLOWS,
        activities=activities_of(*holders),
        activity_executor=ThreadPoolExecutor(4),
        workflow_runner=sandbox(),
    )
    await made.up()
    try:
        yield made
    finally:
        await _end_incidents(client)
        await made.down()
        made.close()
        made.backup.engine.dispose()


async def _end_incidents(client: Client) -> None:
    """The server is the session's: no test sees the incidents of another."""
    query = 'WorkflowType = "RecoveryIncident" AND ExecutionStatus = "Running"'
    async for each in client.list_workflows(query):
        with contextlib.suppress(RPCError):  # it has ended meanwhile
            await client.get_workflow_handle(each.id).terminate("the test is over")


async def restore_status(handle: Handle) -> RestoreStatus:
    return await handle.query("status", result_type=RestoreStatus)


async def until_restore(handle: Handle, state: str) -> RestoreStatus:
    for _ in range(400):
        found = await restore_status(handle)
        if found.state == state:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"never {state}: {found}")


async def until_tenant_waits(handle: "WorkflowHandle[object, TenantStatus]") -> TenantStatus:
    for _ in range(400):
        found = await handle.query("status", result_type=TenantStatus)
        if found.state == "waiting":
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"never waiting: {found}")


def lose_a_segment(recovery: Recovery) -> str:
    """Remove the newest segment from the bucket."""
    backup = recovery.backup
    prefix = f"{REGION}/{backup.identity.id}/changelog/"
    found = list(backup.objects.list(prefix))[-1]
    backup.objects.delete(found.name, if_generation=found.generation)
    return found.name
