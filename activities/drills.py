"""Effects of a recovery drill: restore into a scratch database, certify, throw away."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.errors import final_errors
from models.config_recovery import Sla
from models.drill import DrillResult, DrillStep, faults_of
from models.recovery_report import recovery_report
from models.restore_certificate import Times
from models.restore_certificate_check import verify_certificate
from stores.backup_layout import certificate_name
from stores.certifying import certify, keep_certificate
from stores.drill import Drilled, Driller
from stores.keys import SigningKey
from stores.objects import ObjectStore
from stores.pins import pinned
from stores.pointer import Pointer
from stores.restore import Target
from stores.restore_target import thrown_away_on_error
from stores.scratch import Scratch, ScratchStores
from stores.sql import open_scratch

MOST_FAULTS = 50


class DrillActivities:
    """What the recovery worker does for ``RecoveryDrill`` of one region.

    Args:
        certificates: directory where certificates are kept beside the backup.
        version: the build that certificates name.
    """

    def __init__(
        self,
        region: str,
        *,
        primary: Callable[[], Pointer],
        driller: Driller,
        scratch: ScratchStores,
        objects: ObjectStore,
        key: SigningKey,
        certificates: Path,
        version: str,
        sla: Callable[[], Sla],
    ) -> None:
        self._region = region
        self._primary = primary
        self._driller = driller
        self._scratch = scratch
        self._objects = objects
        self._key = key
        self._certificates = certificates
        self._version = version
        self._sla = sla

    @activity.defn
    @final_errors
    def drill_region(self, step: DrillStep) -> DrillResult:
        """Restore, prove, compare and certify; begun again it starts anew, in another database."""
        primary = self._primary()
        self._scratch.drop(primary.database, step.holder)
        made = self._scratch.make(primary.database, step.holder)
        started = datetime.now(UTC)
        with thrown_away_on_error(made.database(primary.database)):
            done = self._drill(step, primary, made)
        return self._judged(done, started)

    @activity.defn
    @final_errors
    def discard_scratch(self, holder: str) -> list[str]:
        """Throw away what a drill built; the ids of the stores."""
        return self._scratch.drop(self._primary().database, holder)

    @activity.defn
    async def sweep_scratch(self, holder: str) -> list[str]:
        """Throw away what drills left that run no more; whose that was."""
        found = await asyncio.to_thread(self._scratch.all)
        swept = []
        for other in sorted({each.holder for each in found} - {holder}):
            if not await _runs(other):
                await asyncio.to_thread(self._scratch.drop, self._primary().database, other)
                swept.append(other)
        return swept

    def _drill(self, step: DrillStep, primary: Pointer, made: Scratch) -> Drilled:
        engine = open_scratch(made.database(primary.database))
        try:
            target = Target(engine, made.store, primary.epoch + 1)
            with pinned(self._objects, self._region, step.holder, beat=activity.heartbeat):
                return self._driller.drill(step.kind, primary.store, target, activity.heartbeat)
        finally:
            engine.dispose()

    def _judged(self, done: Drilled, started: datetime) -> DrillResult:
        report = done.report
        name = path = ""
        misses: list[str] = []
        finished = datetime.now(UTC)
        if report.complete:
            data = self._certified(done, Times(started_at=started, finished_at=finished))
            checked = verify_certificate(data, self._key.trusted(self._region), [done.head])
            misses = [str(each) for each in recovery_report([checked], self._sla()).misses]
            name = certificate_name(self._region, report.restored_store)
            path = str(
                keep_certificate(
                    self._objects, self._certificates, self._region, report.restored_store, data
                )
            )
        return DrillResult(
            report=report.model_copy(update={"segments": (), "findings": report.findings[:20]}),
            segments=len(report.segments),
            certificate=name,
            path=path,
            used=done.used,
            compared=done.compared,
            seconds=(finished - started).total_seconds(),
            faults=tuple(each[:1000] for each in faults_of(report, done.compared)[:MOST_FAULTS]),
            misses=tuple(misses),
        )

    def _certified(self, done: Drilled, times: Times) -> bytes:
        return certify(
            done.report,
            self._key,
            kind="drill",
            expected_head=done.head,
            times=times,
            code_version=self._version,
            checkpoint=done.checkpoint,
        )


async def _runs(workflow_id: str) -> bool:
    try:
        found = await activity.client().get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return False
        raise
    return found.status == WorkflowExecutionStatus.RUNNING
