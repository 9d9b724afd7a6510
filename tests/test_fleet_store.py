"""Seeding and the tenant manager: what changes, what is refused, and what the receipts say."""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from models.fleet import FleetError, Tenant, TenantState
from models.seeding import LARGEST_SIZE, FleetLayout, tenant_size
from stores.fleet import Asked, FleetStore
from stores.ledger import IdempotencyConflict, Ledger
from stores.seeding import SEEDED
from stores.shards import ShardStore
from stores.sql import create_all, open_engine, read, write

pytest_plugins = ["databases"]

REGIONS = ["eu", "us-east", "us-west", "apac", "latam"]
NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
LAYOUT = FleetLayout(tenants=60, shards=10, regions=["eu", "apac"])


def asked(key: str, reason: str = "") -> Asked:
    return Asked(actor="ana", key=key, reason=reason)


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine, "eu", clock=lambda: NOW)


@pytest.fixture
def fleet(engine: Engine, ledger: Ledger) -> FleetStore:
    store = FleetStore(engine, ledger, "eu", clock=lambda: NOW)
    store.seed(LAYOUT, actor="ana")
    return store


@pytest.fixture
def shards(engine: Engine, ledger: Ledger) -> ShardStore:
    return ShardStore(engine, ledger, "eu", clock=lambda: NOW)


def everything(engine: Engine) -> list[object]:
    """All that a refused change must leave as it was."""
    with read(engine) as connection:
        return [
            connection.execute(text(f"SELECT * FROM {name} ORDER BY 1, 2")).all()
            for name in ("region_state", "shard", "tenant", "ledger_head")
        ]


# Layout


@pytest.mark.parametrize(("tenants", "shards"), [(10_000, 100), (103, 7), (5, 5), (3, 2), (1, 1)])
def test_a_layout_is_as_even_as_can_be(tenants: int, shards: int) -> None:
    layout = FleetLayout(tenants, shards, REGIONS)
    by_region = {region: list(layout.shards_of(region)) for region in REGIONS}
    placed = {region: list(layout.tenants_of(region)) for region in REGIONS}
    names = [shard.id for found in by_region.values() for shard in found]
    assert len(names) == len(set(names)) == shards
    assert max(map(len, by_region.values())) - min(map(len, by_region.values())) <= 1
    loads = Counter(tenant.shard for found in placed.values() for tenant in found)
    assert set(loads) == set(names)
    assert max(loads.values()) - min(loads.values()) <= 1
    ids = sorted(tenant.id for found in placed.values() for tenant in found)
    assert ids == [f"t-{number:06d}" for number in range(1, tenants + 1)]
    for region, found in placed.items():
        zones = {shard.id: shard.zone for shard in by_region[region]}
        assert all(zones[tenant.shard] == tenant.zone for tenant in found)
        assert all(tenant.shard.startswith(f"{region}-") for tenant in found)


def test_shard_ids_count_from_zero_and_zones_take_turns() -> None:
    shards = list(FleetLayout(10_000, 100, REGIONS).shards_of("us-east"))
    assert [shard.id for shard in shards[:2]] == ["us-east-000", "us-east-001"]
    assert "".join(shard.zone for shard in shards[:7]) == "abcabca"


def test_sizes_have_a_heavy_tail_and_come_from_the_names() -> None:
    sizes = sorted(tenant_size(f"t-{number:06d}") for number in range(10_000))
    assert tenant_size("t-000001") == tenant_size("t-000001")
    assert sizes[0] == 1
    assert sizes[-1] <= LARGEST_SIZE
    assert 4_500 < sum(size == 1 for size in sizes) < 5_500
    assert sum(sizes[-1_000:]) > sum(sizes) / 2


@pytest.mark.parametrize(
    ("field", "tenants", "shards", "regions"),
    [
        ("shards", 10, 11, REGIONS),
        ("shards", 10, 0, REGIONS),
        ("tenants", 0, 1, REGIONS),
        ("tenants", -5, 1, REGIONS),
        ("regions", 10, 1, []),
        ("regions", 10, 1, ["eu", "eu"]),
        ("regions", 10, 1, ["EU"]),
        ("regions", 10, 1, ["eu\n"]),
    ],
)
def test_a_layout_that_cannot_be_names_the_field(
    field: str, tenants: int, shards: int, regions: list[str]
) -> None:
    with pytest.raises(FleetError) as refused:
        FleetLayout(tenants, shards, regions)
    assert refused.value.field == field


# Seeding


def test_seeding_writes_the_layout_and_one_receipt(
    engine: Engine, fleet: FleetStore, ledger: Ledger
) -> None:
    tenants = fleet.list(limit=1000).tenants
    assert [(one.id, one.shard, one.zone, one.size) for one in tenants] == list(
        LAYOUT.tenants_of("eu")
    )
    assert {one.region for one in tenants} == {"eu"}
    assert {one.created_at for one in tenants} == {NOW}
    [receipt] = ledger.read()
    assert receipt.kind == SEEDED
    lines = "".join(f"{one.id},{one.shard},{one.zone},{one.size}\n" for one in tenants)
    assert receipt.receipt.body == {
        "tenants": 60,
        "shards": 10,
        "regions": ["eu", "apac"],
        "region_tenants": 30,
        "region_shards": 5,
        "digest": hashlib.sha256(lines.encode()).hexdigest(),
        "generation": 1,
    }


def test_seeding_again_changes_nothing(engine: Engine, fleet: FleetStore) -> None:
    before = everything(engine)
    again = fleet.seed(LAYOUT, actor="bob")
    assert again.replayed
    assert (again.shards, again.tenants) == (5, 30)
    assert everything(engine) == before


def test_seeding_again_after_tenants_came_and_moved_changes_nothing(
    engine: Engine, fleet: FleetStore
) -> None:
    fleet.create_tenant("acme", asked("1"))
    before = everything(engine)
    assert fleet.seed(LAYOUT, actor="ana").replayed
    assert everything(engine) == before


@pytest.mark.parametrize(
    ("field", "layout"),
    [
        ("tenants", FleetLayout(61, 10, ["eu", "apac"])),
        ("shards", FleetLayout(60, 12, ["eu", "apac"])),
        ("regions", FleetLayout(60, 10, ["eu", "latam"])),
        ("regions", FleetLayout(60, 10, ["apac", "latam"])),
    ],
)
def test_other_numbers_are_refused(
    engine: Engine, fleet: FleetStore, field: str, layout: FleetLayout
) -> None:
    before = everything(engine)
    for attempt in (lambda: fleet.seed(layout, actor="ana"), lambda: fleet.check_seed(layout)):
        with pytest.raises(FleetError) as refused:
            attempt()
        assert refused.value.field == field
    assert everything(engine) == before


def test_a_region_that_was_filled_otherwise_is_not_seeded(engine: Engine, ledger: Ledger) -> None:
    with write(engine) as connection:
        connection.execute(
            text("INSERT INTO shard VALUES ('eu-000', 'eu', 'a', NULL, 0, :no, NULL)"),
            {"no": False},
        )
    with pytest.raises(FleetError, match=r"^shards: "):
        FleetStore(engine, ledger, "eu").seed(LAYOUT, actor="ana")


def test_a_database_of_another_region_is_refused(engine: Engine, fleet: FleetStore) -> None:
    stranger = FleetStore(engine, Ledger(engine, "apac"), "apac")
    before = everything(engine)
    with pytest.raises(FleetError, match=r"^region: this database is region eu's"):
        stranger.seed(LAYOUT, actor="ana")
    assert everything(engine) == before


def test_two_that_seed_at_once_seed_once(engine: Engine, ledger: Ledger) -> None:
    results: list[bool] = []

    def run() -> None:
        results.append(FleetStore(engine, ledger, "eu").seed(LAYOUT, actor="ana").replayed)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, True, True]
    assert ledger.head().size == 1


def test_every_database_seeds_the_same(engine: Engine, fleet: FleetStore, tmp_path: Path) -> None:
    other = open_engine(f"sqlite:///{tmp_path}/other.db")
    create_all(other)
    seeded = FleetStore(other, Ledger(other, "eu"), "eu").seed(LAYOUT, actor="ana")
    assert seeded.digest == fleet.seed(LAYOUT, actor="ana").digest


# Tenants


def test_create_places_on_the_least_loaded_shard(fleet: FleetStore) -> None:
    least = min(fleet.catalog(), key=lambda shard: (shard.weight, shard.tenants, shard.shard))
    made = fleet.create_tenant("acme", asked("1"), size=3)
    assert made.shard == least.shard
    assert made == fleet.find("acme")
    assert (made.region, made.size, made.state) == ("eu", 3, TenantState.ACTIVE)


def test_create_takes_the_shard_that_is_named_and_its_zone(fleet: FleetStore) -> None:
    assert fleet.create_tenant("acme", asked("1"), shard="eu-002").zone == "c"


@pytest.mark.parametrize(
    ("field", "attempt"),
    [
        ("tenant", lambda store: store.create_tenant("t-000001", asked("x"))),
        ("tenant", lambda store: store.create_tenant("Acme", asked("x"))),
        ("tenant", lambda store: store.create_tenant("a.b", asked("x"))),
        ("tenant", lambda store: store.create_tenant("acme\n", asked("x"))),
        ("tenant", lambda store: store.create_tenant("", asked("x"))),
        ("tenant", lambda store: store.create_tenant("a" * 64, asked("x"))),
        ("shard", lambda store: store.create_tenant("acme", asked("x"), shard="apac-000")),
        ("shard", lambda store: store.create_tenant("acme", asked("x"), shard="nonsense")),
        ("size", lambda store: store.create_tenant("acme", asked("x"), size=0)),
        ("size", lambda store: store.create_tenant("acme", asked("x"), size=2**31)),
        ("actor", lambda store: store.create_tenant("acme", Asked("", "x"))),
        ("actor", lambda store: store.create_tenant("acme", Asked("ana\n", "x"))),
        ("idempotency_key", lambda store: store.create_tenant("acme", asked(""))),
        ("reason", lambda store: store.create_tenant("acme", asked("x", "y" * 501))),
        ("tenant", lambda store: store.suspend("nobody", asked("x"))),
        ("tenant", lambda store: store.resume("nobody", asked("x"))),
        ("tenant", lambda store: store.move("nobody", asked("x"), to="eu-001")),
        ("shard", lambda store: store.move("t-000001", asked("x"), to="apac-000")),
        ("shard", lambda store: store.move("t-000001", asked("x"), to="eu-999")),
        ("limit", lambda store: store.list(limit=0)),
        ("limit", lambda store: store.list(limit=1001)),
        ("prefix", lambda store: store.list(prefix="t%")),
        ("prefix", lambda store: store.list(prefix="t_")),
    ],
)
def test_a_refusal_names_the_field_and_changes_nothing(
    engine: Engine, fleet: FleetStore, field: str, attempt: Callable[[FleetStore], object]
) -> None:
    before = everything(engine)
    with pytest.raises(FleetError) as refused:
        attempt(fleet)
    assert refused.value.field == field
    assert everything(engine) == before


def test_suspend_and_resume_are_seen_by_the_routes(fleet: FleetStore, shards: ShardStore) -> None:
    fleet.suspend("t-000001", asked("1", "unpaid"))
    assert shards.routes().suspended == ["t-000001"]
    assert "t-000001" not in shards.routes().shards[0].tenants
    fleet.resume("t-000001", asked("2"))
    assert shards.routes().suspended == []
    assert "t-000001" in shards.routes().shards[0].tenants


def test_move_takes_the_tenant_to_the_shard_and_its_zone(
    fleet: FleetStore, shards: ShardStore
) -> None:
    moved = fleet.move("t-000001", asked("1"), to="eu-004")
    assert (moved.shard, moved.zone) == ("eu-004", "b")
    assert moved == fleet.find("t-000001")
    homes = [route.shard for route in shards.routes().shards if "t-000001" in route.tenants]
    assert homes == ["eu-004"]


@pytest.mark.parametrize("rolling", ["eu-000", "eu-004"])
def test_move_is_refused_while_either_shard_is_rolling(
    engine: Engine, fleet: FleetStore, shards: ShardStore, rolling: str
) -> None:
    shards.mark([rolling], True)
    before = everything(engine)
    with pytest.raises(FleetError, match=rf"^shard: {rolling} is rolling"):
        fleet.move("t-000001", asked("1"), to="eu-004")
    assert everything(engine) == before
    shards.mark([rolling], False)
    assert fleet.move("t-000001", asked("1"), to="eu-004").shard == "eu-004"


def test_every_change_has_a_receipt_and_a_generation(
    fleet: FleetStore, shards: ShardStore, ledger: Ledger
) -> None:
    fleet.create_tenant("acme", asked("1", "signed up"), shard="eu-000", size=2)
    fleet.suspend("acme", asked("2"))
    fleet.resume("acme", asked("3"))
    fleet.move("acme", asked("4"), to="eu-001")
    assert shards.generation() == 5
    receipts = [stored.receipt for stored in ledger.read(1)]
    assert [(one.kind, one.subject, one.actor) for one in receipts] == [
        ("tenant.created", "acme", "ana"),
        ("tenant.suspended", "acme", "ana"),
        ("tenant.resumed", "acme", "ana"),
        ("tenant.moved", "acme", "ana"),
    ]
    assert [one.body["generation"] for one in receipts] == [2, 3, 4, 5]
    assert receipts[0].body["reason"] == "signed up"
    assert [one.body["shard"] for one in receipts] == ["eu-000"] * 3 + ["eu-001"]
    assert [one.body["state"] for one in receipts] == ["active", "suspended", "active", "active"]


@pytest.mark.parametrize(
    "repeat",
    [
        lambda store: store.create_tenant("acme", asked("same"), size=2),
        lambda store: store.suspend("t-000001", asked("same")),
        lambda store: store.move("t-000001", asked("same"), to="eu-003"),
    ],
)
def test_the_same_key_gives_what_was_recorded(
    engine: Engine, fleet: FleetStore, repeat: Callable[[FleetStore], Tenant]
) -> None:
    first = repeat(fleet)
    fleet.move(first.id, asked("later"), to="eu-002")
    before = everything(engine)
    assert repeat(fleet) == first
    assert everything(engine) == before


@pytest.mark.parametrize(
    "other",
    [
        lambda store: store.create_tenant("acme", asked("same"), size=9),
        lambda store: store.create_tenant("acme", asked("same"), size=2, shard="eu-004"),
        lambda store: store.create_tenant("other", asked("same"), size=2),
        lambda store: store.suspend("acme", asked("same")),
    ],
)
def test_the_same_key_for_something_else_is_refused(
    engine: Engine, fleet: FleetStore, other: Callable[[FleetStore], Tenant]
) -> None:
    fleet.create_tenant("acme", asked("same"), size=2, shard="eu-001")
    before = everything(engine)
    with pytest.raises(IdempotencyConflict):
        other(fleet)
    assert everything(engine) == before


def test_what_is_so_already_is_not_done_again(engine: Engine, fleet: FleetStore) -> None:
    fleet.suspend("t-000001", asked("1"))
    before = everything(engine)
    assert fleet.suspend("t-000001", asked("2")).state is TenantState.SUSPENDED
    assert fleet.move("t-000001", asked("3"), to="eu-000").shard == "eu-000"
    assert everything(engine) == before


def test_a_change_without_its_receipt_is_no_change(
    engine: Engine, fleet: FleetStore, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("no ledger")

    monkeypatch.setattr(ledger, "append", broken)
    before = everything(engine)
    with pytest.raises(OSError, match="no ledger"):
        fleet.create_tenant("acme", asked("1"))
    assert everything(engine) == before


# Reading


def test_find_knows_only_exact_names(fleet: FleetStore) -> None:
    assert fleet.find("t-000001") is not None
    for name in ("t-00000", "T-000001", "t-000001\n", "t-00000%", "", "' OR 1=1 --"):
        assert fleet.find(name) is None


def test_list_pages_through_everything_once(fleet: FleetStore) -> None:
    seen: list[str] = []
    after = None
    while True:
        page = fleet.list(limit=7, after=after)
        seen += [tenant.id for tenant in page.tenants]
        after = page.after
        if after is None:
            break
    assert seen == [tenant.id for tenant in LAYOUT.tenants_of("eu")]


def test_list_filters(fleet: FleetStore) -> None:
    fleet.suspend("t-000002", asked("1"))
    assert [t.id for t in fleet.list(state=TenantState.SUSPENDED).tenants] == ["t-000002"]
    assert len(fleet.list(shard="eu-001").tenants) == 6
    assert {t.shard for t in fleet.list(zone="b").tenants} == {"eu-001", "eu-004"}
    assert [t.id for t in fleet.list(prefix="t-00000").tenants] == [
        f"t-00000{n}" for n in range(1, 7)
    ]
    assert fleet.list(prefix="acme").tenants == []


def test_the_catalog_counts_tenants_and_sizes(fleet: FleetStore) -> None:
    placed = list(LAYOUT.tenants_of("eu"))
    for shard in fleet.catalog():
        sizes = [tenant.size for tenant in placed if tenant.shard == shard.shard]
        assert (shard.tenants, shard.weight) == (len(sizes), sum(sizes))
        assert (shard.region, shard.release) == ("eu", None)


def test_the_catalog_has_shards_without_tenants(fleet: FleetStore) -> None:
    for tenant in fleet.list(shard="eu-000").tenants:
        fleet.move(tenant.id, asked(tenant.id), to="eu-001")
    empty = fleet.catalog()[0]
    assert (empty.shard, empty.tenants, empty.weight) == ("eu-000", 0, 0)


def test_stats_add_up(fleet: FleetStore) -> None:
    fleet.suspend("t-000001", asked("1"))
    stats = fleet.stats()
    sizes = [tenant.size for tenant in LAYOUT.tenants_of("eu")]
    assert (stats.shards, stats.tenants, stats.suspended) == (5, 30, 1)
    assert (stats.size, stats.largest) == (sum(sizes), max(sizes))
    assert (stats.fewest_in_a_shard, stats.most_in_a_shard) == (6, 6)
