"""Every change of a protected document is logged in its own transaction, by the database itself."""

from pathlib import Path

import pytest
from recovery_harness import REGION, documents
from sqlalchemy import Engine, delete, text

from models.changelog import ABSENT, ChangelogBroken, Op
from models.documents import DocumentError, document_digest
from models.receipts import Draft
from models.seeding import FleetLayout
from stores.changelog import (
    NotProtected,
    changes_after,
    fence,
    forget_changes,
    identity,
    protect,
    waiting,
)
from stores.collections import BY_NAME, COLLECTIONS
from stores.fleet import Asked, FleetStore
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.sql import StoreUnavailable, open_engine, table, write

pytest_plugins = ["databases"]


@pytest.fixture
def store(engine: Engine) -> Engine:
    protect(engine, REGION)
    return engine


def test_every_sort_of_change_is_logged_once_and_in_order(store: Engine) -> None:
    ledger = Ledger(store, REGION)
    fleet = FleetStore(store, ledger, REGION)
    fleet.seed(FleetLayout(tenants=50, shards=5, regions=(REGION,)), actor="ana")
    some = documents(store)
    tenant = next(key for name, key in some if name == "tenant").split('"')[1]
    fleet.suspend(tenant, Asked("ana", "s1"))
    kv = TenantKV(store, tenant)
    kv.put('é"\\', b"\x00\xff")
    kv.put('é"\\', b"two")
    kv.delete('é"\\')
    ledger.append(
        [Draft(kind="a.b", actor="ana", subject="s", idempotency_key="i", body={"x": '"é\n'})]
    )

    state: dict[tuple[int, str], bytes] = {}
    values: dict[tuple[str, str], tuple[str, bytes | None]] = {}
    names = {each.code: each.name for each in COLLECTIONS}
    log = changes_after(store, 0, limit=10_000)
    assert [entry.change.seq for entry in log] == list(range(1, len(log) + 1))
    for entry in log:
        name = (entry.change.collection, entry.key)
        assert state.pop(name, ABSENT) == entry.change.before
        values.pop((names[name[0]], entry.key), None)
        if entry.image is None:
            assert entry.change.deletes and entry.change.after == ABSENT
            continue
        state[name] = document_digest(entry.image)
        assert entry.change.after == state[name]
        values[names[name[0]], entry.key] = (entry.image, entry.payload)
    assert values == documents(store)
    assert waiting(store, 3)[0] == len(log) - 3


def test_a_transaction_is_one_and_is_never_cut(store: Engine) -> None:
    fleet = FleetStore(store, Ledger(store, REGION), REGION)
    fleet.seed(FleetLayout(tenants=50, shards=5, regions=(REGION,)), actor="ana")
    seeded = changes_after(store, 0, limit=3)
    assert len(seeded) > 50
    assert [entry.change.ends for entry in seeded] == [False] * (len(seeded) - 1) + [True]
    TenantKV(store, "acme").put("k", b"v")
    rest = changes_after(store, len(seeded), limit=100)
    assert [entry.change.ends for entry in rest] == [False, True]


def test_what_is_rolled_back_leaves_no_trace(store: Engine) -> None:
    TenantKV(store, "acme").put("k", b"v")
    with pytest.raises(RuntimeError), write(store) as connection:
        connection.execute(delete(BY_NAME["kv_entry"].table))
        raise RuntimeError
    TenantKV(store, "acme").put("l", b"v")
    log = changes_after(store, 0, limit=100)
    assert [entry.change.seq for entry in log] == [1, 2, 3, 4]
    assert not any(entry.change.deletes for entry in log)


def test_rows_read_back_as_they_were(store: Engine) -> None:
    fleet = FleetStore(store, Ledger(store, REGION), REGION)
    fleet.seed(FleetLayout(tenants=5, shards=5, regions=(REGION,)), actor="ana")
    for entry in changes_after(store, 0, limit=1000):
        collection = next(c for c in COLLECTIONS if c.code == entry.change.collection)
        assert entry.image is not None
        row = collection.row(entry.image, entry.payload)
        keys = [collection.row_columns.index(column.name) for column in collection.keys]
        assert [row[place] for place in keys] == collection.key_row(entry.key)


def test_a_protected_row_keeps_its_key(store: Engine) -> None:
    TenantKV(store, "acme").put("k", b"v")
    with pytest.raises(Exception, match="keeps its key"), write(store) as connection:
        connection.execute(text("UPDATE kv_entry SET tenant = 'other'"))
    assert [key for name, key in documents(store) if name == "kv_space"] == ['["acme"]']


def test_a_fenced_store_refuses_every_write(store: Engine) -> None:
    fence(store, REGION, epoch=1, why="late")
    TenantKV(store, "acme").put("l", b"v")
    before = documents(store)
    fence(store, REGION, epoch=2, why="failed over")
    fence(store, REGION, epoch=3, why="again")
    assert identity(store, REGION).fenced_why == "failed over"
    with pytest.raises(StoreUnavailable) as refused:
        TenantKV(store, "acme").put("m", b"v")
    assert refused.value.kind == "fenced"
    with pytest.raises(StoreUnavailable):
        Ledger(store, REGION).append(
            [Draft(kind="a.b", actor="ana", subject="s", idempotency_key="i", body={})]
        )
    assert documents(store) == before


def test_a_store_belongs_to_one_region(store: Engine) -> None:
    with pytest.raises(NotProtected, match="is region eu's"):
        protect(store, "apac")
    assert protect(store, REGION) == protect(store, REGION)


def test_an_unprotected_store_says_so(engine: Engine) -> None:
    with pytest.raises(NotProtected, match="logs no changes"):
        identity(engine, REGION)


def test_a_store_without_identity_takes_no_write(store: Engine) -> None:
    with write(store) as connection:
        connection.execute(text("DELETE FROM store_identity"))
    with pytest.raises(Exception, match=r"(?i)null|no rows|returned no"):
        TenantKV(store, "acme").put("k", b"v")
    assert not documents(store)


def test_a_changelog_with_a_hole_is_not_read_over(store: Engine) -> None:
    for number in range(3):
        TenantKV(store, "acme").put(f"k{number}", b"v")
    with write(store) as connection:
        connection.execute(text("DELETE FROM changelog WHERE seq = 3"))
    with pytest.raises(ChangelogBroken, match="change 3 is missing"):
        changes_after(store, 0, limit=100)
    with write(store) as connection:
        connection.execute(delete(table_of_changes()))
    with pytest.raises(ChangelogBroken, match="goes to 6"):
        changes_after(store, 0, limit=100)


def test_numbers_go_on_after_changes_were_forgotten(store: Engine) -> None:
    TenantKV(store, "acme").put("k", b"v")
    assert forget_changes(store, 2) == 2
    TenantKV(store, "acme").put("k", b"w")
    assert [entry.change.seq for entry in changes_after(store, 2, limit=9)] == [3, 4]


def test_both_databases_spell_documents_alike(tmp_path: Path, engine: Engine) -> None:
    """Times, flags, binary and text of a row look the same whatever database made the image."""
    other = open_engine(f"sqlite:///{tmp_path}/other.db")
    spelled = []
    for each in (engine, other):
        protect(each, REGION)
        with write(each) as connection:
            for statement in (
                "INSERT INTO shard (id, region, zone, epoch, rolling, activated_at) VALUES "
                "('s1', 'eu', 'a', 3, true, '2026-11-25 21:00:00.000120')",
                "INSERT INTO tenant (id, shard, region, zone, size, state, created_at) VALUES "
                "('t1', 's1', 'eu', 'a', 2, 'active', '2026-01-02 03:04:05.678900')",
            ):
                connection.exec_driver_sql(statement)
        TenantKV(each, "t1").put("\u2028 é/\\\"'", bytes(range(256)))
        spelled.append([entry[1:] for entry in changes_after(each, 0, limit=99)])
    assert spelled[0] == spelled[1]
    other.dispose()


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ('["acme",1]', "kv_space"),
        ('["acme","1",2]', "kv_space"),
        ('["acme",1,2,3]', "kv_space"),
        ("null", "kv_space"),
        ("[", "kv_space"),
    ],
)
def test_an_image_that_is_no_row_is_refused(image: str, why: str) -> None:
    with pytest.raises(DocumentError, match=why):
        BY_NAME["kv_space"].row(image, None)


@pytest.mark.parametrize("time", ["2026-01-02", "2026-01-02T03:04:05.678900", 7])
def test_a_time_that_is_none_is_refused(time: object) -> None:
    image = f'["s","eu","z",null,0,0,"{time}"]'
    with pytest.raises(DocumentError, match="activated_at"):
        BY_NAME["shard"].row(image, None)


def table_of_changes() -> object:
    from models.tables_backup import ChangelogRow

    return table(ChangelogRow)


def test_ops_have_numbers_of_their_own() -> None:
    assert (Op.PUT, Op.DELETE) == (1, 2)
    assert [each.code for each in COLLECTIONS] == list(range(1, 11))
