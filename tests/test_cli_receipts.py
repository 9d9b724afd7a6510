"""`chainring receipts` and `chainring events`, over a home with a control plane and two regions."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tampering
import typer
from typer.testing import CliRunner, Result

from models.receipts import Draft
from stores.keys import ensure_key
from stores.ledger import Ledger
from stores.sql import create_all, open_engine
from workers.cli.events import events
from workers.cli.receipts import app

BEGIN = datetime(2026, 11, 23, 8, tzinfo=UTC)
EVENTS = typer.Typer()
EVENTS.command()(events)


def run(*arguments: object, of: typer.Typer = app) -> Result:
    return CliRunner().invoke(of, [str(argument) for argument in arguments])


def _addresses(directory: Path, name: str) -> dict[str, object]:
    port = {"health_port": 0, "metrics_port": 0}
    shared = {
        "temporal": {"address": "x:1", "namespace": name, "task_queue": "q"},
        "worker": port,
        "database": f"sqlite:///{directory}/state.db",
        "signing_key": str(directory / "key.pem"),
        "config": "config.toml",
        "releases": "releases",
    }
    if name == "control":
        return shared
    gateway = {"port": 1, "admin_port": 1, "kv_port": 1, "directory": "envoy"}
    return {**shared, "region": name, "workdir": "work", "gateway": gateway}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Ledger]:
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    ledgers = {}
    minutes = iter(range(1000))
    for name in ("control", "eu", "latam"):
        directory = tmp_path / ("control" if name == "control" else f"regions/{name}")
        directory.mkdir(parents=True)
        (directory / "addresses.json").write_text(json.dumps(_addresses(directory, name)))
        ensure_key(directory / "key.pem")
        engine = open_engine(f"sqlite:///{directory}/state.db")
        create_all(engine)
        clock = lambda: BEGIN + timedelta(minutes=next(minutes))  # noqa: E731
        ledgers[name] = Ledger(engine, name, clock=clock)
    return ledgers


@pytest.fixture
def filled(home: dict[str, Ledger]) -> dict[str, Ledger]:
    home["control"].append([draft("start", "rollout.started", subject="rollout/web/1")])
    home["eu"].append([draft(n, "shard.activated", subject=f"eu-00{n}") for n in range(3)])
    home["latam"].append([draft(0, "shard.activated", subject="latam-000")])
    home["control"].append([draft("gate", "gate.verdict", subject="rollout/web/1")])
    return home


def draft(key: object, kind: str, subject: str = "x") -> Draft:
    return Draft(
        kind=kind, actor="test", subject=subject, body={"n": 1}, idempotency_key=f"{kind}/{key}"
    )


def damage(ledger: Ledger, statement: str) -> None:
    tampering.damage(ledger.engine, statement)


# --- list and show ---


def test_list(filled: dict[str, Ledger]):
    listed = json.loads(run("list", "eu", "--json").stdout)
    assert [each["seq"] for each in listed] == [0, 1, 2]
    assert listed[1]["hash"] == filled["eu"].get(1).hash  # type: ignore[union-attr]
    seqs: Callable[..., list[int]] = lambda *more: [  # noqa: E731
        each["seq"] for each in json.loads(run("list", "eu", "--json", *more).stdout)
    ]
    assert seqs("--limit", 2) == [1, 2]
    assert seqs("--from", 0, "--limit", 2) == [0, 1]
    assert seqs("--kind", "shard.activated", "--limit", 1) == [2]
    assert seqs("--subject", "eu-001") == [1]
    assert seqs("--kind", "other") == []
    table = run("list")
    assert table.exit_code == 0
    assert "rollout.started" in table.stdout
    assert "gate.verdict" in table.stdout


def test_show(filled: dict[str, Ledger]):
    stored = filled["eu"].get(2)
    assert stored is not None
    shown = json.loads(run("show", "eu", 2, "--json").stdout)
    assert shown == {**json.loads(stored.data), "hash": stored.hash}
    assert run("show", "eu", 2, "--raw").stdout_bytes == stored.data
    assert "eu-002" in run("show", "eu", 2).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "eu", "7"], 2, "seq: ledger eu has no receipt 7"),
        (["show", "mars", "0"], 2, "ledger: 'mars' is not one of: control, eu, latam"),
        (["verify", "mars"], 2, "ledger"),
        (["verify", "--file", "x"], 2, "ledger"),
        (["verify", "eu", "--file", "x"], 2, "x: No such file"),
        (["prove", "eu"], 2, "--seq or --goes-on-from"),
        (["prove", "eu", "--seq", "0"], 2, "no checkpoint yet"),
        (["show", "eu", "-1"], 2, ""),
        (["list", "eu", "--limit", "0"], 2, ""),
    ],
)
def test_bad_input_is_refused_in_one_line(
    filled: dict[str, Ledger], arguments: list[str], code: int, message: str
):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_no_home_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path / "nothing"))
    result = run("list")
    assert (result.exit_code, "chainring up" in result.stderr) == (3, True)


def test_reading_makes_no_database(filled: dict[str, Ledger], tmp_path: Path):
    filled["eu"].engine.dispose()
    for path in (tmp_path / "regions" / "eu").glob("state.db*"):
        path.unlink()
    result = run("verify", "eu")
    assert (result.exit_code, "does not exist" in result.stderr) == (3, True)
    assert not list((tmp_path / "regions" / "eu").glob("state.db*"))


# --- checkpoint and verify ---


def test_verify_all_before_and_after_signing(filled: dict[str, Ledger]):
    before = json.loads(run("verify", "--json").stdout)
    assert [(each["ledger"], each["signed"]) for each in before] == [
        ("control", 0),
        ("eu", 0),
        ("latam", 0),
    ]
    assert "no checkpoint yet" in run("verify", "eu").stdout
    made = json.loads(run("checkpoint", "--json").stdout)
    assert [(each["ledger"], each["size"]) for each in made] == [
        ("control", 2),
        ("eu", 3),
        ("latam", 1),
    ]
    assert run("checkpoint").exit_code == 0
    after = json.loads(run("verify", "--json", "--strict").stdout)
    assert [(each["verified"], each["signed"]) for each in after] == [
        (True, 2),
        (True, 3),
        (True, 1),
    ]
    assert "verified eu: 3 receipts, 3 signed" in run("verify").stdout


def test_verify_names_what_is_bad_and_goes_on_with_the_others(filled: dict[str, Ledger]):
    run("checkpoint")
    damage(filled["eu"], "DELETE FROM receipt WHERE seq = 1")
    result = run("verify", "--json")
    assert result.exit_code == 1
    control, eu, latam = json.loads(result.stdout)
    assert control["verified"]
    assert latam["verified"]
    assert (eu["verified"], eu["code"], eu["seq"]) == (False, "missing", 1)
    shown = run("verify", "eu")
    assert shown.exit_code == 1
    assert "NOT VERIFIED eu: missing: receipt 1:" in shown.stdout


def test_a_lost_tail_is_found_though_the_head_was_set_back(filled: dict[str, Ledger]):
    run("checkpoint")
    previous = filled["eu"].get(1).hash  # type: ignore[union-attr]
    damage(filled["eu"], "DELETE FROM receipt WHERE seq = 2")
    damage(filled["eu"], f"UPDATE ledger_head SET size = 2, hash = x'{previous}'")
    [eu] = json.loads(run("verify", "eu", "--json").stdout)
    assert (eu["code"], eu["seq"]) == ("truncated", 2)
    refused = run("checkpoint", "eu")
    assert (refused.exit_code, "its end is missing" in refused.stderr) == (1, True)


# --- export and prove ---


def test_an_export_verifies_with_what_came_with_it(filled: dict[str, Ledger], tmp_path: Path):
    run("checkpoint")
    out = tmp_path / "out"
    result = run("export", "eu", "--out", out, "--json")
    said = json.loads(result.stdout)
    assert (said["receipts"], said["checkpoints"]) == (3, 1)
    assert run("export", "eu", "--out", out).exit_code == 0
    command = [sys.executable, "-I", "verifier.py", "eu.jsonl", "--key", "eu.vkey"]
    done = subprocess.run(
        [*command, "--checkpoint", "checkpoints"],
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 receipts" in done.stdout
    assert run("verify", "eu", "--file", out / "eu.jsonl").exit_code == 0
    lines = (out / "eu.jsonl").read_bytes().splitlines(keepends=True)
    (out / "eu.jsonl").write_bytes(b"".join(lines[:2]))
    cut = run("verify", "eu", "--file", out / "eu.jsonl")
    assert (cut.exit_code, "truncated" in cut.stdout) == (1, True)


def test_proofs_verify_outside(filled: dict[str, Ledger], tmp_path: Path):
    run("checkpoint", "eu")
    filled["eu"].append([draft(n, "shard.activated", subject=f"eu-00{n}") for n in range(3, 7)])
    run("checkpoint", "eu")
    out = tmp_path / "out"
    run("export", "eu", "--out", out)
    for options, sentence in (
        (["--seq", 1], "receipt 1 is in chainring/eu of size 7"),
        (["--seq", 1, "--size", 3], "receipt 1 is in chainring/eu of size 3"),
        (["--goes-on-from", 3], "chainring/eu of size 7 goes on from size 3"),
    ):
        made = run("prove", "eu", *options, "--out", out / "proof.json")
        assert made.exit_code == 0, made.output
        done = subprocess.run(
            [sys.executable, "-I", "verifier.py", "--proof", "proof.json", "--key", "eu.vkey"],
            cwd=out,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, sentence in done.stdout) == (0, True), done.stdout
    assert json.loads(run("prove", "eu", "--seq", 0).stdout)["kind"] == "inclusion"
    for options in (["--seq", 7], ["--seq", 0, "--size", 5], ["--goes-on-from", 7, "--size", 3]):
        assert run("prove", "eu", *options).exit_code == 2


def test_the_public_key_and_nothing_private_is_printed(filled: dict[str, Ledger], tmp_path: Path):
    run("checkpoint")
    run("export", "eu", "--out", tmp_path / "out")
    printed = run("key", "eu").stdout
    assert printed == (tmp_path / "out" / "eu.vkey").read_text()
    assert printed.startswith("chainring/eu+")
    secret = (tmp_path / "regions" / "eu" / "key.pem").read_text().splitlines()[1]
    written = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert secret.encode() not in written


# --- events ---


def events_of(result: Result) -> list[tuple[str, int]]:
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return [(line["ledger"], line["seq"]) for line in lines]


def test_events_of_all_ledgers_by_time(filled: dict[str, Ledger]):
    everything = [("control", 0), ("eu", 0), ("eu", 1), ("eu", 2), ("latam", 0), ("control", 1)]
    assert events_of(run("--json", of=EVENTS)) == everything
    assert events_of(run("--json", "--region", "eu", of=EVENTS)) == everything[1:4]
    assert events_of(run("--json", "--kind", "shard", of=EVENTS)) == everything[1:5]
    assert events_of(run("--json", "--kind", "gate.verdict", of=EVENTS)) == everything[5:]
    assert events_of(run("--json", "--kind", "gate.v", of=EVENTS)) == []
    assert events_of(run("--json", "--tail", 1, of=EVENTS)) == [
        ("eu", 2),
        ("latam", 0),
        ("control", 1),
    ]
    after = run("--json", "--after", "eu=1", "--after", "control=0", of=EVENTS)
    assert events_of(after) == everything[3:]
    for_people = run(of=EVENTS).stdout
    assert "eu/1" in for_people
    assert "shard.activated" in for_people


@pytest.mark.parametrize("after", ["eu", "eu=x", "mars=1", "eu=-1", "=1"])
def test_a_bad_position_is_refused(filled: dict[str, Ledger], after: str):
    result = run("--after", after, of=EVENTS)
    assert (result.exit_code, "after" in result.stderr) == (2, True)


@contextmanager
def following(*arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    code = "import typer; from workers.cli.events import events; typer.run(events)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--follow", "--json", *arguments],
        stdout=subprocess.PIPE,
        bufsize=0,  # so that `select` sees what has not been read
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def next_event(process: "subprocess.Popen[bytes]") -> tuple[str, int]:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 30)
    assert ready, "no event within 30 s"
    line = json.loads(process.stdout.readline())
    return line["ledger"], line["seq"]


def test_following_sees_what_happens_and_goes_on_after_a_restart(filled: dict[str, Ledger]):
    positions = ["--after", "control=1", "--after", "eu=1", "--after", "latam=0"]
    with following(*positions) as process:
        assert next_event(process) == ("eu", 2)
        filled["latam"].append([draft("new", "shard.activated")])
        assert next_event(process) == ("latam", 1)
        filled["eu"].append([draft("new", "shard.activated")])
        assert next_event(process) == ("eu", 3)
    filled["eu"].append([draft("later", "shard.activated")])
    with following("--after", "eu=3", "--region", "eu") as again:
        assert next_event(again) == ("eu", 4)
