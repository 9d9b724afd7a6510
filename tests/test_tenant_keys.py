"""Tenant keys: made once, destroyed for ever, backed up without bringing a destroyed one back."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from stores.key_backup import KeyBackup
from stores.keys import KeyFileError
from stores.objects_local import LocalObjects
from stores.sql import create_all, open_engine, read, write
from stores.tenant_keys import (
    KEY_BYTES,
    KeyDamaged,
    KeyDestroyed,
    KeyMissing,
    TenantKeys,
    ensure_region_key,
    load_region_key,
)

pytest_plugins = ["databases"]


@pytest.fixture
def region_key(tmp_path):
    return ensure_region_key(tmp_path / "keys" / "region.key")


@pytest.fixture
def keys(engine, region_key):
    return TenantKeys(engine, region_key)


@pytest.fixture
def elsewhere(tmp_path, region_key):
    """The keys in another database of the same region."""
    engine = open_engine(f"sqlite:///{tmp_path}/elsewhere.db")
    create_all(engine)
    yield TenantKeys(engine, region_key)
    engine.dispose()


def test_a_key_is_made_once_and_stays(keys, engine, region_key):
    key = keys.key("acme")
    assert len(key) == KEY_BYTES
    assert (
        keys.key("acme") == keys.find("acme") == TenantKeys(engine, region_key).key("acme") == key
    )
    assert keys.key("other") != key


def test_threads_that_ask_at_once_get_the_same_key(keys):
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: keys.key("acme"), range(16)))) == 1


def test_looking_makes_no_key(keys):
    with pytest.raises(KeyMissing):
        keys.find("acme")


@pytest.mark.parametrize("tenant", ["", "Acme", "a.b", "acme\n", "a\0b"])
def test_only_tenants_have_keys(keys, tenant):
    for act in (keys.key, keys.find, keys.destroy):
        with pytest.raises(ValueError, match="tenant"):
            act(tenant)


def test_a_destroyed_key_does_not_come_back(keys):
    keys.key("acme")
    at = keys.destroy("acme")
    assert at == keys.destroy("acme")
    for act in (keys.key, keys.find):
        with pytest.raises(KeyDestroyed, match=at.isoformat()[:19]):
            act("acme")


def test_a_key_can_be_forbidden_before_it_is_made(keys):
    keys.destroy("acme")
    with pytest.raises(KeyDestroyed):
        keys.key("acme")


def test_the_database_refuses_a_tombstone_with_a_key(keys, engine):
    keys.destroy("acme")
    with pytest.raises(Exception, match=r"(?i)check"), write(engine) as connection:
        connection.execute(text("UPDATE tenant_key SET wrapped = 'x' WHERE tenant = 'acme'"))


def test_nothing_of_a_destroyed_key_stays_in_the_file(tmp_path, region_key):
    engine = open_engine(f"sqlite:///{tmp_path}/keys.db")
    create_all(engine)
    keys = TenantKeys(engine, region_key)
    for number in range(50):
        keys.key(f"tenant-{number}")
    with read(engine) as connection:
        wrapped = connection.execute(
            text("SELECT wrapped FROM tenant_key WHERE tenant = 'tenant-25'")
        ).scalar_one()
    keys.destroy("tenant-25")
    files = list(tmp_path.glob("keys.db*"))
    assert files
    assert not [path for path in files if wrapped[12:] in path.read_bytes()]
    engine.dispose()


def test_a_key_moved_to_another_tenant_does_not_open(keys, engine):
    keys.key("acme")
    keys.key("other")
    with write(engine) as connection:
        connection.execute(
            text(
                "UPDATE tenant_key SET wrapped = "
                "(SELECT wrapped FROM tenant_key WHERE tenant = 'acme') WHERE tenant = 'other'"
            )
        )
    with pytest.raises(KeyDamaged, match="other"):
        keys.key("other")


def test_another_region_key_is_named(keys, engine, tmp_path):
    keys.key("acme")
    wrong = ensure_region_key(tmp_path / "wrong.key")
    with pytest.raises(KeyDamaged, match=wrong.id):
        TenantKeys(engine, wrong).key("acme")


def test_a_backup_brings_keys_into_an_empty_database(keys, elsewhere):
    made = {tenant: keys.key(tenant) for tenant in ("a", "b", "c")}
    keys.destroy("c")
    backup = keys.export()
    assert elsewhere.restore(backup) == 2
    assert elsewhere.restore(backup) == 0
    assert {tenant: elsewhere.find(tenant) for tenant in "ab"} == {"a": made["a"], "b": made["b"]}
    with pytest.raises(KeyDestroyed):
        elsewhere.key("c")
    assert not [key for key in made.values() if key in backup]


def test_an_older_backup_does_not_bring_a_destroyed_key_back(keys):
    keys.key("acme")
    backup = keys.export()
    keys.destroy("acme")
    assert keys.restore(backup) == 0
    with pytest.raises(KeyDestroyed):
        keys.find("acme")


def test_a_tombstone_in_a_backup_destroys_the_key_here(keys, elsewhere):
    keys.key("acme")
    elsewhere.restore(keys.export())
    at = keys.destroy("acme")
    assert elsewhere.restore(keys.export()) == 0
    with pytest.raises(KeyDestroyed):
        elsewhere.find("acme")
    assert elsewhere.destroy("acme") == at


def test_a_backup_with_another_key_is_refused_whole(keys, elsewhere):
    keys.key("acme")
    keys.key("fresh")
    keys.destroy("gone")
    mine = elsewhere.key("acme")
    kept = elsewhere.key("gone")
    with pytest.raises(KeyDamaged, match="acme"):
        elsewhere.restore(keys.export())
    assert elsewhere.find("acme") == mine
    assert elsewhere.find("gone") == kept
    with pytest.raises(KeyMissing):
        elsewhere.find("fresh")


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_changed_backup_is_refused(keys, elsewhere, place):
    keys.key("acme")
    backup = bytearray(keys.export())
    backup[place] ^= 1
    with pytest.raises(KeyDamaged, match="key backup"):
        elsewhere.restore(bytes(backup))
    with pytest.raises(KeyDamaged):
        elsewhere.restore(b"")


def test_times_are_the_clocks(engine, region_key):
    now = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(microseconds=5)
    keys = TenantKeys(engine, region_key, clock=lambda: now)
    assert keys.destroy("acme") == now


def test_the_region_key_is_a_private_file_that_stays(tmp_path):
    path = tmp_path / "keys" / "region.key"
    first = ensure_region_key(path)
    assert ensure_region_key(path).id == first.id
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().strip() not in repr(first)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_region_key(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(KeyFileError, match="hex"):
        load_region_key(path)
    with pytest.raises(KeyFileError):
        load_region_key(tmp_path / "none")


def test_what_is_made_and_what_is_destroyed_reaches_the_backup(keys, elsewhere, tmp_path):
    backup = KeyBackup("eu", LocalObjects(tmp_path / "bucket"), keys)
    other = KeyBackup("eu", LocalObjects(tmp_path / "bucket"), elsewhere)
    made = keys.key("acme")
    backup.keep()
    before = [each.generation for each in LocalObjects(tmp_path / "bucket").list("eu/")]
    backup.keep()
    assert [each.generation for each in LocalObjects(tmp_path / "bucket").list("eu/")] == before
    other.take_over()
    assert elsewhere.find("acme") == made
    keys.destroy("acme")
    backup.keep()
    KeyBackup("eu", LocalObjects(tmp_path / "bucket"), elsewhere).take_over()
    with pytest.raises(KeyDestroyed):
        elsewhere.find("acme")
