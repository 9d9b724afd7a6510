"""Activations: fenced, idempotent, receipted; and what can be rebuilt from the receipts alone."""

import multiprocessing
import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from models.contracts import ShardActivation
from models.fleet import FleetError, RouteTable, ShardRoute
from models.receipts import Draft
from models.seeding import FleetLayout
from stores.fleet import Asked, FleetStore
from stores.ledger import IdempotencyConflict, Ledger
from stores.shards import ACTIVATED, ShardStore, StaleEpoch
from stores.sql import create_all, open_engine, read

pytest_plugins = ["databases"]

SPAWN = multiprocessing.get_context("spawn")
NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
LAYOUT = FleetLayout(tenants=12, shards=4, regions=["eu"])
OLD, NEW, BAD = (f"sha256:{letter * 64}" for letter in "abc")


def draft(key: str, **body: str) -> Draft:
    return Draft(
        kind=ACTIVATED, actor="rollout", subject="eu-000", body=dict(body), idempotency_key=key
    )


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine, "eu", clock=lambda: NOW)


@pytest.fixture
def store(engine: Engine, ledger: Ledger) -> ShardStore:
    FleetStore(engine, ledger, "eu").seed(LAYOUT, actor="ana")
    return ShardStore(engine, ledger, "eu", clock=lambda: NOW)


def everything(engine: Engine) -> list[object]:
    """All that a refused change must leave as it was."""
    with read(engine) as connection:
        return [
            connection.execute(text(f"SELECT * FROM {name} ORDER BY 1, 2")).all()
            for name in ("region_state", "shard", "tenant", "ledger_head")
        ]


def activate(
    store: ShardStore, release: str, epoch: int, key: str, shard: str = "eu-000"
) -> tuple[ShardActivation, int]:
    return store.activate(shard=shard, release=release, epoch=epoch, draft=draft(key))


def test_an_activation_sets_the_release_and_counts_the_generation(store: ShardStore) -> None:
    activation, generation = activate(store, OLD, 1, "k")
    assert activation == ShardActivation(shard="eu-000", previous=None, release=OLD, seq=1)
    assert generation == store.generation() == 2
    shard = store.shards()[0]
    assert (shard.id, shard.release, shard.epoch, shard.activated_at) == ("eu-000", OLD, 1, NOW)
    assert store.shards()[1].release is None


def test_the_receipt_tells_everything(store: ShardStore, ledger: Ledger) -> None:
    activate(store, OLD, 1, "k1")
    store.activate(
        shard="eu-000",
        release=NEW,
        epoch=2,
        draft=Draft(
            kind="whatever",
            actor="ana",
            subject="elsewhere",
            body={"ring": "canary", "epoch": 99},
            workflow_id="rollout/1",
            run_id="r",
            idempotency_key="k2",
        ),
    )
    receipt = list(ledger.read())[-1].receipt
    assert (receipt.kind, receipt.subject, receipt.actor) == (ACTIVATED, "eu-000", "ana")
    assert (receipt.workflow_id, receipt.run_id) == ("rollout/1", "r")
    assert receipt.body == {
        "ring": "canary",
        "shard": "eu-000",
        "previous": OLD,
        "release": NEW,
        "epoch": 2,
        "generation": 3,
    }


def test_the_same_key_returns_what_was_recorded(engine: Engine, store: ShardStore) -> None:
    first = activate(store, OLD, 1, "k1")
    before = everything(engine)
    assert activate(store, OLD, 1, "k1") == first
    assert everything(engine) == before


def test_the_same_key_is_not_applied_again_after_later_activations(
    engine: Engine, store: ShardStore
) -> None:
    first = activate(store, OLD, 1, "k1")
    activate(store, NEW, 5, "k2")
    store.raise_epoch(9)
    before = everything(engine)
    assert activate(store, OLD, 1, "k1") == first
    assert everything(engine) == before
    assert store.shards()[0].release == NEW


@pytest.mark.parametrize(("shard", "release"), [("eu-001", OLD), ("eu-000", NEW)])
def test_the_same_key_for_something_else_is_refused(
    engine: Engine, store: ShardStore, shard: str, release: str
) -> None:
    activate(store, OLD, 1, "k")
    before = everything(engine)
    with pytest.raises(IdempotencyConflict):
        activate(store, release, 1, "k", shard=shard)
    assert everything(engine) == before


def test_a_key_of_another_kind_of_change_is_refused(
    engine: Engine, ledger: Ledger, store: ShardStore
) -> None:
    FleetStore(engine, ledger, "eu").suspend("t-000001", Asked("ana", "k"))
    with pytest.raises(IdempotencyConflict):
        activate(store, OLD, 1, "k")


def test_a_stale_epoch_is_refused_and_both_are_named(engine: Engine, store: ShardStore) -> None:
    activate(store, NEW, 7, "k1")
    before = everything(engine)
    with pytest.raises(StaleEpoch, match=r"epoch 6 is stale.*epoch 7") as stale:
        activate(store, OLD, 6, "k2")
    assert (stale.value.epoch, stale.value.highest) == (6, 7)
    assert everything(engine) == before


def test_an_activation_fences_the_whole_region(store: ShardStore) -> None:
    activate(store, NEW, 7, "k1")
    with pytest.raises(StaleEpoch, match="region eu has accepted epoch 7"):
        activate(store, OLD, 6, "k2", shard="eu-001")
    activate(store, NEW, 7, "k3", shard="eu-001")


def test_a_raised_epoch_is_kept(engine: Engine, ledger: Ledger, store: ShardStore) -> None:
    store.raise_epoch(4)
    store.raise_epoch(4)
    again = ShardStore(engine, ledger, "eu")
    assert again.epoch() == 4
    with pytest.raises(StaleEpoch, match=r"epoch 3 is stale.*epoch 4"):
        again.raise_epoch(3)
    with pytest.raises(StaleEpoch):
        activate(again, OLD, 3, "k")
    assert activate(again, OLD, 4, "k")[0].release == OLD


@pytest.mark.parametrize(
    ("field", "attempt"),
    [
        ("shard", lambda store: activate(store, OLD, 1, "k", shard="eu-999")),
        ("shard", lambda store: activate(store, OLD, 1, "k", shard="apac-000")),
        ("release", lambda store: activate(store, "v2", 1, "k")),
        ("release", lambda store: activate(store, OLD + "\n", 1, "k")),
        ("shard", lambda store: store.mark(["eu-000", "eu-999"], True)),
    ],
)
def test_a_refusal_names_the_field_and_changes_nothing(
    engine: Engine, store: ShardStore, field: str, attempt: Callable[[ShardStore], object]
) -> None:
    before = everything(engine)
    with pytest.raises(FleetError) as refused:
        attempt(store)
    assert refused.value.field == field
    assert everything(engine) == before


def test_no_release_without_its_receipt(
    engine: Engine, ledger: Ledger, store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("no ledger")

    before = everything(engine)
    monkeypatch.setattr(ledger, "append", broken)
    with pytest.raises(OSError, match="no ledger"):
        activate(store, OLD, 1, "k")
    assert everything(engine) == before


def test_activating_what_runs_already_is_recorded_as_such(store: ShardStore) -> None:
    activate(store, OLD, 1, "k1")
    activation, generation = activate(store, OLD, 2, "k2")
    assert activation.previous == activation.release == OLD
    assert generation == 3


def test_routes_are_a_table_of_one_generation(
    engine: Engine, ledger: Ledger, store: ShardStore
) -> None:
    activate(store, NEW, 1, "k", shard="eu-002")
    fleet = FleetStore(engine, ledger, "eu")
    fleet.suspend("t-000001", Asked("ana", "s"))
    fleet.move("t-000004", Asked("ana", "m"), to="eu-003")
    assert store.routes() == RouteTable(
        generation=4,
        shards=[
            ShardRoute("eu-000", None, ["t-000002", "t-000003"]),
            ShardRoute("eu-001", None, ["t-000005", "t-000006"]),
            ShardRoute("eu-002", NEW, ["t-000007", "t-000008", "t-000009"]),
            ShardRoute("eu-003", None, ["t-000004", "t-000010", "t-000011", "t-000012"]),
        ],
        suspended=["t-000001"],
    )


def test_mark_sets_and_clears(store: ShardStore) -> None:
    store.mark(["eu-001", "eu-003"], True)
    store.mark([], True)
    assert [shard.rolling for shard in store.shards()] == [False, True, False, True]
    store.mark(["eu-001"], False)
    assert [shard.rolling for shard in store.shards()] == [False, False, False, True]


def test_active_releases_are_counted_by_shard(store: ShardStore) -> None:
    assert store.active_releases() == {}
    for number, release in enumerate([OLD, NEW, OLD]):
        activate(store, release, 1, f"k{number}", shard=f"eu-00{number}")
    assert store.active_releases() == {OLD: 2, NEW: 1}


def test_last_good_is_the_newest_that_is_not_bad(store: ShardStore) -> None:
    assert store.last_good("eu-000", []) is None
    for number, release in enumerate([OLD, NEW, BAD]):
        activate(store, release, 1, f"k{number}")
    activate(store, BAD, 1, "elsewhere", shard="eu-001")
    assert store.last_good("eu-000", [BAD]) == NEW
    assert store.last_good("eu-000", [BAD, NEW]) == OLD
    assert store.last_good("eu-000", [BAD, NEW, OLD]) is None
    assert store.last_good("eu-000", []) == BAD
    assert store.last_good("eu-001", [BAD]) is None
    assert store.last_good("eu-002", [BAD]) is None


def test_a_region_that_was_never_seeded_has_nothing(engine: Engine, ledger: Ledger) -> None:
    empty = ShardStore(engine, ledger, "eu")
    assert empty.routes() == RouteTable(0, [], [])
    assert (empty.generation(), empty.epoch(), empty.shards()) == (0, 0, [])


def test_stale_epochs_survive_pickling() -> None:
    stale = pickle.loads(pickle.dumps(StaleEpoch("region eu", 1, 2)))
    assert (stale.where, stale.epoch, stale.highest) == ("region eu", 1, 2)


# Concurrency


def hammer(url: str, worker: int, epochs: list[int]) -> None:
    """Activate on all shards under several epochs; being fenced is an answer like another."""
    engine = open_engine(url)
    store = ShardStore(engine, Ledger(engine, "eu"), "eu")
    for number, epoch in enumerate(epochs):
        try:
            release = f"sha256:{epoch:064x}"
            store.activate(
                shard=f"eu-00{number % 4}",
                release=release,
                epoch=epoch,
                draft=draft(f"{epoch}/{number}", worker=str(epoch)),
            )
        except StaleEpoch:
            continue


def rebuilt(ledger: Ledger) -> dict[str, str]:
    """Each shard's release from the receipts alone, checking that they are one history."""
    current: dict[str, str] = {}
    epoch, generation = 0, 1
    for stored in ledger.read(kinds=[ACTIVATED]):
        body = stored.receipt.body
        assert body["previous"] == current.get(str(body["shard"]))
        assert int(str(body["epoch"])) >= epoch
        assert body["generation"] == generation + 1
        epoch, generation = int(str(body["epoch"])), generation + 1
        current[str(body["shard"])] = str(body["release"])
    return current


def test_threads_and_processes_make_one_history(
    engine: Engine, database: str, store: ShardStore, ledger: Ledger
) -> None:
    epochs = [1, 1, 1, 1, 2, 2, 3, 3, 2, 5, 5, 5]
    processes = [SPAWN.Process(target=hammer, args=(database, n, epochs)) for n in range(2)]
    threads = [
        threading.Thread(target=hammer, args=(database, n, epochs[::-1])) for n in range(2, 4)
    ]
    for worker in (*processes, *threads):
        worker.start()
    for worker in (*processes, *threads):
        worker.join()
    assert [process.exitcode for process in processes] == [0, 0]
    state = {shard.id: shard.release for shard in store.shards() if shard.release}
    assert rebuilt(ledger) == state
    assert store.epoch() == 5
    keys = [stored.receipt.idempotency_key for stored in ledger.read(kinds=[ACTIVATED])]
    assert len(keys) == len(set(keys))


def test_many_with_one_key_apply_it_once(store: ShardStore, ledger: Ledger) -> None:
    answers: list[tuple[ShardActivation, int]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(activate(store, OLD, 1, "one")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert len(set(map(repr, answers))) == 1
    assert len(list(ledger.read(kinds=[ACTIVATED]))) == 1


@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from(["activate", "raise"]),
            st.integers(1, 4),
            st.integers(0, 3),
            st.sampled_from([OLD, NEW]),
        ),
        max_size=15,
    )
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_order_of_calls_lets_an_older_epoch_through(
    calls: list[tuple[str, int, int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('fence')}/fleet.db")
    create_all(engine)
    ledger = Ledger(engine, "eu")
    FleetStore(engine, ledger, "eu").seed(LAYOUT, actor="ana")
    store = ShardStore(engine, ledger, "eu")
    highest, expected = 0, {}
    for number, (what, epoch, shard, release) in enumerate(calls):
        name = f"eu-00{shard}"
        try:
            if what == "raise":
                store.raise_epoch(epoch)
            else:
                activate(store, release, epoch, str(number), shard=name)
                expected[name] = release
            assert epoch >= highest
            highest = epoch
        except StaleEpoch as stale:
            # A shard names its own epoch, which may be below the region's.
            assert epoch < stale.highest <= highest
    assert rebuilt(ledger) == expected
    engine.dispose()
