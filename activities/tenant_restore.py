"""Effects of restoring one tenant: a copy in quarantine, a comparison, and writing in place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pydantic import JsonValue
from sqlalchemy import Engine
from temporalio import activity

from activities.errors import final_errors
from activities.heartbeats import alive, beat
from activities.recovery import Follower
from models.backup_file import Unseal
from models.receipts import Draft
from models.tenant_restore import (
    AppliedTenant,
    ApplyTenant,
    CompareTenant,
    Comparison,
    CopyReport,
    CopyTenant,
    TenantCopy,
)
from models.tenant_statement import CopyPredicate, sign_copy
from stores.backup_end import newest_head
from stores.keys import SigningKey
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.objects import ObjectStore
from stores.part_load import scratch_database
from stores.pointer import Pointer
from stores.primary import PrimaryFile, RegionNotNormal
from stores.quarantine import Quarantine
from stores.restore_plan import BackupReader, NothingToRestore
from stores.sql import StoreUnavailable, open_engine
from stores.tenant_apply import StoreChanged, apply_plan, compare_tenant
from stores.tenant_copy import copy_tenant
from stores.witness import Witness


class TenantActivities:
    """What the recovery worker does for single tenants of one region.

    Args:
        mode: directory of the region's mode file; None: the region has no degraded mode.
        version: the build that statements name.
    """

    def __init__(
        self,
        region: str,
        *,
        primary: Callable[[], Pointer],
        follower: Follower,
        objects: ObjectStore,
        witness: Witness,
        key: SigningKey,
        unseal: Unseal,
        quarantine: Path,
        mode: Path | None,
        version: str,
    ) -> None:
        self._region = region
        self._primary = primary
        self._follower = follower
        self._objects = objects
        self._witness = witness
        self._key = key
        self._unseal = unseal
        self._quarantine = Quarantine(quarantine)
        self._mode = mode
        self._version = version

    @activity.defn
    @final_errors
    @alive
    def copy_tenant(self, step: CopyTenant) -> TenantCopy:
        """Bring a tenant out of the backup into quarantine; nothing is kept of an erased one."""
        request, keys = step.request, self._key.trusted(self._region)
        kept = self._quarantine.find(request.tenant, step.copy_id, keys)
        if kept is not None:
            return kept
        self._follower.catch_up()
        source = request.store or self._primary().store
        if request.head:
            note: bytes | None = request.head.encode()
        else:
            note = newest_head(self._objects, self._witness, self._region, source, keys)
        if note is None:
            raise NothingToRestore(
                f"head: no signed head of store {source} was witnessed, and none is given"
            )
        reader = BackupReader(self._objects, self._region, source, keys, self._unseal)
        with scratch_database() as engine:
            report = copy_tenant(reader, request.tenant, note, request.goal, engine, beat)
            if report.erased or report.gap is not None:
                return TenantCopy(report=report, directory="")
            items = TenantKV(engine, request.tenant).items()
            sign = partial(self._sign, step, report)
            return self._quarantine.keep(report, step.copy_id, items, sign)

    @activity.defn
    @final_errors
    @alive
    def compare_tenant(self, step: CompareTenant) -> Comparison:
        """Say what restoring the copy in place would do to the tenant as it is now."""
        self._require_normal()
        place = self._quarantine.place(step.tenant, step.copy_id)
        with self._live() as (engine, store):
            return compare_tenant(engine, store, step.tenant, place)

    @activity.defn
    @final_errors
    @alive
    def apply_tenant(self, step: ApplyTenant) -> AppliedTenant:
        """Write the plan into the live tenant, between two receipts; once, however often tried.

        A region that is not normal is refused before the first write, and waited for after it.
        """
        place = self._quarantine.place(step.tenant, step.copy_id)
        with self._live() as (engine, store):
            if store != step.comparison.store:
                raise StoreChanged(
                    f"the primary is store {store} by now, {step.comparison.store} was compared"
                )
            ledger = Ledger(engine, self._region, epoch=Ledger(engine, self._region).head().epoch)
            done = ledger.find(f"tenant-restore/{step.copy_id}")
            if done is not None:
                return AppliedTenant.model_validate(done.receipt.body["applied"])
            if ledger.find(f"tenant-restore/{step.copy_id}/begun") is None:
                self._require_normal()
                ledger.append([_begun(step)])
            applied = apply_plan(engine, step.tenant, place, step.comparison, self._go_on)
            ledger.append([_restored(step, applied)])
        return applied

    @activity.defn
    @final_errors
    @alive
    def discard_copy(self, step: CompareTenant) -> None:
        """Throw a copy away."""
        self._quarantine.discard(step.tenant, step.copy_id)

    def _sign(self, step: CopyTenant, report: CopyReport, digest: str) -> bytes:
        predicate = CopyPredicate(
            report=report,
            actor=step.request.actor,
            reason=step.request.reason,
            workflow=step.workflow,
            code_version=self._version,
        )
        return sign_copy(predicate, digest, self._key.private)

    @contextmanager
    def _live(self) -> "Iterator[tuple[Engine, str]]":
        """The region's primary, and its id."""
        primary = self._primary()
        engine = open_engine(primary.database)
        try:
            yield engine, primary.store
        finally:
            engine.dispose()

    def _go_on(self, done: int) -> None:
        beat("writing", done)
        try:
            self._require_normal()
        except RegionNotNormal as error:  # begun: it is to be ended when it can be
            raise StoreUnavailable("locked", str(error)) from error

    def _require_normal(self) -> None:
        if self._mode is not None:
            PrimaryFile(self._mode, self._region).require_normal()


def _begun(step: ApplyTenant) -> Draft:
    return _draft(step, "tenant.restore.begun", f"tenant-restore/{step.copy_id}/begun", {})


def _restored(step: ApplyTenant, applied: AppliedTenant) -> Draft:
    """Keys stay out of it: a receipt outlives the erasure of a tenant."""
    said = {**applied.model_dump(mode="json"), "first_conflicts": []}
    return _draft(step, "tenant.restored", f"tenant-restore/{step.copy_id}", {"applied": said})


def _draft(step: ApplyTenant, kind: str, key: str, more: dict[str, JsonValue]) -> Draft:
    report = step.report
    return Draft(
        kind=kind,
        actor=step.decision.actor,
        subject=step.tenant,
        idempotency_key=key,
        workflow_id=step.workflow,
        body={
            "reason": step.decision.reason,
            "goal": report.goal.model_dump(mode="json"),
            "source_store": report.source_store,
            "reached_seq": report.reached_seq,
            "state_root": report.state_root,
            "wanted": report.digest,
            "before": step.comparison.before,
            "plan": step.comparison.plan,
            **more,
        },
    )
