"""Reading a backup in turn, and restoring a sample of it: what is bad is found and named."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recovery_harness import REGION, Backup, documents
from sqlalchemy import Engine

from models.backup_file import BackupDamaged
from models.manifest import ChunkRef, Manifest, read_manifest
from models.validation import INTERVAL, SHARES, BadObject, Rotation, share_of
from stores.backup_chunks import read_chunk
from stores.backup_layout import manifests
from stores.sampling import Sampler
from stores.sql import open_engine
from stores.validation import RotationFile, Validator

pytest_plugins = ["databases"]
NOW = datetime(2026, 11, 28, 22, tzinfo=UTC)


@pytest.fixture
def backup(tmp_path: Path) -> Iterator[Backup]:
    engine = open_engine(f"sqlite:///{tmp_path}/region.db")
    yield Backup(engine, tmp_path)
    engine.dispose()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path}/target.db")
    yield engine
    engine.dispose()


@pytest.fixture
def shipped(backup: Backup) -> Backup:
    backup.work(10)
    backup.snapshot()
    for _ in range(3):
        backup.work(5)
        backup.ship()
    return backup


def _validator(backup: Backup) -> Validator:
    public = [backup.key.public(REGION)]
    return Validator(backup.objects, REGION, public, backup.witness)


def _bad(backup: Backup) -> dict[str, str]:
    report = _validator(backup).rotate(Rotation(), NOW, everything=True)
    return {each.name.split("/")[2]: each.what for each in report.bad}


def _sampler(backup: Backup) -> Sampler:
    public = [backup.key.public(REGION)]
    return Sampler(backup.objects, REGION, backup.identity.id, public, backup.seals.unseal)


def _flip(backup: Backup, name: str) -> None:
    """Flip a bit on the disk, behind the object store's back."""
    info = backup.objects.stat(name)
    assert info
    path = backup.directory / "objects" / f"{name}@{info.sha256}"
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(bytes(data))


def _first(backup: Backup, part: str) -> str:
    return next(backup.objects.list(f"{REGION}/{backup.identity.id}/{part}/")).name


def _manifest(backup: Backup) -> Manifest:
    found = manifests(backup.objects, REGION, backup.identity.id)
    newest = max(found, key=lambda each: (each.seq, each.object.created))
    return read_manifest(backup.objects.get(newest.object.name, 1 << 20))


@given(
    st.lists(st.timedeltas(-timedelta(days=400), timedelta(days=400)), min_size=SHARES, max_size=60)
)
def test_whatever_the_clock_says_every_share_has_its_turn(jumps: list[timedelta]) -> None:
    rotation, now = Rotation(), NOW
    read: list[list[int]] = []
    for jump in jumps:
        now += jump
        due = rotation.due(now)
        assert 1 <= len(due) <= SHARES and len(set(due)) == len(due)
        rotation = rotation.after(len(due), now)
        read.append(due)
    for start in range(len(read) - SHARES + 1):
        seen = {share for due in read[start : start + SHARES] for share in due}
        assert seen == set(range(SHARES))


def test_a_run_that_was_missed_is_made_up_for() -> None:
    rotation = Rotation(read=3, at=NOW)
    assert rotation.due(NOW + INTERVAL) == [3]
    assert rotation.due(NOW + 3 * INTERVAL) == [3, 4, 5]
    assert rotation.due(NOW - timedelta(days=2)) == [3]


def test_the_rotation_survives_a_restart_and_never_goes_back(tmp_path: Path) -> None:
    path = tmp_path / "work" / "validation.json"
    assert RotationFile(path).read() == Rotation()
    further = Rotation(read=7, at=NOW)
    assert RotationFile(path).save(further)
    assert not RotationFile(path).save(Rotation(read=6, at=NOW))
    assert RotationFile(path).read() == further
    path.write_bytes(b"\0")
    assert RotationFile(path).read() == Rotation()


def test_all_shares_together_are_the_whole_backup(shipped: Backup) -> None:
    rotation, read = Rotation(), 0
    for hour in range(SHARES):
        report = _validator(shipped).rotate(rotation, NOW + hour * INTERVAL)
        assert report.then and not report.bad
        rotation, read = report.then, read + report.objects
    everything = [each.name for each in shipped.objects.list(f"{REGION}/")]
    assert read == len(everything) and len({share_of(each) for each in everything}) > 1


@pytest.mark.parametrize("part", ["chunks", "changelog", "snapshots"])
def test_a_flipped_bit_is_found_in_its_turn_and_not_told_twice(shipped: Backup, part: str) -> None:
    name = _first(shipped, part)
    _flip(shipped, name)
    validator, rotation = _validator(shipped), Rotation()
    found: list[BadObject] = []
    for hour in range(SHARES):
        report = validator.rotate(rotation, NOW + hour * INTERVAL)
        validator.mark(report.bad)
        found += report.bad
        assert report.then
        rotation = report.then
    assert [each.name for each in found] == [name] and "SHA-256" in found[0].what
    again = validator.rotate(rotation, NOW, everything=True)
    assert not again.bad and again.known == 1


def test_an_object_that_was_written_wrong_is_found_by_its_form(shipped: Backup) -> None:
    for kind in ("changelog", "chunks", "snapshots"):
        [first, *_] = shipped.objects.list(f"{REGION}/{shipped.identity.id}/{kind}/")
        data = shipped.objects.get(first.name, first.size)
        shipped.objects.put(first.name, data[:-3], if_generation=first.generation)
    assert set(_bad(shipped)) == {"changelog", "chunks", "snapshots"}


def test_a_segment_of_another_place_is_found(shipped: Backup) -> None:
    one, two, *_ = shipped.objects.list(f"{REGION}/{shipped.identity.id}/changelog/")
    data = shipped.objects.get(two.name, two.size)
    shipped.objects.put(one.name, data, if_generation=one.generation)
    assert "does not hold the changes" in _bad(shipped)["changelog"]


def test_a_missing_segment_is_found_in_the_middle_and_at_the_end(shipped: Backup) -> None:
    found = list(shipped.objects.list(f"{REGION}/{shipped.identity.id}/changelog/"))
    for lost in (found[-1], found[-2]):
        shipped.objects.delete(lost.name, if_generation=lost.generation)
        assert "no segment holds the changes" in _bad(shipped)["changelog"]
    shipped.snapshot()  # its head is that of the store: what is missing lies before it
    assert "no segment holds" in _bad(shipped)["changelog"]


def test_a_missing_chunk_is_found_and_put_again(shipped: Backup) -> None:
    gone = shipped.objects.stat(_manifest(shipped).chunks[0].name)
    assert gone
    shipped.objects.delete(gone.name, if_generation=gone.generation)
    report = _validator(shipped).rotate(Rotation(read=5, at=NOW), NOW)  # whatever the share
    assert [each.name for each in report.bad] == [gone.name]


def test_a_snapshot_does_not_build_on_a_bad_chunk_and_heals_older_ones(
    shipped: Backup, target: Engine
) -> None:
    before = _manifest(shipped)
    name = before.chunks[0].name
    _flip(shipped, name)
    shipped.snapshot()
    assert name not in {ref.name for ref in _manifest(shipped).chunks}  # its documents changed
    name = _manifest(shipped).chunks[-1].name
    _flip(shipped, name)
    shipped.snapshot()  # nobody knows yet: it stands there as if it were good
    assert name in {ref.name for ref in _manifest(shipped).chunks}
    with pytest.raises(BackupDamaged, match="SHA-256"):
        shipped.restore(target)

    report = _validator(shipped).rotate(Rotation(), NOW, everything=True)
    assert name in {each.name for each in report.bad}
    _validator(shipped).mark(report.bad)
    shipped.snapshot()

    fresh = _manifest(shipped)
    copy = name.replace(".chunk", "-1.chunk")
    assert copy in {ref.name for ref in fresh.chunks}
    target.dispose()
    again = open_engine(f"sqlite:///{shipped.directory}/again.db")
    shipped.restore(again)
    assert documents(again) == shipped.documents()
    again.dispose()
    old = ChunkRef.model_validate({**fresh.chunks[-1].model_dump(), "name": name})
    assert read_chunk(shipped.objects, old).cores_digest().hex() == old.cores
    _flip(shipped, copy)
    report = _validator(shipped).rotate(Rotation(), NOW, everything=True)
    assert [each.name for each in report.bad] == [copy]


def test_a_chunk_whose_record_cannot_be_read_is_passed_by(shipped: Backup, target: Engine) -> None:
    shipped.snapshot()
    name = _manifest(shipped).chunks[0].name
    (shipped.directory / "objects" / f"{name}@info").write_bytes(b"{}")
    assert "record is unreadable" in str(
        _validator(shipped).rotate(Rotation(), NOW, everything=True).bad
    )
    shipped.snapshot()
    assert name.replace(".chunk", "-1.chunk") in {ref.name for ref in _manifest(shipped).chunks}
    report = shipped.restore(target)
    assert report.complete and documents(target) == shipped.documents()


def test_a_base_whose_chunk_is_known_to_be_bad_is_passed_over(
    shipped: Backup, target: Engine
) -> None:
    shipped.work(8)
    shipped.snapshot()
    newest = _manifest(shipped)
    old = {
        ref.name
        for each in manifests(shipped.objects, REGION, shipped.identity.id)
        for ref in read_manifest(shipped.objects.get(each.object.name, 1 << 20)).chunks
        if each.seq < newest.seq
    }
    name = next(ref.name for ref in newest.chunks if ref.name not in old)
    _validator(shipped).mark([BadObject(name=name, what="flipped")])
    report = shipped.restore(target)
    assert report.base_seq < newest.seq and report.complete
    assert any("is bad" in each.what for each in report.findings)


def test_a_sample_is_restored_and_the_same_seed_chooses_it_again(shipped: Backup) -> None:
    report = _sampler(shipped).sample(100, seed="one")
    assert (
        not report.bad and report.documents >= report.of_documents == _manifest(shipped).documents
    )
    few = [_sampler(shipped).sample(5, seed=f"seed {number}") for number in (1, 2)]
    assert all(0 < each.documents < report.documents for each in few)
    assert few[0] == _sampler(shipped).sample(5, seed="seed 1")


def test_a_sample_of_any_database_is_restored(engine: Engine, tmp_path: Path) -> None:
    backup = Backup(engine, tmp_path)
    backup.work(12)
    backup.snapshot()
    report = _sampler(backup).sample(100)
    assert not report.bad and report.documents == report.of_documents


def test_erased_documents_are_counted_and_no_fault(shipped: Backup) -> None:
    shipped.seals.destroyed.add("tenant-1")
    report = _sampler(shipped).sample(100)
    assert not report.bad and report.erased > 0


def test_a_body_that_does_not_open_is_found_though_its_hash_holds(shipped: Backup) -> None:
    """Sealed wrong from the beginning: hashes and signatures say nothing about it."""
    seal = shipped.seals.seal
    shipped.seals.seal = lambda tenant, plain, bound: seal(tenant, plain, b"elsewhere")  # type: ignore[method-assign]
    shipped.work(6)
    shipped.snapshot()
    assert not _bad(shipped)
    report = _sampler(shipped).sample(100)
    assert any("/chunks/" in each.name for each in report.bad)
    assert any("/changelog/" in each.name for each in report.bad)


def test_chunks_that_do_not_make_the_signed_root_are_found(shipped: Backup) -> None:
    [ref, *_] = _manifest(shipped).chunks
    found = shipped.objects.stat(ref.name)
    assert found
    shipped.objects.delete(ref.name, if_generation=found.generation)
    report = _sampler(shipped).sample(5)
    assert ref.name in {each.name for each in report.bad}
