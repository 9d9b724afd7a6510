"""The ledger's contract, on SQLite and on PostgreSQL."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from postgres import fresh_database
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel
from tampering import tamper

from models.receipts import GENESIS, Draft, receipt_hash
from models.verifier import Refused
from stores.chain_check import check_ledger
from stores.checkpoints import CheckpointError, Notary
from stores.keys import ensure_key
from stores.ledger import (
    PAGE,
    FencedError,
    HeadMoved,
    IdempotencyConflict,
    Ledger,
    LedgerError,
)
from stores.sql import create_all, open_engine, read, write

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
RECEIPTS = SQLModel.metadata.tables["receipt"]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.db"
        return
    with fresh_database() as address:
        yield address


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    opened = open_engine(url)
    create_all(opened)
    yield opened
    opened.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine, "eu", clock=lambda: NOW)


def draft(
    key: object, *, kind: str = "shard.activated", subject: str = "eu-001", **body: object
) -> Draft:
    return Draft(kind=kind, actor="test", subject=subject, body=body, idempotency_key=f"key-{key}")


def drafts(count: int, start: int = 0) -> list[Draft]:
    return [draft(number) for number in range(start, start + count)]


# --- Append ---


def test_an_empty_ledger(ledger: Ledger):
    head = ledger.head()
    assert (head.size, head.hash, head.epoch) == (0, GENESIS, 0)
    assert list(ledger.read()) == []
    assert ledger.get(0) is None
    assert ledger.find("key-0") is None
    assert ledger.latest(kind="a.b", subject="x") is None
    assert ledger.append([]) == []
    assert check_ledger(ledger).size == 0


def test_each_receipt_names_the_one_before_it(ledger: Ledger):
    first = ledger.append([draft("a", n=1)])
    rest = ledger.append([draft("b"), draft("c")])
    stored = list(ledger.read())
    assert [each.seq for each in stored] == [0, 1, 2]
    assert [each.receipt.prev for each in stored] == [GENESIS, stored[0].hash, stored[1].hash]
    assert [each.hash for each in [*first, *rest]] == [each.hash for each in stored]
    assert [each.hash for each in stored] == [receipt_hash(each.data) for each in stored]
    assert stored[0].receipt.body == {"n": 1}
    assert stored[0].receipt.at == "2026-11-23T08:00:00.000000Z"
    assert (ledger.head().size, ledger.head().hash) == (3, stored[2].hash)


def test_two_ledgers_in_one_database_are_apart(engine: Engine, ledger: Ledger):
    other = Ledger(engine, "latam")
    ledger.append(drafts(3))
    other.append(drafts(2))
    assert (ledger.head().size, other.head().size) == (3, 2)
    assert {each.receipt.ledger for each in other.read()} == {"latam"}
    assert check_ledger(ledger, strict=True).size == 3
    assert check_ledger(other, strict=True).size == 2


@pytest.mark.parametrize("name", ["", "EU", "a/b", "a\n", "x" * 40])
def test_a_bad_name_is_refused(engine: Engine, name: str):
    with pytest.raises(ValueError, match="ledger"):
        Ledger(engine, name)


def test_an_append_is_seen_by_a_new_engine(url: str, ledger: Ledger):
    ledger.append(drafts(2))
    again = open_engine(url)
    assert Ledger(again, "eu").head() == ledger.head()
    again.dispose()


# --- Idempotency ---


def test_the_same_key_and_content_is_the_same_receipt(ledger: Ledger):
    once = ledger.append([draft("a", n=1), draft("b")])
    again = ledger.append([draft("b"), draft("c"), draft("a", n=1)])
    assert [each.replayed for each in once] == [False, False]
    assert [(each.seq, each.replayed) for each in again] == [(1, True), (2, False), (0, True)]
    assert again[2].hash == once[0].hash
    assert ledger.head().size == 3


def test_the_same_key_twice_in_a_batch(ledger: Ledger):
    answers = ledger.append([draft("a"), draft("b"), draft("a")])
    assert [(each.seq, each.replayed) for each in answers] == [(0, False), (1, False), (0, True)]
    assert ledger.head().size == 2


def test_a_replay_may_come_from_another_run(ledger: Ledger):
    ledger.append([draft("a").model_copy(update={"run_id": "1"})])
    [answer] = ledger.append([draft("a").model_copy(update={"run_id": "2", "workflow_id": "w"})])
    assert answer.replayed


@pytest.mark.parametrize(
    "other",
    [
        draft("a", n=2),
        draft("a", n=1, kind="shard.rolled-back"),
        draft("a", n=1, subject="eu-002"),
        draft("a", n=1).model_copy(update={"actor": "else"}),
    ],
)
def test_the_same_key_with_other_content_is_refused(ledger: Ledger, other: Draft):
    ledger.append([draft("a", n=1)])
    before = ledger.head()
    with pytest.raises(IdempotencyConflict, match="key-a"):
        ledger.append([draft("new"), other])
    with pytest.raises(IdempotencyConflict):
        ledger.append([draft("b", n=1), draft("b", n=2)])
    assert ledger.head() == before
    assert ledger.find("key-new") is None


def test_numbers_that_are_spelled_alike_are_equal(ledger: Ledger):
    ledger.append([draft("a", n=1.0)])
    assert ledger.append([draft("a", n=1)])[0].replayed


def test_many_keys_at_once_are_all_looked_up(ledger: Ledger):
    ledger.append(drafts(1200))
    answers = ledger.append(drafts(1201))
    assert [each.replayed for each in answers] == [True] * 1200 + [False]


# --- Fencing ---


def test_a_lower_epoch_is_fenced(engine: Engine, ledger: Ledger):
    Ledger(engine, "eu", epoch=2).append([draft("a")])
    assert ledger.head().epoch == 2
    for epoch in (0, 1):
        with pytest.raises(FencedError, match=f"epoch {epoch} is fenced"):
            Ledger(engine, "eu", epoch=epoch).append([draft("b")])
    Ledger(engine, "eu", epoch=2).append([draft("b")])
    Ledger(engine, "eu", epoch=3).append([draft("b")])  # a replay, but the epoch counts
    assert (ledger.head().size, ledger.head().epoch) == (2, 3)
    with pytest.raises(FencedError):
        Ledger(engine, "eu", epoch=2).append([draft("c")])


# --- Inside a caller's transaction ---


def test_receipts_commit_and_roll_back_with_the_caller(engine: Engine, ledger: Ledger):
    with write(engine) as connection:
        ledger.append([draft("a")], connection=connection)
        assert ledger.head(connection=connection).size == 1
        assert ledger.find("key-a", connection=connection) is not None
        ledger.append([draft("b")], connection=connection)
        assert ledger.head().size == 0
    assert ledger.head().size == 2
    with pytest.raises(RuntimeError), write(engine) as connection:
        ledger.append([draft("c")], connection=connection)
        raise RuntimeError
    assert ledger.head().size == 2
    ledger.append([draft("d")])
    assert check_ledger(ledger, strict=True).size == 3


# --- Concurrency ---


def _append_many(url: str, name: str, barrier: object) -> None:
    engine = open_engine(url)
    ledger = Ledger(engine, "eu")
    barrier.wait()  # type: ignore[attr-defined]
    for number in range(25):
        ledger.append([draft(f"{name}-{number}"), draft(f"shared-{number}")])
    engine.dispose()


def test_processes_that_append_at_once_never_fork_the_chain(url: str, ledger: Ledger):
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    workers = [spawn.Process(target=_append_many, args=(url, name, barrier)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert ledger.head().size == 75
    assert check_ledger(ledger, strict=True).size == 75


def test_threads_that_create_the_ledger_at_once(engine: Engine, ledger: Ledger):
    barrier = threading.Barrier(6)
    failures: list[BaseException] = []

    def append(name: int) -> None:
        barrier.wait()
        try:
            ledger.append([draft(name)])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=append, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert check_ledger(ledger, strict=True).size == 6


def test_a_moved_head_is_looked_at_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Where no lock holds others off, the compare-and-set finds it out, and the append retries."""
    ledger.append([draft("a")])
    stale, looks = ledger.head(), []
    real = ledger._open_head

    def stale_at_first(connection):  # as if another writer came between the look and the swap
        looks.append(1)
        fresh = real(connection)
        return stale if len(looks) == 1 else fresh

    Ledger(ledger.engine, "eu").append([draft("b")])
    monkeypatch.setattr(ledger, "_open_head", stale_at_first)
    assert ledger.append([draft("c")])[0].seq == 2
    assert len(looks) == 2
    looks.clear()
    with pytest.raises(HeadMoved), write(ledger.engine) as connection:
        ledger.append([draft("d")], connection=connection)
    assert check_ledger(ledger, strict=True).size == 3


# --- The table's own guard ---


@pytest.mark.parametrize("column", ["seq", "prev", "idempotency_key"])
def test_the_table_takes_no_second_receipt_with_one(engine: Engine, ledger: Ledger, column: str):
    ledger.append(drafts(2))
    with read(engine) as connection:
        rows = connection.execute(select(RECEIPTS).order_by(RECEIPTS.c.seq)).mappings().all()
    forged = {**rows[1], "seq": 9, "prev": b"\x01" * 32, "idempotency_key": "other"}
    forged[column] = rows[1][column]
    with pytest.raises(IntegrityError), write(engine) as connection:
        connection.execute(insert(RECEIPTS), forged)


def test_a_head_that_lost_its_count_stops_the_append(engine: Engine, ledger: Ledger):
    ledger.append(drafts(3))
    with write(engine) as connection:
        connection.execute(text("UPDATE ledger_head SET size = 2"))
    with pytest.raises(LedgerError, match="damaged"):
        ledger.append([draft("new")])


# --- Reading ---


def test_reading_by_range_kind_and_subject(ledger: Ledger):
    ledger.append(
        [
            draft(n, kind=f"kind.{n % 3}", subject=f"s-{n % 2}")
            for n in range(12)
        ]
    )  # fmt: skip
    seqs: Callable[..., list[int]] = lambda *a, **k: [s.seq for s in ledger.read(*a, **k)]  # noqa: E731
    assert seqs(9) == [9, 10, 11]
    assert seqs(2, limit=3) == [2, 3, 4]
    assert seqs(limit=0) == []
    assert seqs(kinds=["kind.1"]) == [1, 4, 7, 10]
    assert seqs(5, kinds={"kind.1", "kind.2"}, limit=2) == [5, 7]
    assert seqs(kinds=[]) == []
    assert seqs(subject="s-1", kinds=["kind.0"]) == [3, 9]
    newest = [s.seq for s in ledger.history(kind="kind.0", subject="s-1")]
    assert newest == [9, 3]
    latest = ledger.latest(kind="kind.0", subject="s-1")
    assert latest is not None
    assert (latest.seq, latest.kind) == (9, "kind.0")
    found = ledger.get(4)
    assert found is not None
    assert found.receipt.idempotency_key == "key-4"
    many = ledger.get_many([11, 4, 4, 77])
    assert {seq: stored.seq for seq, stored in many.items()} == {4: 4, 11: 11}
    assert len(ledger.get_many(range(2000))) == 12


def test_reading_goes_over_pages(ledger: Ledger):
    ledger.append(drafts(2 * PAGE + 5))
    assert [s.seq for s in ledger.read(3)] == list(range(3, 2 * PAGE + 5))
    assert sum(1 for _ in ledger.read(limit=PAGE + 1)) == PAGE + 1
    newest = [s.seq for s in ledger.history(kind="shard.activated", subject="eu-001")]
    assert newest == list(reversed(range(2 * PAGE + 5)))


@pytest.mark.parametrize("last", ["receipt_kind", "receipt_subject"])
def test_look_ups_use_their_indexes(tmp_path: Path, last: str):
    """SQLite has no statistics here, and breaks a tie by the order in which indexes were made."""
    engine = open_engine(f"sqlite:///{tmp_path}/plan.db")
    create_all(engine)
    [index] = [each for each in RECEIPTS.indexes if each.name == last]
    with write(engine) as connection:
        index.drop(connection)
        index.create(connection)
    where = {
        "kind = 'a' AND subject = 'x' ORDER BY seq DESC LIMIT 1": "receipt_subject",
        "kind IN ('a') AND subject = 'x' AND seq >= 0 ORDER BY seq LIMIT 9": "receipt_subject",
        "kind IN ('a') AND seq >= 0 ORDER BY seq LIMIT 9": "receipt_kind",
        "idempotency_key IN ('a','b','c','d','e','f','g','h')": "idempotency_key=?",
        "seq >= 5 ORDER BY seq LIMIT 10": "seq>?",
    }
    with read(engine) as connection:
        for condition, expected in where.items():
            query = f"SELECT data FROM receipt WHERE ledger = 'eu' AND {condition}"
            steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert len(steps) == 1, condition
            assert expected in steps[0][3], condition
    engine.dispose()


# --- Checkpoints of a ledger ---


@pytest.fixture
def notary(ledger: Ledger, tmp_path: Path) -> Notary:
    return Notary(ledger, ensure_key(tmp_path / "keys" / "eu.pem"))


def test_a_checkpoint_is_kept_in_the_database_and_outside(
    ledger: Ledger, notary: Notary, tmp_path: Path
):
    for size in (0, 3, 3, 10):
        ledger.append(drafts(size - ledger.head().size, ledger.head().size))
        made = notary.checkpoint()
        assert (made.size, made.head) == (size, ledger.head().hash)
    directory = tmp_path / "keys" / "checkpoints" / "eu"
    files = sorted(path.name for path in directory.iterdir())
    assert files == ["0.checkpoint", "10.checkpoint", "3.checkpoint"]
    with read(ledger.engine) as connection:
        rows = connection.execute(text("SELECT size, note FROM checkpoint")).all()
    assert {f"{row.size}.checkpoint": row.note for row in rows} == {
        name: (directory / name).read_text() for name in files
    }
    assert check_ledger(ledger, checkpoints=_signed(notary)).checkpoints == [0, 3, 10]


def test_a_checkpoint_without_the_stored_tree_is_the_same(ledger: Ledger, notary: Notary):
    ledger.append(drafts(5))
    notary.checkpoint()
    with write(ledger.engine) as connection:
        tamper(connection, "DELETE FROM checkpoint")
    ledger.append(drafts(4, 5))
    assert notary.checkpoint().root == check_ledger(ledger, checkpoints=_signed(notary)).root


@pytest.mark.parametrize("damage", ["cut", "truncated", "rewritten", "broken", "note"])
def test_nothing_is_signed_over_a_ledger_that_lost_its_past(
    ledger: Ledger, notary: Notary, damage: str
):
    ledger.append(drafts(6))
    notary.checkpoint()
    paths = notary.files.paths()
    if damage == "note":
        paths[0].write_text(paths[0].read_text().replace("\n6\n", "\n5\n"))
    else:
        _damage(ledger, damage)
    with pytest.raises(CheckpointError):
        notary.checkpoint()
    assert notary.files.paths() == paths


def _damage(ledger: Ledger, damage: str) -> None:
    if damage == "broken":  # the signed part is whole, and what follows does not follow it
        ledger.append(drafts(2, 6))
        statement = "UPDATE receipt SET data = (SELECT data FROM receipt WHERE seq = 7) "
        with write(ledger.engine) as connection:
            tamper(connection, statement + "WHERE seq = 6")
        return
    if damage == "cut":  # the database still remembers the tree that it no longer holds
        with write(ledger.engine) as connection:
            tamper(connection, "DELETE FROM receipt WHERE seq >= 4")
            connection.execute(text("UPDATE ledger_head SET size = 4"))
        return
    with write(ledger.engine) as connection:
        tamper(connection, "DELETE FROM receipt")
        tamper(connection, "DELETE FROM checkpoint")
        connection.execute(text("DELETE FROM ledger_head"))
    later = Ledger(ledger.engine, "eu", clock=lambda: NOW + timedelta(days=1))
    later.append(drafts(4 if damage == "truncated" else 8))


def _signed(notary: Notary) -> list:
    return notary.files.open([notary._key.public("eu")])


# --- Damage in the database ---


@pytest.mark.parametrize(
    ("damage", "code", "seq"),
    [
        ("UPDATE ledger_head SET size = 6", "truncated", 5),
        ("UPDATE ledger_head SET size = 4", "head-mismatch", 4),
        ("UPDATE ledger_head SET hash = (SELECT prev FROM receipt WHERE seq = 4)", None, 4),
        ("DELETE FROM receipt WHERE seq = 2", "missing", 2),
        ("DELETE FROM receipt WHERE seq = 4", "truncated", 4),
        ("DELETE FROM receipt WHERE seq = 0", "missing", 0),
        ("UPDATE receipt SET seq = seq + 1 WHERE seq = 4", "head-mismatch", None),
        ("UPDATE receipt SET data = (SELECT data FROM receipt r WHERE r.seq = 1) WHERE seq = 2",
         "duplicated", 1),
    ],
)  # fmt: skip
def test_damage_in_the_database_is_named(
    ledger: Ledger, damage: str, code: str | None, seq: int | None
):
    ledger.append(drafts(5))
    with write(ledger.engine) as connection:
        tamper(connection, damage)
    if "seq + 1" in damage:  # the receipts are whole; only an index column lies
        assert check_ledger(ledger).size == 5
        with pytest.raises(Refused, match="column seq"):
            check_ledger(ledger, strict=True)
        return
    for strict in (False, True):
        with pytest.raises(Refused) as refused:
            check_ledger(ledger, strict=strict)
        assert (refused.value.code, refused.value.seq) == (code or "head-mismatch", seq)


@pytest.mark.parametrize("column", ["kind", "subject", "idempotency_key"])
def test_an_index_column_that_lies_is_found_by_the_strict_check(ledger: Ledger, column: str):
    ledger.append(drafts(3))
    with write(ledger.engine) as connection:
        tamper(connection, f"UPDATE receipt SET {column} = 'lie.told' WHERE seq = 1")
    with pytest.raises(Refused, match=f"receipt 1: its column {column}"):
        check_ledger(ledger, strict=True)
