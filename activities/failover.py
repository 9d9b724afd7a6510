"""Effects of a failover: a region's request path goes to its buffer, and back to its store."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from temporalio import activity

from activities.errors import final_errors
from activities.heartbeats import alive, beat
from models.buffer import DrainReport
from models.primary import LONGEST_WHY, Mode, Primary
from models.receipts import Draft
from models.recovery import Degraded, Drained, DrainStore, FailOverRequest
from stores.drain import drain_and_clear
from stores.ledger import Ledger
from stores.pointer import Pointer
from stores.primary import SPOOL, PrimaryFile, StalePrimary
from stores.spool import Spool, SpoolOwned
from stores.sql import open_engine


class DrainWaits(Exception):
    """The drain does not come to its end now, and the region buffers on; it is tried again."""


class FailOverActivities:
    """What the recovery worker does to one region's request path.

    Args:
        directory: where the region's mode file and spool are.
        secure: brings everything that the primary holds into its backup, or raises.
    """

    def __init__(
        self,
        region: str,
        directory: Path,
        primary: Callable[[], Pointer],
        secure: Callable[[], None],
    ) -> None:
        self._region = region
        self._spool = directory / SPOOL
        self._file = PrimaryFile(directory, region)
        self._primary = primary
        self._secure = secure

    @activity.defn
    @final_errors
    @alive
    def degrade_region(self, request: FailOverRequest) -> Degraded:
        """Have the tenants' writes buffered from now on; a region that does so already goes on."""
        found = self._file.read()
        if found.mode != "buffered":
            found = self._switch(found, "buffered", request.reason)
        return Degraded(epoch=found.epoch, why=found.why)

    @activity.defn
    @final_errors
    @alive
    def drain_buffer(self, step: DrainStore) -> Drained:
        """Stop taking writes for a moment, make the buffered ones in the store, serve from it.

        The buffer is whose process has it: until the gateway has let go of it, this is tried again.
        It is emptied when the backup has what was in it: a new store may be lost again. While the
        backup or the store does not take it, the region buffers on.
        """
        found = self._file.read()
        if found.mode == "buffered":
            self._secure()  # a store without a backup takes long, and writes are taken meanwhile
            found = self._switch(found, "draining", step.reason)
        try:
            drained = self._drain(step, found.epoch)
        except SpoolOwned:
            raise  # the gateway lets go of it within a moment
        except Exception as error:
            self._buffer_on(found, f"the drain waits: {error}")
            raise
        return self._serve(found, step, drained)

    def _serve(self, found: Primary, step: DrainStore, drained: Drained) -> Drained:
        """Serve from the store again; only who has drained under the epoch in force may say so.

        Raises:
            DrainWaits: another attempt had the region buffer on, and there may be new writes.
        """
        if found.mode == "draining" and self._file.read() == found:
            self._switch(found, "normal", step.reason, snapshot=None, snapshot_at=None)
        if (now := self._file.read().mode) != "normal":
            raise DrainWaits(f"region {self._region} is {now} by another attempt")
        return drained

    def _buffer_on(self, found: Primary, why: str) -> None:
        """Take writes again: the spool has kept all, and what is in the store has its marks."""
        if found.mode == "draining":
            with contextlib.suppress(StalePrimary):  # another attempt has gone on from there
                self._switch(found, "buffered", why[:LONGEST_WHY])

    def _drain(self, step: DrainStore, epoch: int) -> Drained:
        primary = self._primary()
        engine = open_engine(primary.database)
        ledger = Ledger(engine, self._region)
        recorded: list[Drained] = []

        def secure(report: DrainReport) -> None:
            recorded.append(self._record(ledger, step, _drained(report), primary.store))
            self._secure()

        try:
            spool = Spool(self._spool, epoch=epoch)
            try:
                drain_and_clear(engine, spool, rebuilt=step.rebuilt, progress=beat, secure=secure)
            finally:
                spool.close()
        finally:
            engine.dispose()
        return recorded[0]

    def _switch(self, found: Primary, mode: Mode, why: str, **more: object) -> Primary:
        """Put another mode in force than the one that was found, unless somebody else has."""
        changed = {"epoch": found.epoch + 1, "mode": mode, "why": why, **more}
        wanted = found.model_copy(update=changed)
        self._file.switch(wanted)
        return wanted

    def _record(self, ledger: Ledger, step: DrainStore, drained: Drained, store: str) -> Drained:
        """Write the receipt of these records, or find it: what it says is what was done."""
        # A receipt is for ever, and the name of a tenant's key is the tenant's.
        done = drained.model_dump(mode="json", exclude={"first_conflicts"})
        body = {**done, "reason": step.reason, "store": store}
        if step.verdict is not None:
            body["verdict"] = step.verdict.model_dump(mode="json")
        draft = Draft(
            kind="region.drained",
            actor=step.actor,
            subject=self._region,
            idempotency_key=f"drain/{step.workflow}/{drained.proof.acknowledged.last}",
            workflow_id=step.workflow,
            body=body,
        )
        stored = ledger.find(draft.idempotency_key)
        if stored is not None:
            said = {name: stored.receipt.body[name] for name in done}
            return Drained.model_validate({**said, "first_conflicts": drained.first_conflicts})
        ledger.append([draft])
        return drained


def _drained(report: DrainReport) -> Drained:
    proof = report.proof
    return Drained(
        acknowledged=proof.acknowledged.count,
        applied=report.applied,
        conflicts=report.conflicts,
        pending=proof.pending.count,
        first_conflicts=[str(each)[:300] for each in report.first_conflicts[:10]],
        proof=proof,
    )
