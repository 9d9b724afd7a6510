"""Effects around a region's recovery: receipts of it, and incidents where a promise is not kept."""

import asyncio
from collections.abc import Callable, Sequence

from temporalio import activity
from temporalio.common import WorkflowIDConflictPolicy

from activities.errors import final_errors
from models.config_recovery import Sla
from models.receipts import Draft
from models.recovery_incident import (
    JudgeFailOver,
    JudgeRestore,
    RaiseIncident,
    RecoveryIncidentRequest,
    Sighting,
)
from models.recovery_report import failover_misses, recovery_report
from models.restore_certificate_check import verify_certificate
from stores.backup_layout import certificate_name
from stores.certifying import LARGEST_CERTIFICATE
from stores.keys import SigningKey
from stores.ledger import Ledger
from stores.objects import ObjectStore
from stores.pointer import Pointer
from stores.sql import open_existing


class RecoveryIncidentActivities:
    """What the recovery worker does for ``RecoveryIncident`` and for whoever opens one.

    Args:
        sla: the SLAs as configured at the moment.
    """

    def __init__(
        self,
        region: str,
        *,
        primary: Callable[[], Pointer],
        objects: ObjectStore,
        key: SigningKey,
        sla: Callable[[], Sla],
    ) -> None:
        self._region = region
        self._primary = primary
        self._objects = objects
        self._key = key
        self._sla = sla

    @activity.defn
    @final_errors
    def record_recovery(self, draft: Draft) -> int:
        """Append a receipt to the ledger of the region's primary; its number."""
        engine = open_existing(self._primary().database)
        try:
            return Ledger(engine, self._region).append([draft])[0].seq
        finally:
            engine.dispose()

    @activity.defn
    async def raise_recovery_incident(self, step: RaiseIncident) -> str:
        """Open an incident, or tell the one that is open that its cause was seen again; its id."""
        return await _raise(step)

    @activity.defn
    async def judge_restore(self, step: JudgeRestore) -> str:
        """Hold a published restore against the SLAs; the incident's id, "" when all were kept."""
        said = await asyncio.to_thread(self._restore_misses, step.restored)
        name = certificate_name(self._region, step.restored)
        return await self._missed(said, f"restore of {step.restored}", step.source, name)

    @activity.defn
    async def judge_failover(self, step: JudgeFailOver) -> str:
        """Hold a failover against the SLAs; the incident's id, "" when all were kept."""
        sla = await asyncio.to_thread(self._sla)
        said = failover_misses(step.started, step.degraded_at, step.normal_at, sla)
        return await self._missed(said, step.source, step.source, "")

    @final_errors
    def _restore_misses(self, restored: str) -> list[str]:
        data = self._objects.get(certificate_name(self._region, restored), LARGEST_CERTIFICATE)
        certificate = verify_certificate(data, self._key.trusted(self._region), [])
        return [str(each) for each in recovery_report([certificate], self._sla()).misses]

    async def _missed(self, said: Sequence[str], cause: str, source: str, name: str) -> str:
        if not said:
            return ""
        request = RecoveryIncidentRequest(
            region=self._region,
            kind="sla-missed",
            cause=cause,
            why="; ".join(said),
            certificate=name,
        )
        return await _raise(RaiseIncident(request=request, source=source))


async def _raise(step: RaiseIncident) -> str:
    sighting = Sighting(source=step.source, why=step.request.why)
    handle = await activity.client().start_workflow(
        "RecoveryIncident",
        step.request,
        id=step.request.id,
        task_queue=activity.info().task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        start_signal="seen",
        start_signal_args=[sighting],
    )
    return handle.id
