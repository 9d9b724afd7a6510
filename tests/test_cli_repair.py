"""`chainring receipts repair` over a home: the plan first, then the receipt, then the proof."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, text
from test_cli_receipts import _addresses, run

from models.receipts import Draft
from models.tables_receipts import LedgerHeadRow, ReceiptRow
from stores.checkpoints import Notary
from stores.keys import ensure_key
from stores.ledger import Ledger
from stores.pointer import Pointer, PrimaryPointer
from stores.sql import create_all, open_engine, read, table, write


def _ledger(path: Path) -> Ledger:
    engine = open_engine(f"sqlite:///{path}")
    create_all(engine)
    return Ledger(engine, "eu")


def _append(ledger: Ledger, start: int, end: int, salt: str = "") -> None:
    ledger.append(
        [
            Draft(
                kind="shard.activated",
                actor="region/eu",
                subject=f"s{number}",
                body={"salt": salt},
                idempotency_key=f"key-{salt}-{number}",
            )
            for number in range(start, end)
        ]
    )


def _copy(source: Ledger, into: Ledger, count: int) -> None:
    """What a restore brings back."""
    columns = "ledger, seq, prev, kind, subject, idempotency_key, data"
    with read(source.engine) as connection:
        query = f"SELECT {columns} FROM receipt WHERE seq < {count}"
        rows = [row._asdict() for row in connection.execute(text(query))]
    last = source.get(count - 1)
    assert last is not None
    with write(into.engine) as connection:
        connection.execute(insert(table(ReceiptRow)), rows)
        head = {"ledger": "eu", "size": count, "hash": bytes.fromhex(last.hash), "epoch": 0}
        connection.execute(insert(table(LedgerHeadRow)), head)


@pytest.fixture
def eu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A region restored to an earlier time: what was signed since then is not in its ledger."""
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    directory = tmp_path / "regions" / "eu"
    directory.mkdir(parents=True)
    (directory / "addresses.json").write_text(json.dumps(_addresses(directory, "eu")))
    key = ensure_key(directory / "key.pem")
    former, primary = _ledger(directory / "state.db"), _ledger(directory / "restored.db")
    _append(former, 0, 5)
    Notary(former, key).checkpoint()
    _append(former, 5, 9)
    Notary(former, key).checkpoint()
    _copy(former, primary, 7)
    _append(primary, 7, 8, salt="restored")
    PrimaryPointer(directory / "primary.json").move(
        Pointer(
            store="a" * 32,
            epoch=2,
            database=f"sqlite:///{directory}/restored.db",
            former=(f"sqlite:///{directory}/state.db",),
        )
    )
    return primary


def test_a_ledger_is_repaired_by_its_plan(eu: Ledger, tmp_path: Path) -> None:
    assert run("verify", "eu").exit_code == 1
    planned = run("repair", "eu", "--json")
    assert planned.exit_code == 1
    plan = json.loads(planned.stdout)
    assert plan["both branches share"]["size"] == 7 and plan["its receipts"] == "at hand"
    assert (plan["last valid receipt"], plan["signed on it"]) == (6, [9])
    assert eu.head().size == 8

    carry = ("repair", "eu", "--plan", plan["plan"], "--actor", "ana", "--reason", "to Monday")
    for _ in range(2):
        done = run(*carry, "--json")
        assert done.exit_code == 0, done.output
        assert (json.loads(done.stdout)["receipt"], json.loads(done.stdout)["signed"]) == (8, 9)

    verified = run("verify", "eu")
    assert verified.exit_code == 0 and "REPAIRED: receipt 8" in verified.stdout
    assert "size 9 is on a branch that was left" in verified.stdout
    [result] = json.loads(run("verify", "eu", "--strict", "--json").stdout)
    assert len(result["repaired"]) == 2
    assert run("repair", "eu").exit_code == 0
    assert run("checkpoint", "eu").exit_code == 0
    _hand_over(tmp_path)


def _hand_over(tmp_path: Path) -> None:
    """Somebody outside gets the same answer, and the branch that was left."""
    out = tmp_path / "handover"
    assert run("export", "eu", "--out", out).exit_code == 0
    [branch] = (out / "branches").iterdir()
    command = [sys.executable, "-I", "verifier.py", "eu.jsonl", "--key", "eu.vkey"]
    command += ["--checkpoint", "checkpoints", "--branch", str(branch)]
    told = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
    assert "REPAIRED: receipt 8" in told.stdout and "ABANDONED" in told.stdout


def test_a_plan_is_carried_out_by_somebody_for_a_reason(eu: Ledger) -> None:
    for given, field in (([], "actor"), (["--actor", "ana"], "reason")):
        refused = run("repair", "eu", "--plan", "0" * 64, *given)
        assert refused.exit_code == 2
        assert field in refused.stderr
    refused = run("repair", "eu", "--plan", "0" * 64, "--actor", "ana", "--reason", "x")
    assert refused.exit_code == 2 and "plan" in refused.stderr
    assert eu.head().size == 8
