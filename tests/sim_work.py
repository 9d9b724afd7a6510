"""Durable operations under simulation: what the workflows do, an activity a step.

An activity that fails for a while, or whose process is killed, is tried again at a later step; one
that is refused ends the operation. The order of the activities is that of `workflows`.
"""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sim_faults import Killed
from sim_model import Violation
from sim_world import World
from temporalio.exceptions import ApplicationError

from models.recovery import (
    BuildStore,
    BuiltStore,
    CertifyStore,
    DrainStore,
    FailOverRequest,
    GapDecision,
    PublishStore,
    RestoreRequest,
)
from models.restore import RestoreReport

DECISION = GapDecision(actor="bo", reason="the simulator says so")

Steps = Generator[str, None, None]


class Refused(Exception):
    """The operation ended without success, and said why; ``kind`` of the activity's error."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Work:
    """One operation: ``steps`` gives what each step did."""

    name: str
    steps: Steps
    waiting: bool = False
    """A person must decide whether a gap is accepted."""
    decision: bool | None = None
    ended: str = ""


class Workflows:
    """Starts operations in a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._count = 0

    def fail_over(self) -> Work:
        """What `FailOver` does."""
        work = self._work("failover")
        work.steps = self._fail_over(work)
        return work

    def restore(self, store: str | None = None) -> Work:
        """What `RestoreRegion` does, from the backup of the store that was asked for."""
        work = self._work("restore")
        work.steps = self._restore(work, store)
        return work

    def _work(self, kind: str) -> Work:
        self._count += 1
        return Work(f"{kind}/{self._count}", iter(()))  # type: ignore[arg-type]

    def _fail_over(self, work: Work) -> Steps:
        request = FailOverRequest(actor="ana", reason="the simulator says so")
        yield from self._act("degrade_region", request, [])
        yield from self._restore(work)
        if work.ended != "published":
            raise Refused(f"the restore ended {work.ended}")
        work.ended = ""
        drain = DrainStore(actor="ana", reason="drill", workflow=work.name, rebuilt=True)
        yield from self._act("drain_buffer", drain, [])
        work.ended = "normal"

    def _restore(self, work: Work, store: str | None = None) -> Steps:
        restored = self._world.faults._token_hex(16)
        request = RestoreRequest(actor="ana", reason="the simulator says so", store=store)
        try:
            while True:
                try:
                    yield from self._build_and_publish(work, request, restored)
                    return
                except Refused as refused:
                    if refused.kind != "StoreWentOn":
                        raise
        except Refused:
            yield from self._act("discard_store", restored, [])
            raise

    def _build_and_publish(self, work: Work, request: RestoreRequest, restored: str) -> Steps:
        started = datetime.now(UTC)
        made: list[BuiltStore] = []
        step = BuildStore(request=request, restored=restored, workflow=work.name)
        yield from self._act("build_store", step, made)
        report = made[0].report
        accepted = None
        if not report.complete:
            work.waiting = True
            while work.decision is None:
                yield "waits for a person"
            work.waiting, decided, work.decision = False, work.decision, None
            if not decided:
                yield from self._act("discard_store", restored, [])
                work.ended = "given up"
                return
            accepted = DECISION
        publish = PublishStore(
            report=report,
            restored=restored,
            actor="ana",
            reason="drill",
            accepted=accepted,
            workflow=work.name,
            latest=request.store is None,
            replaces=made[0].replaces,
        )
        yield from self._act("publish_store", publish, [])
        certify = CertifyStore(
            built=made[0],
            drill=False,
            started=started,
            finished=datetime.now(UTC),
            accepted=accepted,
        )
        yield from self._act("certify_store", certify, [])
        work.ended = "published"

    def _act(self, name: str, argument: Any, found: list[Any]) -> Steps:
        world = self._world
        while True:
            before = world.primary()
            try:
                found.append(world.activity(name, argument, self._beat(name)))
                if isinstance(found[0], BuiltStore):
                    self._check_report(found[0].report)
                if isinstance(argument, DrainStore):
                    self._drained()
                self._moved(before, argument)
                yield name
                return
            except Killed as killed:
                world.faults.disarm()
                world.stop_recovery()
                said = f"{name}: killed {killed}"
            except ApplicationError as error:
                if error.non_retryable:
                    self._beat(name)()
                    self._moved(before, argument)
                    raise Refused(f"{name}: {error}", error.type or "") from None
                said = f"{name}: {error}"
            except Violation:
                raise
            except Exception as error:
                said = f"{name}: {type(error).__name__}: {error}"
            self._beat(name)()
            self._moved(before, argument)
            yield said

    def _beat(self, name: str) -> Any:
        world = self._world

        def marks() -> None:
            if world.primary().database not in world.destroyed:
                world.note_marks(world.primary())

        return marks if name == "drain_buffer" else (lambda: None)

    def _drained(self) -> None:
        world = self._world
        pointer = world.primary()
        world.note_marks(pointer)
        world.model.emptied(pointer.store)
        for each in world.model.conflicts:
            raise Violation(f"a write that asked for no version is in conflict: {each}")
        world.compare(pointer)

    def _check_report(self, report: RestoreReport) -> None:
        """A restore must reach what it says, and say exactly what it does not reach."""
        shipped = self._world.model.shipped.get(report.source_store, 0)
        if report.expected_seq < shipped:
            raise Violation(f"the head is {report.expected_seq}, {shipped} was shipped")
        if report.reached_seq < report.expected_seq:
            gap = report.gap
            if gap is None or (gap.first, gap.last) != (
                report.reached_seq + 1,
                report.expected_seq,
            ):
                raise Violation(f"reached {report.reached_seq}, the gap is {gap}")

    def _moved(self, before: Any, argument: Any) -> None:
        """Tell the model that another store is the primary, once the pointer says so."""
        world = self._world
        primary = world.primary()
        if primary == before:
            return
        if primary.epoch <= before.epoch:
            raise Violation(f"the epoch went from {before.epoch} to {primary.epoch}")
        assert isinstance(argument, PublishStore)
        report, alive = argument.report, world.reachable(before.database)
        world.model.restored(report.source_store, primary.store, reached=report.reached_seq)
        for each in world.model.lacking({report.source_store, before.store}, primary.store):
            seq = each.at.get(report.source_store, report.expected_seq + 1)
            if report.gap is not None and report.gap.first <= seq <= report.gap.last:
                each.lost = f"in the gap that was accepted, {report.gap.first} to {report.gap.last}"
            elif each.number is not None and each.number not in world.model.buffered:
                raise Violation(f"the buffer was cleared before the backup had {each}")
            elif seq > report.expected_seq and not alive:
                each.lost = "was not shipped when the store died"
            else:
                raise Violation(f"published without {each}; the old store still answers")
        if not alive:
            world.lowered.add(before.database)
        world.compare(primary)
