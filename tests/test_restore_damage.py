"""Damage in the bucket, each sort by its name: found, named, and never passed on."""

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recovery_harness import REGION, Backup, documents
from sqlalchemy import Engine

from models.backup_file import BackupDamaged, decode
from models.receipts import Draft
from models.restore import Goal
from models.verifier import Refused
from stores.keys import ensure_key
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.restore import TargetNotEmpty
from stores.restore_plan import GoalUnknown, NothingToRestore
from stores.restore_proof import RestoreMismatch
from stores.shipping import Shipper
from stores.snapshots import Snapshotter
from stores.sql import open_engine
from stores.state_tree import StateTree
from stores.witness import HeadRefused, Witness, sign_head

pytest_plugins = ["databases", "recovery_fixtures"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """SQLite alone: what lies in the bucket does not depend on the database."""
    opened = open_engine(f"sqlite:///{tmp_path}/fleet.db")
    yield opened
    opened.dispose()


# --- what a damaged backup looks like ---


def _names(backup: Backup, part: str) -> list[str]:
    prefix = f"{REGION}/{backup.identity.id}/{part}/"
    return [each.name for each in backup.objects.list(prefix)]


def _rewrite(backup: Backup, name: str, change: Callable[[bytes], bytes]) -> None:
    """Replace an object's bytes with others, digest and all, as whoever owns the bucket can."""
    found = backup.objects.stat(name)
    assert found is not None
    data = change(backup.objects.get(name, found.size))
    backup.objects.delete(name, if_generation=found.generation)
    backup.objects.put(name, data)


def _flip(data: bytes) -> bytes:
    at = len(data) * 2 // 3
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.fixture
def shipped(backup: Backup) -> Backup:
    """A snapshot and three segments after it."""
    backup.work(10)
    backup.snapshot()
    for _ in range(3):
        backup.work(5)
        backup.ship()
    return backup


def _remove(backup: Backup, name: str) -> None:
    found = backup.objects.stat(name)
    assert found is not None
    backup.objects.delete(name, if_generation=found.generation)


@pytest.mark.parametrize("which", [1, 2, 3])
@pytest.mark.parametrize("how", ["missing", "flipped", "cut", "another's bytes"])
def test_a_bad_segment_is_a_gap_that_is_named(
    shipped: Backup, target: Engine, which: int, how: str
) -> None:
    segments = _names(shipped, "changelog")
    bad = segments[which - 4 :][0]
    first = int(bad.rsplit("/", 1)[1][:16])
    other = shipped.objects.get(segments[(which - 4 + 1) % -3 - 1], 1 << 20)
    if how == "missing":
        _remove(shipped, bad)
    elif how == "flipped":
        _rewrite(shipped, bad, _flip)
    elif how == "cut":
        _rewrite(shipped, bad, lambda data: data[: len(data) // 2])
    else:
        _rewrite(shipped, bad, lambda _data: other if other != _data else segments[0].encode())

    report = shipped.restore(target)

    assert not report.complete
    assert report.gap is not None
    assert (report.gap.first, report.gap.last) == (first, report.expected_seq)
    assert report.reached_seq == first - 1
    assert [each.where for each in report.findings] == ([] if how == "missing" else [bad])


def test_two_segments_in_each_others_place_are_a_gap_that_is_named(
    shipped: Backup, target: Engine
) -> None:
    names = _names(shipped, "changelog")[-2:]
    data = [shipped.objects.get(name, 1 << 20) for name in names]
    for name, others in zip(names, reversed(data), strict=True):
        _rewrite(shipped, name, lambda _data, others=others: others)
    report = shipped.restore(target)
    assert report.gap is not None
    first = int(names[0].rsplit("/", 1)[1][:16])
    assert (report.gap.first, report.gap.last) == (first, report.expected_seq)
    assert report.reached_seq == first - 1 and report.findings[0].where == names[0]


def test_the_gap_ends_where_a_goal_lies(shipped: Backup, target: Engine) -> None:
    last = _names(shipped, "changelog")[-1]
    _remove(shipped, last)
    reached = int(last.rsplit("/", 1)[1][:16]) - 1
    report = shipped.restore(target, Goal(seq=reached))
    assert report.complete and report.gap is None


def test_a_goal_past_the_head_is_refused(shipped: Backup, target: Engine) -> None:
    with pytest.raises(GoalUnknown, match="past the head"):
        shipped.restore(target, Goal(seq=10**6))


def test_segments_twice_and_overlapping_do_no_harm(
    shipped: Backup, target: Engine, tmp_path: Path
) -> None:
    """A shipper that was killed after its put, and one that lost its state tree."""
    before = shipped.seq()
    shipped.work(3)
    with shipped.shipper() as shipper:
        real = shipper.objects
        shipper._forget = False

        class Killed(Exception):
            pass

        def admit(*_given: object) -> None:
            raise Killed

        shipper._witness = type("Dead", (), {"admit": staticmethod(admit)})()
        with pytest.raises(Killed):
            shipper.ship()
        assert shipper.position().seq == before
        shipper.objects = real
    shipped.work(3)
    assert shipped.ship() == 1
    firsts = [name.rsplit("/", 1)[1][:16] for name in _names(shipped, "changelog")]
    assert len(firsts) == len(set(firsts)) + 1
    assert shipped.restore(target).complete
    assert documents(target) == shipped.documents()


def test_a_copy_under_another_name_is_passed_over(shipped: Backup, target: Engine) -> None:
    """It sorts before the segment that it is a copy of; a certificate must not name it."""
    names = _names(shipped, "changelog")
    copy = f"{names[-1][:-36]}{'0' * 32}.seg"
    shipped.objects.put(copy, shipped.objects.get(names[-1], 1 << 20))
    report = shipped.restore(target)
    assert report.complete and report.segments[-1] == names[-1]
    assert [each.where for each in report.findings] == [copy]


def test_a_lost_state_tree_is_built_anew_and_checked(shipped: Backup, target: Engine) -> None:
    shipped.work(5)  # not shipped yet
    shipped.tree_file = shipped.directory / "another.db"
    assert shipped.ship() == 1
    assert shipped.restore(target).complete
    assert documents(target) == shipped.documents()


def test_a_flipped_chunk_is_refused_and_an_older_snapshot_taken(
    shipped: Backup, target: Engine
) -> None:
    shipped.snapshot()
    newest = _names(shipped, "snapshots")[-1]
    _rewrite(shipped, newest, lambda data: data.replace(b'"documents":', b'"documents":1'))
    report = shipped.restore(target)
    assert report.complete and [each.where for each in report.findings] == [newest]
    assert documents(target) == shipped.documents()


def test_a_chunk_that_is_not_its_name_stops_the_restore(shipped: Backup, target: Engine) -> None:
    chunks = _names(shipped, "chunks")
    _rewrite(shipped, chunks[0], lambda _data: shipped.objects.get(chunks[1], 1 << 24))
    with pytest.raises(BackupDamaged, match="chunk"):
        shipped.restore(target)


def test_rotten_bytes_are_found_by_the_object_store(shipped: Backup, target: Engine) -> None:
    name = _names(shipped, "chunks")[0]
    kept = [path for path in (shipped.directory / "objects").rglob("*") if path.is_file()]
    data = shipped.objects.get(name, 1 << 24)
    (path,) = [each for each in kept if each.read_bytes() == data]
    path.chmod(0o644)
    path.write_bytes(_flip(data))
    with pytest.raises(BackupDamaged, match="chunk"):
        shipped.restore(target)


def test_no_snapshot_at_all_is_said(backup: Backup, target: Engine) -> None:
    backup.ship()
    backup.work(3)
    backup.ship()
    with pytest.raises(NothingToRestore, match="no snapshot"):
        backup.restore(target)


def test_a_forged_history_with_a_key_of_its_own_is_refused(
    shipped: Backup, target: Engine, tmp_path: Path
) -> None:
    """All hashes right, all signatures by somebody else."""
    genuine = shipped.head()
    forger = ensure_key(tmp_path / "forger.pem")
    for name in _names(shipped, "changelog") + _names(shipped, "snapshots"):
        _remove(shipped, name)
    tree = StateTree(tmp_path / "forged.db")
    forged = Shipper(
        shipped.engine,
        REGION,
        shipped.objects,
        tree,
        forger,
        Witness(tmp_path / "w2"),
        shipped.seals.seal,
    )
    Snapshotter(shipped.engine, forged).snapshot()
    tree.close()
    with pytest.raises(NothingToRestore, match="no given key"):
        shipped.restore(target, head=genuine)


def test_the_head_must_come_from_this_store(shipped: Backup, target: Engine) -> None:
    other = sign_head(shipped.key, REGION, "a" * 32, seq=1, root=bytes(32), chain=bytes(32))
    with pytest.raises(Refused, match="wrong-ledger"):
        shipped.restore(target, head=other.encode())


def test_a_head_rolled_back_is_not_taken_by_the_witness(shipped: Backup) -> None:
    note = sign_head(
        shipped.key, REGION, shipped.identity.id, seq=1, root=bytes(32), chain=bytes(32)
    )
    public = shipped.key.public(REGION)
    with pytest.raises(HeadRefused, match="behind"):
        shipped.witness.admit(REGION, shipped.identity.id, note, [public])
    same = sign_head(
        shipped.key,
        REGION,
        shipped.identity.id,
        seq=shipped.seq(),
        root=bytes(32),
        chain=bytes(32),
    )
    with pytest.raises(HeadRefused, match="two heads"):
        shipped.witness.admit(REGION, shipped.identity.id, same, [public])
    assert shipped.restore is not None


def test_two_histories_of_one_height_are_a_fork_and_refused(
    shipped: Backup, target: Engine
) -> None:
    """The bucket's whole history is replaced by another one that the same key signed."""
    fork = sign_head(
        shipped.key,
        REGION,
        shipped.identity.id,
        seq=shipped.seq(),
        root=secrets.token_bytes(32),
        chain=secrets.token_bytes(32),
    )
    with pytest.raises(RestoreMismatch, match="signed as"):
        shipped.restore(target, head=fork.encode())


def test_a_target_with_documents_is_left_alone(shipped: Backup, target: Engine) -> None:
    shipped.restore(target)
    before = documents(target)
    with pytest.raises(TargetNotEmpty):
        shipped.restore(target)
    assert documents(target) == before


# --- a tenant whose key is gone ---


def test_a_destroyed_key_takes_the_tenant_and_nothing_else(shipped: Backup, target: Engine) -> None:
    shipped.seals.destroyed.add("tenant-1")
    report = shipped.restore(target)
    left = {
        name: value
        for name, value in shipped.documents().items()
        if not (name[0].startswith("kv_") and "tenant-1" in name[1])
    }
    assert documents(target) == left
    assert report.complete
    assert report.erased == len(shipped.documents()) - len(left) > 0


def test_a_segment_tells_nothing_of_a_tenant(shipped: Backup) -> None:
    TenantKV(shipped.engine, "acme").put("secret-key", b"secret-value")
    shipped.ship()
    data = shipped.objects.get(_names(shipped, "changelog")[-1], 1 << 20)
    file = decode(data)
    assert b"secret" not in file.cores
    assert "secret" not in json.dumps(file.header)


def test_a_ledger_that_was_restored_goes_on(shipped: Backup, target: Engine) -> None:
    shipped.restore(target)
    ledger = Ledger(target, REGION)
    head = ledger.head()
    ledger.append([Draft(kind="a.b", actor="ana", subject="s", idempotency_key="after", body={})])
    assert ledger.head().size == head.size + 1
