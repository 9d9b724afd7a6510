"""Receipts and checkpoints stay: the database refuses to change or remove one."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from models.receipts import Draft
from stores.checkpoints import Notary
from stores.keys import ensure_key
from stores.ledger import Ledger
from stores.retention import REFUSAL, expected_guards, guards, lift
from stores.sql import create_all, read, write

pytest_plugins = ["databases"]


@pytest.fixture
def ledger(engine: Engine, tmp_path: Path) -> Ledger:
    """Three receipts, the first of them eight years old, and a checkpoint."""
    made = Ledger(engine, "eu", clock=lambda: datetime(2018, 1, 1, tzinfo=UTC))
    for number in range(3):
        body = {"number": number}
        made.append(
            [Draft(kind="a.b", actor="x", subject="y", body=body, idempotency_key=str(number))]
        )
    Notary(made, ensure_key(tmp_path / "keys" / "eu.pem")).checkpoint()
    return made


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM receipt",
        "DELETE FROM receipt WHERE seq = 2",
        "UPDATE receipt SET kind = 'c.d' WHERE seq = 1",
        "UPDATE receipt SET data = data",
        "DELETE FROM checkpoint",
        "UPDATE checkpoint SET note = ''",
    ],
)
def test_nothing_changes_or_removes_a_receipt_or_a_checkpoint(
    engine: Engine, ledger: Ledger, statement: str
):
    before = [stored.data for stored in ledger.read()]
    with pytest.raises(DBAPIError, match=REFUSAL), write(engine) as connection:
        connection.execute(text(statement))
    assert [stored.data for stored in ledger.read()] == before
    with read(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM checkpoint")).scalar() == 1


def test_nothing_replaces_a_receipt_in_passing(engine: Engine, ledger: Ledger):
    if engine.dialect.name == "sqlite":
        statement = (
            "INSERT OR REPLACE INTO receipt SELECT ledger, seq, prev, 'c.d', subject, "
            "idempotency_key, data FROM receipt WHERE seq = 1"
        )
    else:
        statement = "TRUNCATE receipt"
    with pytest.raises(DBAPIError, match=REFUSAL), write(engine) as connection:
        connection.execute(text(statement))
    assert ledger.get(1).kind == "a.b"


def test_a_database_without_guards_gets_them_when_it_is_opened(engine: Engine, ledger: Ledger):
    with write(engine) as connection:
        lift(connection)
        assert guards(connection) == set()
    create_all(engine)
    with read(engine) as connection:
        assert guards(connection) == expected_guards(connection)
    with pytest.raises(DBAPIError, match=REFUSAL), write(engine) as connection:
        connection.execute(text("DELETE FROM receipt"))


def test_appending_goes_on(ledger: Ledger):
    draft = Draft(kind="a.b", actor="x", subject="y", body={}, idempotency_key="more")
    assert ledger.append([draft])[0].seq == 3
    assert ledger.append([draft])[0].replayed
