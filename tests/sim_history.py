"""Whole histories by a seed: what happens, in which order, and what must be so at their ends."""

import asyncio
import contextlib
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim_faults import Killed
from sim_model import Doc, Operation, Violation
from sim_troubles import Troubles
from sim_work import Refused, Work, Workflows
from sim_world import REGION, TENANTS, Database, World, Writer
from temporalio.exceptions import ApplicationError

from gateway.kv_mode import ModeUnavailable
from models.fleet import TenantState
from models.receipts import Draft
from models.recovery import BuildStore, RestoreRequest, SnapshotRequest
from models.restore import Goal
from stores.changelog import NotProtected, identity
from stores.fleet import Asked
from stores.kv import TenantKV, VersionConflict
from stores.objects import ObjectError
from stores.restore_target import drop_target, target_url
from stores.spool import SpoolError
from stores.sql import StoreUnavailable
from workers.backup import CANNOT_GO_ON

_LATER = (StoreUnavailable, NotProtected, ObjectError, OSError)
_REFUSED = (StoreUnavailable, ModeUnavailable, SpoolError, VersionConflict)
_PATIENCE = 60
"""Steps that an operation may take when nothing is wrong any more."""


@dataclass
class History:
    """One seed's history over one world."""

    world: World
    length: int = 60
    trace: list[str] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = self.world.chance
        self._workflows = Workflows(self.world)
        self.troubles = Troubles(self.world)
        self._values = 0
        self._again: list[Callable[[], str]] = []
        """Requests whose answer was lost: clients ask again."""

    def run(self) -> None:
        """Play it; raises `Violation` with what went wrong."""
        self._note("begins", self._round())
        for _ in range(self.length):
            self._step()
        self._end()

    # --- steps ---

    def _step(self) -> None:
        world, chance = self.world, self._chance
        world.faults.now_ms += chance.choice((1, 50, 2_000))
        if chance.random() < 0.5:
            self._follow()
        open_works = [each for each in self.works if not each.ended]
        if open_works and chance.random() < 0.4:
            work = chance.choice(open_works)
            self._note(work.name, self._armed(lambda: self._advance(work)))
            return
        names = list(_ACTIONS)
        (name,) = chance.choices(names, [_ACTIONS[each][0] for each in names])
        self._note(name, self._armed(lambda: _ACTIONS[name][1](self)))

    def _follow(self) -> None:
        """The gateway sees that the mode has changed, also while no request comes."""
        with contextlib.suppress(ModeUnavailable):
            asyncio.run(self.world.writer.mode.serving())

    def _armed(self, action: Callable[[], str]) -> str:
        """Do something that may be killed on the way."""
        faults = self.world.faults
        if self._chance.random() < 0.25:
            faults.arm(int(self._chance.triangular(0, 60, 3)))
        try:
            return action()
        finally:
            faults.disarm()

    def _note(self, name: str, said: str) -> None:
        self.trace.append(f"{len(self.trace):3d} {name}: {said}")

    def _advance(self, work: Work) -> str:
        if work.waiting and work.decision is None:
            return self._decide(work)
        try:
            return next(work.steps)
        except StopIteration:
            return work.ended
        except Refused as refused:
            work.ended = f"failed: {refused}"
            return work.ended

    def _decide(self, work: Work) -> str:
        """A person looks into the bucket first, or takes what is there."""
        if self._chance.random() < 0.5:
            self.troubles.mend_bucket()
            work.decision = False
            return "gives up, the objects came back"
        work.decision = True
        return "accepts the gap"

    # --- what tenants and operators do ---

    def _write(self) -> str:
        tenant = self._chance.choice(TENANTS)
        key = f"key/{self._chance.randrange(6)}"
        removes = self._chance.random() < 0.2
        self._values += 1
        operation = Operation(("kv", tenant, key), None if removes else b"%d" % self._values)
        expected = 0 if not removes and self._chance.random() < 0.1 else None
        late = self._chance.random() < 0.1

        def request(keys: Any) -> object:
            if operation.value is None:
                return keys.delete(key)
            return keys.put(key, operation.value, expected_version=expected)

        writer = self.world.writer
        if late or writer.mode.directory is None:  # it was under way when the mode changed
            return self._direct(writer, operation, lambda: request(TenantKV(writer.engine, tenant)))
        before = self.world.records()
        try:
            self.world.serve(request, tenant)
        except Killed as killed:
            self.world.stop_writer()
            self.world.faults.disarm()
            self._resolve(writer, operation, before)
            return f"{operation}: killed {killed}"
        except _REFUSED as error:
            self._resolve(writer, operation, before)
            if operation.at or operation.number is not None:
                raise Violation(f"refused ({error}), but made: {operation}") from None
            return f"{operation}: {type(error).__name__}"
        operation.acknowledged = True
        serving = writer.mode._serving
        assert serving is not None
        if serving.buffer is None:
            self._took_effect(writer, operation)
        elif self.world.records() > before:
            self.world.model.kept(operation, self.world.records())
        return str(operation)

    def _receipt(self) -> str:
        self._values += 1
        key, number = f"r{self._values}", self._values
        return self._receipt_of(self.world.writer, key, number)

    def _receipt_of(self, writer: Writer, key: str, number: int) -> str:
        draft = Draft(
            kind="sim.done", actor="sim", subject="s", idempotency_key=key, body={"n": number}
        )
        operation = Operation(("receipt", key), b"%d" % number)
        return self._direct(
            writer,
            operation,
            lambda: writer.ledger.append([draft]),
            again=lambda: self._receipt_of(self.world.writer, key, number),
        )

    def _tenant(self) -> str:
        self._values += 1
        return self._tenant_of(
            self.world.writer, f"new-{self._chance.randrange(4)}", f"t{self._values}"
        )

    def _tenant_of(self, writer: Writer, tenant: str, key: str) -> str:
        asked = Asked(actor="sim", key=key)
        there = (
            self.world.document(writer.primary.database, ("tenant", tenant))
            if (writer.primary.database not in self.world.destroyed)
            else None
        )
        active = TenantState.ACTIVE.value.encode()
        after = TenantState.SUSPENDED.value.encode() if there == active else active
        operation = Operation(("tenant", tenant), after)

        def change() -> object:
            if there is None:
                return writer.fleet.create_tenant(tenant, asked)
            if there == active:
                return writer.fleet.suspend(tenant, asked)
            return writer.fleet.resume(tenant, asked)

        return self._direct(writer, operation, change)

    def _direct(
        self,
        writer: Writer,
        operation: Operation,
        work: Callable[[], object],
        again: Callable[[], str] | None = None,
    ) -> str:
        """A write past the buffer, by a process that may have been left behind."""
        try:
            work()
        except Killed as killed:
            self.world.faults.disarm()
            if writer is self.world._writer:
                self.world.stop_writer()
            self._resolve(writer, operation, None)
            if again is not None:
                self._again.append(again)
            return f"{operation}: killed {killed}"
        except _REFUSED as error:
            return f"{operation}: {type(error).__name__}: {error}"
        operation.acknowledged = True
        self._took_effect(writer, operation)
        return str(operation)

    def _took_effect(self, writer: Writer, operation: Operation) -> None:
        """A store took a write: it must be there, and the store must be one that may take it."""
        world, model = self.world, self.world.model
        url, store = writer.primary.database, writer.store
        if operation.value is None and operation.doc not in model.expected(store):
            return  # there was nothing to remove
        if operation.doc[0] == "receipt" and operation.doc in model.expected(store):
            return  # it is there: the answer to the first request was lost
        late = ""
        if store != world.primary().store:
            if url not in world.lowered:
                raise Violation(f"a store that was the primary took {operation}")
            late = "a store took it that was cut off when another became the primary"
        found = world.document(url, operation.doc)
        if found != operation.value:
            raise Violation(f"acknowledged, but {found!r} is there: {operation}")
        model.happened(operation, store, world.seq(url))
        operation.lost = late

    def _resolve(self, writer: Writer, operation: Operation, records: int | None) -> None:
        """Find out whether a write that nobody acknowledged took effect."""
        world = self.world
        if records is not None and (last := world.records()) > records:
            world.model.kept(operation, last)
            return
        url = writer.primary.database
        if url in world.destroyed:
            return
        known = world.model.expected(writer.store).get(operation.doc)
        found = world.document(url, operation.doc)
        if found == known:
            return
        if found != operation.value:
            raise Violation(f"{found!r} is there after {operation}")
        world.model.happened(operation, writer.store, world.seq(url))

    def _ask_again(self) -> str:
        if not self._again:
            return "nothing is open"
        return self._again.pop()()

    # --- what processes do ---

    def _round(self) -> str:
        """A round of the recovery process: ship, first snapshot, fence."""
        world = self.world
        primary = world.primary()
        try:
            world.backup.round()
        except Killed as killed:
            world.faults.disarm()
            world.stop_recovery()
            return f"killed {killed}"
        except CANNOT_GO_ON as error:
            raise Violation(f"the backup cannot go on: {error}") from None
        except _LATER as error:
            return f"waits: {error}"
        world.model.shipped[primary.store] = world.seq(primary.database)
        world.lowered -= {url for url in world.lowered if world.reachable(url)}
        return f"shipped {world.model.shipped[primary.store]}"

    def _snapshot(self) -> str:
        try:
            made = self.world.activity("snapshot_region", SnapshotRequest())
        except Killed as killed:
            self.world.faults.disarm()
            self.world.stop_recovery()
            return f"killed {killed}"
        except ApplicationError as error:
            raise Violation(f"no snapshot can be made: {error}") from None
        except _LATER as error:
            return f"waits: {error}"
        return f"snapshot after {made.seq}"

    def _restart(self) -> str:
        """A process ends in good order, or follows the primary."""
        if self._chance.random() < 0.5:
            self.world.stop_writer()
            return "the writer"
        self.world.stop_recovery()
        return "recovery"

    def _orphan(self) -> str:
        self.world.orphan_writer()
        return f"{len(self.world.zombies)} writers are left behind"

    def _zombie(self) -> str:
        if not self.world.zombies:
            return "there is none"
        self._values += 1
        writer = self._chance.choice(self.world.zombies)
        tenant, key = self._chance.choice(TENANTS), f"key/{self._chance.randrange(6)}"
        operation = Operation(("kv", tenant, key), b"%d" % self._values)
        kv = TenantKV(writer.engine, tenant)
        return self._direct(writer, operation, lambda: kv.put(key, operation.value or b""))

    def _start(self) -> str:
        """A person, or two of them, bring the region back."""
        if sum(not each.ended for each in self.works) >= 2:
            return "two are under way"
        make = self._chance.choice((self._workflows.fail_over, self._workflows.restore))
        work = make()
        self.works.append(work)
        return work.name

    def _rehearse(self) -> str:
        """A dry run to some earlier change gives what was there then."""
        world = self.world
        primary = world.primary()
        shipped = world.model.shipped.get(primary.store, 0)
        goal = Goal(seq=self._chance.randint(0, shipped))
        request = RestoreRequest(goal=goal, dry_run=True, actor="ana", reason="drill")
        restored = world.faults._token_hex(16)
        step = BuildStore(request=request, restored=restored, workflow="drill")
        try:
            report = world.activity("build_store", step).report
        except Killed as killed:
            world.faults.disarm()
            world.stop_recovery()
            return f"killed {killed}"
        except ApplicationError as error:
            return f"{goal.seq}: refused: {error}"
        except _LATER as error:
            return f"{goal.seq}: waits: {error}"
        pointer = primary.model_copy(update={"store": restored})
        wanted = _until(world, primary.store, report.reached_seq)
        url = target_url(primary.database, restored)
        found = world.documents(url)
        with world.faults.paused():
            drop_target(url)
        if found != wanted:
            raise Violation(f"change {report.reached_seq} of {pointer.store[:8]} is another state")
        return f"{goal.seq}: {report.reached_seq} of {report.target_seq}"

    # --- the end ---

    def _end(self) -> None:
        """Nothing goes wrong any more: everything must come to rest, with nothing missing."""
        world = self.world
        world.faults.disarm()
        world.bucket.unreachable, world.bucket.next_put = False, ""
        for url in sorted(world.faults.down - world.destroyed):
            world.bring_back(url)
        self._note("the end", self.troubles.mend_bucket())
        if not world.reachable(world.primary().database):
            self.works.append(self._workflows.fail_over())
        self._finish()
        if world.mode().mode != "normal" or not self._takes_writes():
            self._recover()
        world.stop_writer()
        self._note("last round", self._round())
        self._judge()

    def _recover(self) -> None:
        """The last failover; where the primary never had a snapshot, from the store before it."""
        for _ in range(3):
            self.works.append(self._workflows.fail_over())
            self._finish()
            ended = self.works[-1].ended
            if ended == "normal":
                return
            before = re.search("may be had: store ([0-9a-f]{32})", ended)
            if before is None:
                break
            self.works.append(self._workflows.restore(before[1]))
            self._finish()
        raise Violation(f"the backup is whole, and the last failover {ended}")

    def _takes_writes(self) -> bool:
        """Whether the primary is there and not fenced by a restore that was given up."""
        world = self.world
        if not world.reachable(world.primary().database):
            return False
        with world.looking(world.primary().database) as engine:
            return not identity(engine, REGION).fenced

    def _finish(self) -> None:
        """Advance what is under way until it ends, or waits for whoever brings the store back."""
        for _ in range(_PATIENCE):
            for work in [each for each in self.works if not each.ended]:
                if work.waiting and work.decision is None:
                    work.decision = False
                    self._note(work.name, "given up")
                self._follow()
                self._note(work.name, self._advance(work))
        stuck = [each.name for each in self.works if not each.ended]
        if stuck and self.world.reachable(self.world.primary().database):
            raise Violation(f"{stuck[0]} does not end")

    def _judge(self) -> None:
        world = self.world
        primary = world.primary()
        world.compare(primary)
        for each in world.model.missing(primary.store):
            raise Violation(f"missing, and nobody said so: {each}")
        if world.model.buffered:
            raise Violation(f"{len(world.model.buffered)} writes are still in the buffer")
        for writer in world.zombies:
            if writer.store == primary.store or writer.primary.database in world.destroyed:
                continue
            try:
                TenantKV(writer.engine, "acme").put("zombie", b"1")
            except StoreUnavailable as error:
                if error.kind != "fenced":
                    raise Violation(f"a zombie is refused by chance: {error}") from None
            else:
                raise Violation(f"a store that was the primary takes writes: {writer.store[:8]}")
        self._note("last write", self._write())
        self._note("last round", self._round())
        self._note("drill", self._rehearse())


def _until(world: World, store: str, seq: int) -> dict[Doc, bytes]:
    """What a store held after one of its changes."""
    found: dict[Doc, bytes] = {}
    for each in world.model.effective:
        if store in each.at and each.at[store] <= seq:
            if each.value is None:
                found.pop(each.doc, None)
            else:
                found[each.doc] = each.value
    return found


_ACTIONS: dict[str, tuple[int, Callable[[History], str]]] = {
    "write": (40, History._write),
    "receipt": (5, History._receipt),
    "tenant": (5, History._tenant),
    "ask again": (3, History._ask_again),
    "round": (14, History._round),
    "snapshot": (5, History._snapshot),
    "restart": (4, History._restart),
    "orphan": (2, History._orphan),
    "zombie": (4, History._zombie),
    "outage": (3, lambda each: each.troubles.outage()),
    "outage over": (4, lambda each: each.troubles.outage_over()),
    "bucket": (4, lambda each: each.troubles.bucket()),
    "damage": (2, lambda each: each.troubles.damage()),
    "mend": (1, lambda each: each.troubles.mend_bucket()),
    "keys": (1, lambda each: each.troubles.lose_keys()),
    "clock": (2, lambda each: each.troubles.clock()),
    "start": (5, History._start),
    "rehearse": (2, History._rehearse),
}


@dataclass(frozen=True)
class Outcome:
    """How a seed's history went; ``violation`` is empty when nothing is wrong."""

    seed: int
    violation: str
    trace: tuple[str, ...]


def simulate(seed: int, database: Database | None = None, length: int = 60) -> Outcome:
    """Play one seed's history in a directory of its own."""
    shared = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="chainring-sim-", dir=shared if shared.is_dir() else None))
    try:
        world = World(home, seed, database or (lambda name: f"sqlite:///{home}/{name}.db"))
        history = History(world, length)
        with world.running():
            try:
                history.run()
            except Violation as violation:
                return Outcome(seed, str(violation), tuple(history.trace))
            except (Exception, Killed) as error:
                said = f"{type(error).__name__}: {error}"
                return Outcome(seed, f"nobody expected {said}", tuple(history.trace))
        return Outcome(seed, "", tuple(history.trace))
    finally:
        shutil.rmtree(home, ignore_errors=True)
