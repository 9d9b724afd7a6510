"""Backups of older schema versions: proved as they were, then changed, and proved again."""

import base64
import json
import secrets
import sqlite3
import zipfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recovery_harness import REGION, Backup, Seals, documents
from sqlalchemy import Boolean, DateTime, Engine, Integer, LargeBinary

from models.backup_file import BackupDamaged, ChunkRow, decode, encode_chunk
from models.checkpoint import parse_key
from models.documents import SCHEMA_VERSION, document_digest, key_digest
from models.restore import Goal, RestoreReport
from models.restore_certificate import Times
from models.restore_certificate_check import verify_certificate
from models.schema_shapes import SHAPES
from models.state_tree import state_root
from models.tenant_restore import CopyReport
from models.upcasting import UPCASTERS, SchemaUnknown, Shape, Step, Upcasters
from stores.certifying import certify
from stores.collections import COLLECTIONS, Collection, is_text
from stores.kv import TenantKV
from stores.leaf_spool import LeafSpool
from stores.objects_local import LocalObjects
from stores.restore import Restorer, Target
from stores.restore_plan import BackupReader
from stores.sql import open_engine
from stores.tenant_copy import copy_tenant

pytest_plugins = ["databases", "recovery_fixtures"]
FROZEN = sorted((Path(__file__).parent / "fixtures").glob("backup-schema-*.zip"))


# --- the versions that were ---


def _kind(collection: Collection, column: Any) -> str:
    if isinstance(column.type, LargeBinary):
        return "textbytes" if is_text(collection.name, column.name) else "bytes"
    for of, kind in ((Boolean, "boolean"), (Integer, "integer"), (DateTime, "time")):
        if isinstance(column.type, of):
            return kind
    return "text"


def test_the_tables_are_those_of_the_present_version() -> None:
    """When this fails a table was changed: that is a new schema version, see schema_shapes."""
    found = {
        each.name: " ".join(
            [f"{column.name}:{_kind(each, column)}" for column in each.columns]
            + ([] if each.payload is None else [f"{each.payload}:payload"])
        )
        for each in COLLECTIONS
    }
    assert found == SHAPES[SCHEMA_VERSION]


def test_every_version_has_a_frozen_backup() -> None:
    names = [f"backup-schema-{version}.zip" for version in sorted(SHAPES)]
    assert [path.name for path in FROZEN] == names


@dataclass
class Frozen:
    """A backup as it was made once: nothing of it is made anew."""

    version: int
    reader: BackupReader
    head: bytes
    documents: dict[tuple[str, str], tuple[str, bytes | None]]


def thaw(path: Path, directory: Path, upcasters: Upcasters = UPCASTERS) -> Frozen:
    objects = LocalObjects(directory / "thawed")
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for name, data in files.items():
        if name.startswith("objects/"):
            objects.put(name.removeprefix("objects/"), data)
    keys = [parse_key(files["key.vkey"].decode())]
    store = files["store"].decode()
    reader = BackupReader(objects, REGION, store, keys, Seals().unseal, upcasters=upcasters)
    wanted = {
        (each["collection"], each["key"]): (
            each["image"],
            None if each["payload"] is None else base64.b64decode(each["payload"]),
        )
        for each in json.loads(files["documents.json"])
    }
    return Frozen(int(path.stem.rsplit("-", 1)[1]), reader, files["head.note"], wanted)


def _restore(reader: BackupReader, head: bytes, target: Engine) -> RestoreReport:
    where = Target(target, secrets.token_hex(16), 2)
    return Restorer(reader).restore(where, head, Goal())


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.stem)
def test_a_backup_that_was_made_once_comes_back(path: Path, target: Engine, tmp_path: Path) -> None:
    frozen = thaw(path, tmp_path)
    report = _restore(frozen.reader, frozen.head, target)
    assert documents(target) == frozen.documents
    assert report.complete and report.root_signed and not report.findings
    assert report.schema_version == SCHEMA_VERSION
    if frozen.version < SCHEMA_VERSION:
        assert report.upcast and report.upcast.versions == (frozen.version,)
    else:
        assert report.upcast is None


# --- a version to come ---


def _shard(values: list[Any]) -> list[Any]:
    return [*values[:2], f"zone-{values[2]}", *values[3:]]


def _space(values: list[Any]) -> list[Any]:
    return [values[0], values[1] + 1000, values[2]]


def _later(steps: dict[tuple[int, str], Step], version: int = SCHEMA_VERSION + 1) -> Upcasters:
    shapes = {**UPCASTERS.shapes, version: UPCASTERS.shapes[SCHEMA_VERSION]}
    return Upcasters(current=version, shapes=shapes, steps=steps)


STEPS: dict[tuple[int, str], Step] = {
    (SCHEMA_VERSION, "kv_space"): _space,
    (SCHEMA_VERSION, "shard"): _shard,
}


@pytest.mark.parametrize("folded", [200_000, 5])
@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.stem)
def test_older_documents_are_proved_as_they_were_and_then_changed(
    path: Path, folded: int, target: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.restore_build.MOST_FOLDED", folded)
    frozen = thaw(path, tmp_path, _later(STEPS))
    report = _restore(frozen.reader, frozen.head, target)

    changes = {"kv_space": _space, "shard": _shard}
    found = documents(target)
    assert found.keys() == frozen.documents.keys()
    for (collection, key), (image, payload) in frozen.documents.items():
        step = changes.get(collection)
        wanted = json.loads(image) if step is None else step(json.loads(image))
        assert json.loads(found[collection, key][0]) == wanted
        assert found[collection, key][1] == payload
    assert report.upcast and report.upcast.documents >= 5
    assert report.state_root == _root(frozen.documents) != report.upcast.state_root
    assert report.upcast.state_root == _root(found)
    assert report.root_signed and report.complete


def _root(of: dict[tuple[str, str], tuple[str, bytes | None]]) -> str:
    return state_root(
        key_digest(collection, key) + document_digest(image)
        for (collection, key), (image, _) in of.items()
    ).hex()


def test_the_certificate_states_both_roots(backup: Backup, target: Engine) -> None:
    backup.work(10)
    backup.snapshot()
    backup.work(4)
    backup.ship()
    reader = backup.reader()
    reader.upcasters = _later(STEPS)
    started = datetime.now(UTC)
    report = _restore(reader, backup.head(), target)
    data = certify(
        report,
        backup.key,
        kind="restore",
        expected_head=backup.head(),
        times=Times(started_at=started, finished_at=datetime.now(UTC)),
        code_version="test",
    )
    said = verify_certificate(data, [backup.key.public(REGION)], [backup.head()])
    upcast = said.predicate.upcast
    assert upcast is not None and upcast.state_root == _root(documents(target))
    assert said.statement.subject[0].digest.sha256 == upcast.state_root
    assert said.predicate.state_root_found != upcast.state_root


def test_one_tenant_of_an_older_backup(backup: Backup, tmp_path: Path) -> None:
    backup.work(12)
    backup.snapshot()
    backup.work(6)
    backup.ship()
    reader = backup.reader()
    reader.upcasters = _later(STEPS)
    scratch = open_engine(f"sqlite:///{tmp_path}/scratch.db")
    report: CopyReport = copy_tenant(reader, "tenant-1", backup.head(), Goal(), scratch)
    wanted = list(TenantKV(backup.engine, "tenant-1").items())
    assert list(TenantKV(scratch, "tenant-1").items()) == wanted
    assert report.keys == len(wanted) and report.root_note
    scratch.dispose()


# --- what is refused ---


def test_a_newer_backup_is_refused(backup: Backup, target: Engine) -> None:
    backup.work(5)
    backup.snapshot()
    reader = backup.reader()
    reader.upcasters = Upcasters(current=1)
    with pytest.raises(SchemaUnknown, match="version 2 is newer"):
        _restore(reader, backup.head(), target)


def test_a_newer_segment_after_an_older_snapshot_is_refused(
    backup: Backup, target: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup.work(5)
    backup.snapshot()
    backup.work(5)
    monkeypatch.setattr("stores.shipping.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    backup.ship()
    with pytest.raises(SchemaUnknown, match="newer than this release"):
        _restore(backup.reader(), backup.head(), target)


@pytest.mark.parametrize("version", [0, -1, True, "2", None, 1.0])
def test_a_version_that_never_was_is_refused(version: object) -> None:
    with pytest.raises(SchemaUnknown):
        UPCASTERS.check(version)


def test_a_row_that_is_not_the_signed_one_is_found_before_it_is_changed(
    backup: Backup, target: Engine
) -> None:
    backup.work(10)
    backup.snapshot()
    _forge_a_space(backup)
    reader = backup.reader()
    reader.upcasters = _later(STEPS)
    with pytest.raises(BackupDamaged, match="not the one that is signed"):
        _restore(reader, backup.head(), target)


def _forge_a_space(backup: Backup) -> None:
    """Seal another row under the same cores, as whoever has bucket and tenant's key can."""
    prefix = f"{REGION}/{backup.identity.id}/chunks/"
    for found in list(backup.objects.list(prefix)):
        file = decode(backup.objects.get(found.name, found.size))
        if file.changes[0].collection != 4:
            continue
        rows = [list(row or ()) for row in file.rows(backup.seals.unseal)]
        rows[0][1] += 1
        chunk = [
            ChunkRow(change, row[0], row) for change, row in zip(file.changes, rows, strict=True)
        ]
        backup.objects.delete(found.name, if_generation=found.generation)
        backup.objects.put(found.name, encode_chunk(file.header, chunk, backup.seals.seal))


def test_a_step_that_does_not_take_a_document_names_it(backup: Backup, target: Engine) -> None:
    backup.work(5)
    backup.snapshot()
    reader = backup.reader()
    reader.upcasters = _later({(SCHEMA_VERSION, "kv_space"): lambda values: [values[9]]})
    with pytest.raises(ValueError, match="kv_space: upcast from version 2"):
        _restore(reader, backup.head(), target)


# --- the parts ---

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.binary(max_size=8), st.none() | st.integers(-(2**40), 2**40))
def test_an_image_is_spelled_as_a_database_spells_it(
    text: str, data: bytes, number: int | None
) -> None:
    shape = Shape.of("a:text b:bytes c:integer d:payload")
    image, payload = shape.image([text, data, number, data])
    with closing(sqlite3.connect(":memory:")) as database:
        query = "SELECT json_array(?, lower(hex(?)), ?)"
        assert image == database.execute(query, (text, data, number)).fetchone()[0]
    assert payload == data


def test_a_copied_spool_goes_its_own_way() -> None:
    for in_memory in (64 * 2, 64 * 1000):
        with LeafSpool(in_memory=in_memory) as spool:
            for number in range(7):
                spool.add(bytes([number]) * 32, b"\1" * 32)
            copy = spool.copy()
            assert copy.root() == spool.root()
            copy.add(bytes([3]) * 32, b"\2" * 32)
            assert copy.digest(bytes([3]) * 32) == b"\2" * 32
            assert spool.digest(bytes([3]) * 32) == b"\1" * 32
            assert copy.root() != spool.root()
            copy.close()
