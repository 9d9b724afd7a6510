import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from models.gate_policy import GatePolicy
from models.judge import judge
from models.observation import CohortSnapshot, Histogram, RegionObservation
from models.receipts import Draft
from models.verdict import gather_evidence
from stores.ledger import Ledger
from stores.sql import create_all, open_engine
from workers.cli import verdict as command

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
ROLLOUT = "rollout/catalog-1.1.0/1"


def observation(look: int, errors: int) -> RegionObservation:
    at = BEGIN + timedelta(seconds=look)
    cohorts = {
        name: CohortSnapshot(
            release="sha256:" + letter * 64,
            at=at,
            source="one",
            requests=2000 * look,
            errors=errors * look if name == "candidate" else 0,
            latency=Histogram(bounds=[10.0, 50.0], counts=[1900 * look, 2000 * look, 2000 * look]),
            memory_mb=100.0,
        )
        for name, letter in (("candidate", "c"), ("baseline", "b"))
    }
    return RegionObservation(region="eu", at=at, **cohorts)


def body(ring: str = "canary", errors: int = 0) -> dict[str, Any]:
    evidence = gather_evidence(
        ring=ring,
        look=1,
        looks=1,
        policy=GatePolicy(looks=1),
        start=[observation(0, errors)],
        series=[[observation(1, errors)]],
        expects_baseline=True,
    )
    return {
        "ring": ring,
        "evidence": evidence.model_dump(mode="json"),
        "verdict": judge(evidence).model_dump(mode="json"),
    }


def draft(body: dict[str, Any], key: str, subject: str = ROLLOUT, kind: str = "gate.verdict"):
    return Draft(kind=kind, actor="chainring", subject=subject, body=body, idempotency_key=key)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The control plane's ledger of a home that holds nothing else."""
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path))
    url = f"sqlite:///{tmp_path}/control/control.db"
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "addresses.json").write_text(
        json.dumps(
            {
                "temporal": {"address": "x:1", "namespace": "default", "task_queue": "control"},
                "worker": {"health_port": 0, "metrics_port": 0},
                "database": url,
                "signing_key": "key.pem",
                "config": "config.toml",
                "releases": "releases",
            }
        )
    )
    engine = open_engine(url)
    create_all(engine)
    return Ledger(engine, "control")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command.app, list(arguments))


def test_a_receipt_of_the_ledger_replays(ledger: Ledger):
    ledger.append([draft({"a": 1}, "0", kind="rollout.started"), draft(body(), "1")])
    result = run("replay", "--seq", "1", "--json")
    assert result.exit_code == 0, result.output
    [replayed] = json.loads(result.stdout)
    assert replayed["match"] is True
    assert (replayed["receipt"], replayed["ring"]) == ("control 1", "canary")
    assert replayed["recorded"] == replayed["replayed"] == "pass"


def test_all_verdicts_of_a_rollout_replay(ledger: Ledger):
    ledger.append(
        [
            draft(body("canary"), "1"),
            draft(body("5%", errors=100), "2"),
            draft(body("canary"), "3", subject="rollout/other/1"),
        ]
    )
    result = run("replay", "--rollout", ROLLOUT, "--json")
    assert result.exit_code == 0, result.output
    outcomes = [(each["ring"], each["replayed"]) for each in json.loads(result.stdout)]
    assert outcomes == [("canary", "pass"), ("5%", "fail")]
    table = run("replay", "--rollout", ROLLOUT)
    assert table.exit_code == 0
    assert table.stdout.count("match") == 2


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("verdict", "outcome"), "pass"),
        (("verdict", "metrics", 1, "candidate"), 0.001),
        (("evidence", "policy", "error_rate"), 0.5),
        (("evidence", "newest", 0, "candidate", "errors"), 0),
    ],
)
def test_a_changed_receipt_does_not_match(tmp_path: Path, path: tuple[Any, ...], value: object):
    receipt = body(errors=100)
    part: Any = receipt
    for step in path[:-1]:
        part = part[step]
    assert part[path[-1]] != value
    part[path[-1]] = value
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(receipt))
    result = run("replay", str(file), "--json")
    assert result.exit_code == 1
    [replayed] = json.loads(result.stdout)
    assert not replayed["match"]
    assert replayed["differences"]


def test_a_file_with_one_receipt_and_an_export_with_many(ledger: Ledger, tmp_path: Path):
    ledger.append([draft({"a": 1}, "0", kind="rollout.started"), draft(body(), "1")])
    lines = [stored.data for stored in ledger.read()]
    one, many = tmp_path / "one.json", tmp_path / "many.jsonl"
    one.write_text(json.dumps(json.loads(lines[1]), indent=2))
    many.write_bytes(b"\n".join(lines) + b"\n")
    for file in (one, many):
        result = run("replay", str(file), "--json")
        assert result.exit_code == 0, result.output
        assert [each["receipt"] for each in json.loads(result.stdout)] == ["control 1"]


def test_show_prints_the_verdict(ledger: Ledger):
    ledger.append([draft(body(errors=100), "1")])
    result = run("show", "--seq", "0")
    assert result.exit_code == 0, result.output
    assert "FAIL" in result.stdout
    assert "error_rate" in result.stdout
    as_json = run("show", "--seq", "0", "--json")
    assert json.loads(as_json.stdout)[0]["outcome"] == "fail"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[]", "not a receipt"),
        ('{"a": 1, "a": 2}', "occurs twice"),
        ('{"kind": "shard.activated", "body": {}}', "no receipt of kind gate.verdict"),
        ('{"kind": "gate.verdict", "body": {}}', "has evidence and a verdict"),
        ('{"body": {"verdict": {}, "evidence": {"ring": "x"}}}', "evidence.look"),
    ],
)
def test_a_file_that_is_no_receipt(tmp_path: Path, content: str, message: str):
    file = tmp_path / "receipt.json"
    file.write_text(content)
    result = run("replay", str(file))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_bad_usage(ledger: Ledger, tmp_path: Path):
    for arguments in ([], ["--seq", "1", "--rollout", "x"], [str(tmp_path / "absent.json")]):
        assert run("replay", *arguments).exit_code == 2
    assert run("replay", "--seq", "99").exit_code == 2
    assert run("replay", "--rollout", "rollout/none/1").exit_code == 2
