"""One tenant out of a backup: what comes is what was signed, and nothing of it is left out."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recovery_harness import REGION, Backup
from sqlalchemy import Engine
from typer.testing import CliRunner

from models.backup_file import BackupDamaged, decode
from models.canonical import canonical
from models.restore import Goal
from models.tables_kv import KvEntryRow
from models.tenant_restore import Comparison, CopyReport
from models.tenant_statement import CopyPredicate, sign_copy
from models.verifier import Refused
from stores.kv import TenantKV
from stores.quarantine import Quarantine, entry_line, verify_copy, write_lines
from stores.restore_proof import RestoreMismatch
from stores.sql import StoreUnavailable, create_all, open_engine, table, write
from stores.tenant_apply import apply_plan, compare_tenant
from stores.tenant_copy import TenantUnknown, copy_tenant, entries_digest
from workers.cli.restore import app

pytest_plugins = ["databases", "recovery_fixtures"]
COPY = "c" * 32


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Engine]:
    opened = open_engine(f"sqlite:///{tmp_path}/scratch.db")
    yield opened
    opened.dispose()


@pytest.fixture
def shipped(backup: Backup) -> Backup:
    """A snapshot, and two segments after it."""
    backup.work(15)
    backup.snapshot()
    for _ in range(2):
        backup.work(9)
        backup.ship()
    return backup


def _values(engine: Engine, tenant: str) -> dict[bytes, tuple[bytes, int]]:
    return {each.key: (each.value, each.version) for each in TenantKV(engine, tenant).items()}


def _copy(backup: Backup, scratch: Engine, tenant: str, goal: Goal | None = None) -> CopyReport:
    return copy_tenant(backup.reader(), tenant, backup.head(), goal or Goal(), scratch)


def test_a_tenant_comes_back_alone(shipped: Backup, scratch: Engine) -> None:
    report = _copy(shipped, scratch, "tenant-1")
    wanted = _values(shipped.engine, "tenant-1")
    assert _values(scratch, "tenant-1") == wanted
    assert not _values(scratch, "tenant-0") and not _values(scratch, "tenant-2")
    assert (report.keys, report.gap, report.erased) == (len(wanted), None, False)
    assert report.reached_seq == report.expected_seq and report.root_note
    assert report.digest == entries_digest(TenantKV(shipped.engine, "tenant-1").items())


def test_an_earlier_change_within_a_segment_is_a_goal(backup: Backup, scratch: Engine) -> None:
    backup.work(9)
    backup.snapshot()
    seq, kv = backup.seq(), TenantKV(backup.engine, "tenant-1")
    kv.put("wanted", b"1")
    wanted = _values(backup.engine, "tenant-1")
    kv.put("late", b"1")
    backup.ship()
    report = _copy(backup, scratch, "tenant-1", Goal(seq=seq + 3))
    assert (report.reached_seq, report.root_note, report.gap) == (seq + 2, "", None)
    assert _values(scratch, "tenant-1") == wanted


def test_a_destroyed_key_is_said_and_not_restored(shipped: Backup, scratch: Engine) -> None:
    shipped.seals.destroyed.add("tenant-1")
    report = _copy(shipped, scratch, "tenant-1")
    assert report.erased and report.keys == 0
    assert not _copy(shipped, _another(scratch), "tenant-2").erased


def _another(scratch: Engine) -> Engine:
    return open_engine(str(scratch.url) + ".2")


def test_a_tenant_that_never_was_is_an_error(shipped: Backup, scratch: Engine) -> None:
    with pytest.raises(TenantUnknown, match="nobody"):
        _copy(shipped, scratch, "nobody")


def test_a_missing_segment_is_a_gap(shipped: Backup, scratch: Engine) -> None:
    prefix = f"{REGION}/{shipped.identity.id}/changelog/"
    last = list(shipped.objects.list(prefix))[-1]
    shipped.objects.delete(last.name, if_generation=last.generation)
    report = _copy(shipped, scratch, "tenant-1")
    assert report.gap is not None and report.gap.last == report.expected_seq


# --- what whoever owns the bucket could try ---


def _rewrite(backup: Backup, part: str, change: Callable[[bytes], bytes]) -> None:
    for found in list(backup.objects.list(f"{REGION}/{backup.identity.id}/{part}/")):
        data = backup.objects.get(found.name, found.size)
        new = change(data)
        if new != data:
            backup.objects.delete(found.name, if_generation=found.generation)
            backup.objects.put(found.name, new)


def _pass_for_another(data: bytes) -> bytes:
    """The tenant's group under a name of the same length: its body is opened by nobody."""
    return data.replace(b"\x00\x08tenant-1", b"\x00\x08tenant-9")


@pytest.mark.parametrize("part", ["chunks", "changelog"])
def test_what_passes_for_another_tenants_is_missed(
    shipped: Backup, scratch: Engine, part: str
) -> None:
    _rewrite(shipped, part, _pass_for_another)
    with pytest.raises((RestoreMismatch, BackupDamaged)):
        _copy(shipped, scratch, "tenant-1")


def test_an_entry_that_is_hidden_whole_is_missed(shipped: Backup, scratch: Engine) -> None:
    """In segments of one change each: the group of a new key alone is hidden."""
    TenantKV(shipped.engine, "tenant-1").put("hidden", b"x")
    shipped.ship()
    found = list(shipped.objects.list(f"{REGION}/{shipped.identity.id}/changelog/"))[-1]
    data = shipped.objects.get(found.name, found.size)
    shipped.objects.delete(found.name, if_generation=found.generation)
    shipped.objects.put(found.name, _pass_for_another(data))
    with pytest.raises(RestoreMismatch):
        _copy(shipped, scratch, "tenant-1")


@pytest.mark.parametrize("everything", [True, False])
def test_a_chunk_that_the_manifest_leaves_out_is_missed(
    shipped: Backup, scratch: Engine, target: Engine, everything: bool
) -> None:
    """The manifest is no signed thing; a goal within a segment has no signed root of its own."""
    prefix = f"{REGION}/{shipped.identity.id}/snapshots/"
    found = list(shipped.objects.list(prefix))[-1]
    said = json.loads(shipped.objects.get(found.name, found.size))
    said["chunks"] = [
        each
        for each in said["chunks"]
        if decode(shipped.objects.get(each["name"], 1 << 20)).changes[0].collection != 5
    ]
    data = canonical(said)
    shipped.objects.delete(found.name, if_generation=found.generation)
    digest = hashlib.sha256(data).hexdigest()[:32]
    shipped.objects.put(f"{prefix}{said['seq']:016d}-{digest}.json", data)
    goal = Goal(seq=said["seq"] + 4)
    with pytest.raises(BackupDamaged, match="do not make the state root"):
        if everything:
            shipped.restore(target, goal)
        else:
            _copy(shipped, scratch, "tenant-1", goal)


# --- quarantine, comparison, writing in place ---


@pytest.fixture
def kept(shipped: Backup, scratch: Engine, tmp_path: Path) -> Path:
    report = _copy(shipped, scratch, "tenant-1")
    predicate = CopyPredicate(
        report=report, actor="ana", reason="asked", workflow="w", code_version="test"
    )
    quarantine = Quarantine(tmp_path / "quarantine")
    items = TenantKV(scratch, "tenant-1").items()

    def sign(digest: str) -> bytes:
        return sign_copy(predicate, digest, shipped.key.private)

    return Path(quarantine.keep(report, COPY, items, sign).directory)


def test_a_copy_is_verified_by_its_files_alone(shipped: Backup, kept: Path) -> None:
    keys = [shipped.key.public(REGION)]
    assert verify_copy(kept, keys).predicate.report.tenant == "tenant-1"
    assert {path.stat().st_mode & 0o077 for path in kept.glob("entries*")} == {0}
    entries = kept / "entries.jsonl"
    good = entries.read_bytes()
    entries.chmod(0o600)
    entries.write_bytes(good.replace(b'"version":', b'"version":1', 1))
    with pytest.raises(Refused, match="altered"):
        verify_copy(kept, keys)
    entries.write_bytes(good)
    with pytest.raises(Refused, match="unknown-key"):
        verify_copy(kept, [])


def test_the_live_tenant_becomes_what_the_copy_is(shipped: Backup, kept: Path) -> None:
    live, kv = shipped.engine, TenantKV(shipped.engine, "tenant-1")
    wanted = entries_digest(kv.items())
    gone, changed = [each.key.decode() for each in kv.items()][:2]
    kv.delete(gone)
    kv.put(changed, b"by mistake")
    kv.put("new", b"not wanted")
    comparison = compare_tenant(live, "s" * 32, "tenant-1", kept)
    assert (comparison.put, comparison.remove) == (2, 1)
    assert any(gone in each and "(new)" in each for each in comparison.first)
    applied = apply_plan(live, "tenant-1", kept, comparison)
    assert (applied.put, applied.removed, applied.conflicts) == (2, 1, 0)
    assert applied.after == wanted == entries_digest(kv.items()) != applied.before
    # Again, as after an answer that was lost: nothing is written twice.
    before = _values(live, "tenant-1")
    assert apply_plan(live, "tenant-1", kept, comparison).conflicts == 0
    assert _values(live, "tenant-1") == before


def test_what_was_written_since_stays_and_is_named(shipped: Backup, kept: Path) -> None:
    live, kv = shipped.engine, TenantKV(shipped.engine, "tenant-1")
    names = [each.key.decode() for each in kv.items()]
    kv.put(names[0], b"by mistake")
    kv.put(names[1], b"by mistake")
    kv.put("new", b"not wanted")
    comparison = compare_tenant(live, "s" * 32, "tenant-1", kept)
    kv.put(names[0], b"later")
    kv.put("new", b"later")
    kv.delete(names[1])
    applied = apply_plan(live, "tenant-1", kept, comparison)
    assert (applied.put, applied.removed, applied.conflicts) == (0, 0, 3)
    assert set(applied.first_conflicts) == {names[0], names[1], "new"}
    found = kv.get(names[0])
    assert found is not None and found.value == b"later"
    assert kv.get(names[1]) is None


def test_a_value_that_rotted_is_written_anew(shipped: Backup, kept: Path) -> None:
    live, kv = shipped.engine, TenantKV(shipped.engine, "tenant-1")
    name = next(iter(kv.items())).key
    with write(live) as connection:
        entry = table(KvEntryRow)
        own = (entry.c.tenant == "tenant-1", entry.c.key == name)
        connection.execute(entry.update().where(*own).values(sha256=bytes(32)))
    comparison = compare_tenant(live, "s" * 32, "tenant-1", kept)
    assert comparison.put == 1
    assert apply_plan(live, "tenant-1", kept, comparison).put == 1
    assert kv.get(name.decode()) is not None


def test_another_plan_than_the_one_that_was_shown_is_refused(shipped: Backup, kept: Path) -> None:
    comparison = compare_tenant(shipped.engine, "s" * 32, "tenant-1", kept)
    plan = kept / "plan.jsonl"
    plan.chmod(0o600)
    plan.write_text('{"expected":0,"key":"x","value":"eA=="}\n')
    with pytest.raises(Refused, match="altered"):
        apply_plan(shipped.engine, "tenant-1", kept, comparison)
    assert TenantKV(shipped.engine, "tenant-1").get("x") is None


def test_a_writing_that_is_interrupted_goes_on(
    shipped: Backup, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.tenant_apply._EVERY", 1)
    live, kv = shipped.engine, TenantKV(shipped.engine, "tenant-1")
    wanted = entries_digest(kv.items())
    for each in list(kv.items()):
        kv.put(each.key.decode(), b"by mistake")
    kv.put("zz new", b"not wanted")
    comparison = compare_tenant(live, "s" * 32, "tenant-1", kept)
    steps = comparison.put + comparison.remove

    for died in range(steps + 1):

        def die(done: int, at: int = died) -> None:
            if done == at:
                raise StoreUnavailable("unreachable", "died")

        with contextlib.suppress(StoreUnavailable):
            apply_plan(live, "tenant-1", kept, comparison, die)
    applied = apply_plan(live, "tenant-1", kept, comparison)

    assert (applied.put, applied.removed, applied.conflicts) == (steps - 1, 1, 0)
    assert applied.after == wanted
    versions = [each.version for each in kv.items()]
    assert max(versions) == comparison.put + max(_clock_before(comparison), 0)


def _clock_before(comparison: Comparison) -> int:
    """The version of the last write before the plan, which "zz new" has."""
    last = next(each for each in comparison.first if "zz new" in each)
    return int(last.rsplit("version ", 1)[1].rstrip(")"))


STATES = st.dictionaries(st.sampled_from(["a", "b", "é", "z/1"]), st.binary(max_size=3), max_size=4)


@settings(max_examples=25, deadline=None)
@given(STATES, STATES)
def test_a_plan_that_is_written_leads_to_the_copy(
    tmp_path_factory: pytest.TempPathFactory, live: dict[str, bytes], copy: dict[str, bytes]
) -> None:
    directory = tmp_path_factory.mktemp("plan")
    engines = [open_engine(f"sqlite:///{directory}/{name}.db") for name in ("live", "copy")]
    for engine, state in zip(engines, (live, copy), strict=True):
        create_all(engine)
        for key, value in state.items():
            TenantKV(engine, "acme").put(key, value)
    write_lines(directory / "entries.jsonl", map(entry_line, TenantKV(engines[1], "acme").items()))

    comparison = compare_tenant(engines[0], "s" * 32, "acme", directory)
    applied = apply_plan(engines[0], "acme", directory, comparison)

    assert {e.key.decode(): e.value for e in TenantKV(engines[0], "acme").items()} == copy
    assert applied.conflicts == 0 and applied.put == comparison.put
    assert comparison.put + comparison.same == len(copy)
    assert comparison.remove == len(live.keys() - copy.keys())
    assert comparison.differs == (live != copy)
    for engine in engines:
        engine.dispose()


def test_a_copy_is_verified_by_the_command(shipped: Backup, kept: Path, tmp_path: Path) -> None:
    key = tmp_path / "eu.vkey"
    key.write_text(shipped.key.public(REGION).vkey())
    command = ["tenant-verify", str(kept), "--key", str(key)]
    good = CliRunner().invoke(app, [*command, "--json"])
    assert good.exit_code == 0 and json.loads(good.stdout)["report"]["tenant"] == "tenant-1"
    assert "tenant-1 of eu" in CliRunner().invoke(app, command).stdout
    (kept / "entries.jsonl").chmod(0o600)
    (kept / "entries.jsonl").write_text("")
    bad = CliRunner().invoke(app, command)
    assert bad.exit_code == 1 and "NOT VERIFIED: altered" in bad.stderr
