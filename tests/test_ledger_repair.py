"""Repairing a ledger: found, kept as evidence, said in a receipt, and never rewritten."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from recovery_harness import Backup
from sqlalchemy import Engine, insert, text
from tampering import damage, tamper
from test_verifier import chain

from models.checkpoint import Checkpoint, origin, sign
from models.ledger_repair import RepairPlan
from models.receipts import GENESIS, Draft, parse_receipt, receipt_hash, seal
from models.region_statement import open_envelope, signer_of
from models.restore import Goal
from models.statement import read_statement
from models.tables_receipts import ReceiptRow
from models.verifier import Refused, Report, open_checkpoint
from stores.chain_check import check_ledger
from stores.checkpoints import CheckpointError, Notary
from stores.keys import SigningKey, ensure_key
from stores.ledger import Ledger
from stores.ledger_branch import branch_of_backup
from stores.ledger_damage import BeyondRepair
from stores.ledger_repair import (
    Branch,
    Diagnosis,
    PlanChanged,
    carry_out,
    conclude,
    diagnose,
    find_repair,
    read_branch,
    receipts_of,
)
from stores.objects_local import LocalObjects
from stores.sql import create_all, open_engine, table, write

pytest_plugins = ["databases"]


class World:
    """A ledger, its signer, and who repairs it."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        create_all(engine)
        self.engine, self.directory = engine, directory
        self.key: SigningKey = ensure_key(directory / "keys" / "eu.pem")
        self.keys = [self.key.public("eu")]
        self.ledger = Ledger(engine, "eu")
        self.notary = Notary(self.ledger, self.key)
        self.objects = LocalObjects(directory / "objects")

    def work(self, count: int, salt: int = 0) -> None:
        start = self.ledger.head().size
        self.ledger.append(
            [
                Draft(
                    kind="shard.activated",
                    actor="region/eu",
                    subject=f"s{number}",
                    body={"salt": salt},
                    idempotency_key=f"key-{salt}-{number}",
                )
                for number in range(start, start + count)
            ]
        )

    def lines(self) -> list[bytes]:
        return [stored.data for stored in self.ledger.read()]

    def put(self, lines: list[bytes]) -> None:
        """Replace the whole ledger, as whoever owns the database can."""
        with write(self.engine) as connection:
            tamper(connection, "DELETE FROM receipt")
            for line in lines:
                said = parse_receipt(line)
                row = said.model_dump(include={"ledger", "seq", "kind", "subject"})
                row |= {"prev": bytes.fromhex(said.prev), "data": line}
                row["idempotency_key"] = said.idempotency_key
                connection.execute(insert(table(ReceiptRow)), row)
            head = bytes.fromhex(receipt_hash(lines[-1]) if lines else GENESIS)
            connection.execute(
                text("UPDATE ledger_head SET size = :size, hash = :hash"),
                {"size": len(lines), "hash": head},
            )

    def verify(self, *branches: list[bytes]) -> Report:
        return check_ledger(
            self.ledger,
            checkpoints=self.notary.files.open_all(self.keys),
            keys=self.keys,
            branches=branches,
        )

    def diagnose(self, *others: Branch) -> Diagnosis:
        checkpoints = self.notary.files.open_all(self.keys)
        return diagnose(self.ledger, checkpoints, self.keys, others)

    def append(self, found: Diagnosis, planned: str | None = None) -> int:
        appended, _ = carry_out(
            self.ledger,
            found,
            self.notary,
            self.key,
            planned=planned or found.plan.digest,
            actor="ana",
            reason="restored to Monday",
            directory=self.directory / "repairs",
            objects=self.objects,
        )
        return appended.seq

    def repair(self, *others: Branch) -> RepairPlan:
        found = self.diagnose(*others)
        conclude(self.ledger, self.notary, self.keys, self.append(found))
        return found.plan


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_engine(f"sqlite:///{tmp_path}/fleet.db")
    yield opened
    opened.dispose()


@pytest.fixture
def world(engine: Engine, tmp_path: Path) -> World:
    """Six receipts that are signed, and four more that are too."""
    made = World(engine, tmp_path)
    made.work(6)
    made.notary.checkpoint()
    made.work(4)
    made.notary.checkpoint()
    return made


def _forged(world: World, start: int, end: int) -> list[bytes]:
    """Another history from receipt ``start`` on, wholly re-hashed."""
    return chain(end, start=world.lines()[:start], salt=99)


def test_a_good_ledger_needs_nothing(world: World) -> None:
    plan = world.diagnose().plan
    assert not plan.needed and plan.last_valid == 9


def test_a_fork_of_equal_height(world: World) -> None:
    old = world.lines()
    world.put(_forged(world, 7, 10))
    with pytest.raises(Refused, match="rewritten"):
        world.verify()

    plan = world.repair(read_branch(old, "eu"))

    assert (plan.common.size, plan.last_valid, plan.branch_known) == (7, 6, True)
    assert plan.abandoned and (plan.abandoned.size, len(plan.heads)) == (10, 1)
    report = world.verify()
    assert (report.repairs, report.abandoned, report.checkpoints) == ([10], [10], [6, 11])
    world.work(3)
    assert world.notary.checkpoint().size == 14
    assert world.verify().repairs == [10]
    assert not world.diagnose(read_branch(old, "eu")).plan.needed


def test_a_head_that_was_rolled_back(world: World) -> None:
    world.put(world.lines()[:8])
    with pytest.raises(Refused, match="truncated"):
        world.verify()
    with pytest.raises(CheckpointError):
        world.notary.checkpoint()
    plan = world.repair()
    # Nothing but the checkpoint says what both share: receipts 6 and 7 could be anybody's.
    assert (plan.common.size, plan.last_valid, plan.branch_known) == (6, 5, False)
    assert world.verify().abandoned == [10]
    assert world.notary.checkpoint().size == 9


def test_a_forged_chain_that_is_wholly_rehashed(world: World) -> None:
    old = world.lines()
    world.put(_forged(world, 0, 12))
    assert world.diagnose().plan.common.size == 0
    plan = world.repair(read_branch(old, "eu"))
    assert plan.last_valid == -1 and [each.size for each in plan.heads] == [6, 10]
    assert world.verify().abandoned == [6, 10]


def test_a_checkpoint_of_another_ledger_is_no_branch(world: World) -> None:
    other = Checkpoint(origin("latam"), 12, bytes(32), "a" * 64)
    with pytest.raises(Refused, match="wrong-checkpoint"):
        diagnose(world.ledger, [other], world.keys)
    world.notary.files.add(12, sign(other, world.key.private))
    with pytest.raises(Refused, match="unknown-key"):
        world.diagnose()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE receipt SET data = CAST(replace(CAST(data AS TEXT), 'shard', 'sharf') AS BLOB) "
        "WHERE seq = 4",
        "UPDATE receipt SET data = X'ff0a' WHERE seq = 4",
        "DELETE FROM receipt WHERE seq = 4",
        "UPDATE receipt SET data = X'ff' WHERE seq IN (4, 5)",
        "UPDATE receipt SET data = X'ff' WHERE seq = 9",
    ],
)
def test_a_damaged_receipt(world: World, statement: str) -> None:
    damage(world.engine, statement)
    with pytest.raises(Refused):
        world.verify()
    before = world.lines()

    plan = world.repair()

    first = 9 if "9" in statement else 4
    assert plan.abandoned is None and plan.last_valid == first - 1
    assert {each.seq for each in plan.damaged} <= {4, 5, 9}
    report = world.verify()
    assert report.damaged == [each.seq for each in plan.damaged]
    assert report.checkpoints == [6, 10, 11]
    assert world.lines()[: len(before)] == before
    world.work(2)
    assert world.notary.checkpoint().size == 13
    assert not world.diagnose().plan.needed


def test_what_nobody_can_name_is_beyond_repair(world: World) -> None:
    damage(world.engine, "DELETE FROM receipt WHERE seq IN (4, 5)")
    with pytest.raises(BeyondRepair, match="restore the region"):
        world.diagnose()


def test_the_evidence_holds_both_branches_and_is_signed(world: World) -> None:
    old = world.lines()
    new = _forged(world, 7, 10)
    world.put(new)
    damage(world.engine, "UPDATE receipt SET data = X'00ff' WHERE seq = 3")
    found = world.diagnose(read_branch(old, "eu"))
    seq = world.append(found)
    place = world.directory / "repairs" / found.plan.digest[:32]
    assert (place / "kept.jsonl").read_bytes() == b"".join(line + b"\n" for line in new[7:])
    assert (place / "abandoned.jsonl").read_bytes() == b"".join(line + b"\n" for line in old[7:])
    assert (place / "damaged" / "3").read_bytes() == b"\x00\xff"
    index = (place / "index.json").read_bytes()
    envelope = open_envelope(index, what="index")
    signer_of(envelope, world.keys)
    named = {each.name: each.digest["sha256"] for each in read_statement(envelope.payload).subject}
    for name, digest in named.items():
        assert sha256((place / name).read_bytes()).hexdigest() == digest
        assert world.objects.stat(f"eu/repairs/{digest}") is not None
    assert {"kept.jsonl", "abandoned.jsonl", "damaged/3"} < set(named)
    body = world.ledger.get(seq).receipt.body  # type: ignore[union-attr]
    assert body["evidence"] == sha256(index).hexdigest()
    assert world.objects.get(body["objects"][0], 1 << 20) == index  # type: ignore[index,arg-type]


def test_only_the_plan_that_was_seen_is_carried_out(world: World) -> None:
    world.put(world.lines()[:8])
    with pytest.raises(PlanChanged, match="was seen"):
        world.append(world.diagnose(), planned="0" * 64)
    assert world.ledger.head().size == 8


def test_a_repair_that_was_interrupted_goes_on(world: World) -> None:
    world.put(world.lines()[:8])
    found = world.diagnose()
    seq = world.append(found)
    assert world.append(found) == seq == find_repair(world.ledger, found.plan.digest)
    for _ in range(2):
        assert conclude(world.ledger, world.notary, world.keys, seq).size == 9
    assert world.verify().repairs == [8]


# --- what a forger could try ---


def test_a_forged_repair_does_not_make_the_notary_sign(world: World) -> None:
    world.put(_forged(world, 3, 12))
    other = ensure_key(world.directory / "keys" / "other.pem")
    found = world.diagnose()
    forger = World.__new__(World)
    forger.__dict__ = {**world.__dict__, "key": other, "directory": world.directory / "forged"}
    seq = forger.append(found)
    with pytest.raises(CheckpointError):
        world.notary.checkpoint()
    with pytest.raises(Refused):
        world.verify()
    with pytest.raises(CheckpointError, match="no repair that was signed"):
        conclude(world.ledger, world.notary, world.keys, seq)
    again = world.diagnose().plan
    assert again.unsigned == (seq,) and again.needed


def test_a_note_that_is_moved_aside_by_hand_still_counts(world: World) -> None:
    world.put(_forged(world, 7, 12))
    aside = world.notary.files.directory / "abandoned"
    aside.mkdir()
    (world.notary.files.directory / "10.checkpoint").rename(aside / "10-x.checkpoint")
    with pytest.raises(Refused, match="rewritten"):
        world.verify()


def test_a_second_rewriting_is_found_after_a_repair(world: World) -> None:
    world.put(_forged(world, 7, 10))
    world.repair()
    whole = world.lines()
    world.put(chain(14, start=whole[:8], salt=5))
    with pytest.raises(Refused, match="rewritten"):
        world.verify()
    with pytest.raises(CheckpointError):
        world.notary.checkpoint()


def test_a_past_that_lies_before_the_fork_stays_signed(world: World) -> None:
    world.put(_forged(world, 7, 10))
    world.repair()
    signed = [open_checkpoint(note, world.keys) for note in world.notary.files.notes()]
    assert [each.size for each in signed] == [6, 11]
    forged = chain(6, salt=4)
    repair = world.lines()[-1]
    draft = json.loads(repair)
    more = [*chain(10, start=forged, salt=4)]
    last = Draft.model_validate(
        {name: draft[name] for name in ("kind", "actor", "subject", "body", "idempotency_key")}
    )
    more.append(seal(last, ledger="eu", seq=10, prev=receipt_hash(more[-1]), at=draft["at"]))
    world.put(more)
    with pytest.raises(Refused):
        world.verify()


def test_a_former_database_is_a_branch(world: World, tmp_path: Path) -> None:
    """As after a restore to an earlier time, where the store that was left is still there."""
    former = World(open_engine(f"sqlite:///{tmp_path}/former.db"), tmp_path / "former")
    former.ledger.append([])
    former.work(1)
    former.put(world.lines())
    world.put(_forged(world, 8, 9))
    plan = world.repair(read_branch(receipts_of(former.ledger), "eu"))
    assert plan.common.size == 8 and plan.branch_known
    assert world.verify().abandoned == [10]


def test_a_store_whose_ledger_was_forked_is_restored_and_then_repaired(
    engine: Engine, tmp_path: Path
) -> None:
    """The primary is lost before anybody has repaired it: the restore says so, and is possible."""
    backup = Backup(engine, tmp_path)
    notary = Notary(backup.ledger, backup.key)
    backup.work(12)
    notary.checkpoint()
    size = backup.ledger.head().size
    other = Checkpoint(origin("eu"), size - 1, bytes(range(32)), "b" * 64)
    notary.files.add(other.size, sign(other, backup.key.private))
    backup.snapshot()
    keys = [backup.key.public("eu")]
    restored = open_engine(f"sqlite:///{tmp_path}/restored.db")

    report = backup.restore(restored, checkpoints=notary.files.open(keys))

    assert not report.complete and report.gap is None
    assert report.ledger_fault and report.ledger_fault.code == "rewritten"
    ledger = Ledger(restored, "eu")
    again = Notary(ledger, backup.key)
    found = diagnose(ledger, again.files.open_all(keys), keys)
    assert [each.size for each in found.plan.heads] == [size - 1]
    restored.dispose()


def test_the_branch_that_was_left_comes_out_of_its_stores_backup(
    engine: Engine, tmp_path: Path
) -> None:
    """The store that was left is lost; its backup still has what was signed of its ledger."""
    backup = Backup(engine, tmp_path)
    backup.work(6)
    backup.snapshot()
    seq = backup.seq()
    backup.work(6)
    Notary(backup.ledger, backup.key).checkpoint()
    backup.ship()
    old = [stored.data for stored in backup.ledger.read()]
    restored = open_engine(f"sqlite:///{tmp_path}/restored.db")
    backup.restore(restored, Goal(seq=seq))
    backup.seals.destroyed |= {"tenant-0", "tenant-1", "tenant-2"}

    branch = branch_of_backup(backup.reader(), backup.head())

    assert list(branch.lines) == old
    ledger = Ledger(restored, "eu")
    notary = Notary(ledger, backup.key)
    keys = [backup.key.public("eu")]
    plan = diagnose(ledger, notary.files.open_all(keys), keys, [branch]).plan
    assert plan.branch_known and plan.common.size == ledger.head().size < len(old)
    assert plan.abandoned and plan.abandoned.size == len(old)
    restored.dispose()
