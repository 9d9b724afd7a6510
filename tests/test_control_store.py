"""The control plane's store: the fleet lease, known-bad releases, catalogs; on both databases."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from models.contracts import ShardSummary
from models.receipts import Draft
from stores.control import ControlStore, NotTheHolder
from stores.ledger import IdempotencyConflict, Ledger

pytest_plugins = ["databases"]

NOW = datetime(2026, 11, 24, 8, tzinfo=UTC)
BAD = "sha256:" + "b" * 64
GOOD = "sha256:" + "a" * 64


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine, "control", clock=lambda: NOW)


@pytest.fixture
def store(engine: Engine, ledger: Ledger) -> ControlStore:
    return ControlStore(engine, ledger, clock=lambda: NOW)


def _draft(kind: str, key: str, **body: str) -> Draft:
    return Draft(kind=kind, actor="ana", subject=BAD, body=dict(body), idempotency_key=key)


def test_the_first_claim_gets_the_fleet_and_repeating_it_changes_nothing(
    store: ControlStore,
) -> None:
    claims = [store.claim("main", "rollout/a", "run-1") for _ in range(3)]

    assert {claim.epoch for claim in claims} == {1}
    assert store.holder("main") == "rollout/a"


def test_a_second_claim_is_told_who_has_the_fleet(store: ControlStore) -> None:
    store.claim("main", "rollout/a", "run-1")

    claim = store.claim("main", "rollout/b", "run-2")

    assert (claim.epoch, claim.holder) == (0, "rollout/a")
    assert store.holder("main") == "rollout/a"


def test_fleets_are_leased_apart(store: ControlStore) -> None:
    assert store.claim("main", "rollout/a", "run-1").epoch == 1
    assert store.claim("edge", "rollout/b", "run-2").epoch == 1
    assert store.holder("nowhere") == ""


def test_every_new_claim_has_a_higher_epoch(store: ControlStore) -> None:
    store.claim("main", "rollout/a", "run-1")
    store.release("main", "rollout/a")
    assert store.holder("main") == ""

    assert store.claim("main", "rollout/b", "run-2").epoch == 2
    assert store.claim("main", "rollout/b", "run-3").epoch == 3, "a new run of the holder"


def test_only_the_holder_that_was_named_is_replaced(store: ControlStore) -> None:
    store.claim("main", "rollout/a", "run-1")

    assert store.claim("main", "rollout/c", "run-3", instead_of="rollout/b").epoch == 0
    assert store.claim("main", "rollout/c", "run-3", instead_of="rollout/a").epoch == 2
    # Another one that saw the same holder end comes too late.
    assert store.claim("main", "rollout/d", "run-4", instead_of="rollout/a").epoch == 0


def test_of_many_claims_at_once_one_gets_the_fleet(store: ControlStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = [f"rollout/{number}" for number in range(16)]
        claims = list(pool.map(lambda name: store.claim("main", name, "run"), names))

    assert sorted(claim.epoch for claim in claims) == [0] * 15 + [1]
    assert {claim.holder for claim in claims} == {store.holder("main")}


def test_advancing_raises_the_epoch_once_a_phase(store: ControlStore) -> None:
    store.claim("main", "rollout/a", "run-1")

    assert [store.advance("main", "rollout/a", "rollback").epoch for _ in range(3)] == [2, 2, 2]
    assert store.advance("main", "rollout/a", "repair").epoch == 3


@pytest.mark.parametrize("holder", ["rollout/b", ""])
def test_only_the_holder_may_advance(store: ControlStore, holder: str) -> None:
    store.claim("main", "rollout/a", "run-1")
    store.release("main", "rollout/a")
    if holder:
        store.claim("main", holder, "run-2")

    with pytest.raises(NotTheHolder, match=f"fleet main: {holder or 'nobody'} does"):
        store.advance("main", "rollout/a", "rollback")

    assert store.holder("main") == holder


def test_a_new_claim_starts_without_the_phase_of_the_last_one(store: ControlStore) -> None:
    store.claim("main", "rollout/a", "run-1")
    store.advance("main", "rollout/a", "rollback")
    store.release("main", "rollout/a")

    assert store.claim("main", "rollout/b", "run-2").epoch == 3
    assert store.advance("main", "rollout/b", "rollback").epoch == 4


def test_one_that_is_not_the_holder_gives_nothing_back(store: ControlStore) -> None:
    store.claim("main", "rollout/a", "run-1")

    store.release("main", "rollout/b")
    store.release("edge", "rollout/b")

    assert store.holder("main") == "rollout/a"


def test_a_release_is_condemned_together_with_its_receipt(
    store: ControlStore, ledger: Ledger
) -> None:
    for _ in range(2):
        store.condemn(BAD, "rollout/a", "errors", _draft("release.condemned", "a/condemned"))

    assert store.known_bad() == {BAD: "errors"}
    assert [stored.kind for stored in ledger.read()] == ["release.condemned"]


def test_the_first_reason_is_kept(store: ControlStore, ledger: Ledger) -> None:
    store.condemn(BAD, "rollout/a", "errors", _draft("release.condemned", "a/condemned"))
    store.condemn(BAD, "rollout/b", "leaks", _draft("release.condemned", "b/condemned"))

    assert store.known_bad() == {BAD: "errors"}
    assert ledger.head().size == 2, "each rollout that found it bad has its receipt"


def test_no_release_is_condemned_without_its_receipt(store: ControlStore, ledger: Ledger) -> None:
    ledger.append([_draft("release.condemned", "key", why="one")])

    with pytest.raises(IdempotencyConflict):
        store.condemn(BAD, "rollout/a", "two", _draft("release.condemned", "key", why="two"))

    assert store.known_bad() == {}


def test_a_pardon_is_receipted_once_and_only_where_there_was_something_to_forgive(
    store: ControlStore, ledger: Ledger
) -> None:
    store.condemn(BAD, "rollout/a", "errors", _draft("release.condemned", "a/condemned"))

    assert store.pardon(BAD, _draft("release.pardoned", "one"))
    assert not store.pardon(BAD, _draft("release.pardoned", "two"))
    assert not store.pardon(GOOD, _draft("release.pardoned", "three"))

    assert store.known_bad() == {}
    assert [stored.kind for stored in ledger.read()] == ["release.condemned", "release.pardoned"]


def test_the_newest_catalog_of_a_region_is_kept(store: ControlStore) -> None:
    def shard(name: str, tenants: int) -> ShardSummary:
        return ShardSummary(shard=name, region="eu", tenants=tenants, weight=1, release=GOOD)

    store.keep_catalog("eu", [shard("eu-001", 1), shard("eu-002", 2)])
    store.keep_catalog("eu", [shard("eu-001", 3)])

    assert store.catalog("eu") == [shard("eu-001", 3)]
    assert store.catalog("apac") == []
