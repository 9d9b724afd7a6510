"""`chainring certificate` and `chainring recovery report`, over files alone."""

import json
from pathlib import Path

import pytest
from certificate_harness import ACCEPTED, EU, OTHER, SHORT, WHOLE, forged, later, verify
from typer.testing import CliRunner, Result

from models.config_recovery import Sla
from models.recovery_report import recovery_report
from models.restore import Finding, Phase
from models.restore_certificate import Times
from workers.cli import app

SLOW = EU.certificate(
    EU.report(
        last_change_at=later(-4000), phases=(Phase(name="healing check", seconds=2000, amount=1),)
    ),
    times=Times(
        last_acknowledged_at=later(-300),
        detected_at=later(0),
        failed_over_at=later(301),
        started_at=later(400),
        finished_at=later(2500),
    ),
)
DRILL = EU.certificate(
    kind="drill", times=Times(started_at=later(-86400), finished_at=later(-86400 + 200))
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "250")
    (tmp_path / "eu.vkey").write_text(EU.public.vkey() + "\n")
    (tmp_path / "us.vkey").write_text(OTHER.called("us").public.vkey() + "\n")
    (tmp_path / "100.note").write_bytes(EU.head(100))
    (tmp_path / "101.note").write_bytes(EU.head(101))
    (tmp_path / "whole.json").write_bytes(WHOLE)
    (tmp_path / "short.json").write_bytes(SHORT)
    return tmp_path


def verify_command(place: Path, file: str, *more: object, head: str = "100.note") -> Result:
    key = ("--key", place / "us.vkey", "--key", place / "eu.vkey")
    return run("certificate", "verify", place / file, *key, "--head", place / head, *more)


def test_verify_tells_a_person_and_a_script(place: Path) -> None:
    said = verify_command(place, "whole.json")
    assert said.exit_code == 0, said.output
    assert "verified" in said.stdout and "complete" in said.stdout and "370.0 s" in said.stdout
    answer = json.loads(verify_command(place, "short.json", "--json").stdout)
    assert (answer["verified"], answer["verdict"], answer["missing"], answer["heads"]) == (
        True,
        "incomplete, accepted",
        30,
        1,
    )
    text = verify_command(place, "short.json").stdout
    assert "71 to 100: a segment is missing" in text
    assert f"{ACCEPTED.actor}: {ACCEPTED.reason}" in text


def test_verify_refuses_with_status_1(place: Path) -> None:
    said = verify_command(place, "whole.json", head="101.note")
    assert said.exit_code == 1 and "NOT VERIFIED" in said.stdout
    assert "an outsider knows head 101, the certificate is about 100" in said.stdout
    (place / "forged.json").write_bytes(forged(SHORT, missing=0))
    said = verify_command(place, "forged.json", "--json")
    assert said.exit_code == 1
    assert json.loads(said.stdout) == {
        "verified": False,
        "code": "wrong-gap",
        "detail": "missing: says 0, must be 30",
    }


@pytest.mark.parametrize("name", ["whole.json", "eu.vkey", "100.note"])
def test_a_file_that_cannot_be_read_is_bad_input(place: Path, name: str) -> None:
    (place / name).unlink()
    said = verify_command(place, "whole.json")
    assert said.exit_code == 2 and "No such file" in said.stderr


def test_what_is_no_key_is_bad_input(place: Path) -> None:
    (place / "eu.vkey").write_text("hello")
    said = verify_command(place, "whole.json")
    assert said.exit_code == 2 and "not a vkey" in said.stderr


def test_verify_needs_a_key_and_a_head(place: Path) -> None:
    assert run("certificate", "verify", place / "whole.json").exit_code == 2
    key = ("--key", place / "eu.vkey")
    assert run("certificate", "verify", place / "whole.json", *key).exit_code == 2


def test_show_says_that_it_verifies_nothing(place: Path) -> None:
    (place / "forged.json").write_bytes(forged(SHORT, missing=0))
    said = run("certificate", "show", place / "forged.json")
    assert said.exit_code == 0 and said.stdout.startswith("not verified")
    answer = json.loads(run("certificate", "show", place / "whole.json", "--json").stdout)
    assert answer["predicate"]["reached_seq"] == 100
    assert run("certificate", "show", place / "100.note").exit_code == 1


def test_text_of_a_certificate_does_nothing_to_the_terminal(place: Path) -> None:
    found = (Finding(where="eu/x", what="\x1b[2J[red]\rgone"),)
    (place / "odd.json").write_bytes(EU.certificate(EU.report(findings=found)))
    said = verify_command(place, "odd.json").stdout
    assert "\x1b[2J" not in said and "[red]" in said


# --- the report ---


def test_misses_are_named() -> None:
    made = recovery_report([verify(each) for each in (SLOW, WHOLE, DRILL, WHOLE)], Sla())
    assert [each.kind for each in made.recoveries] == ["drill", "restore", "restore"]
    assert {each.sla: (each.seconds, each.limit) for each in made.misses} == {
        "detect": (300, 30),
        "failover": (301, 300),
        "restore": (2100, 900),
        "healing": (2000, 1800),
        "RPO": (3700, 3600),
        "RTO": (2500, 1800),
    }
    assert {each.certificate for each in made.misses} == {verify(SLOW).digest}


def test_what_was_not_measured_is_no_miss() -> None:
    drill = recovery_report([verify(DRILL)], Sla(detect_failure_seconds=1)).recoveries[0]
    measured = {each.name: each.seconds for each in drill.measures}
    assert measured["detect"] is None and measured["failover"] is None
    assert not any(each.missed for each in drill.measures)


def test_a_promise_that_is_just_kept_is_no_miss() -> None:
    sla = Sla(
        detect_failure_seconds=20,
        initiate_failover_seconds=40,
        restore_from_backup_seconds=300,
        full_healing_seconds=51,
    )
    assert recovery_report([verify(WHOLE)], sla).misses == ()


def test_report_reads_a_directory(place: Path) -> None:
    folder = place / "certificates"
    folder.mkdir()
    for name, data in (("1", WHOLE), ("2", SLOW), ("3", DRILL), ("4", SHORT)):
        (folder / f"{name}.json").write_bytes(data)
    key = ("--key", place / "eu.vkey")
    said = run("recovery", "report", folder, *key)
    assert said.exit_code == 0, said.output
    assert said.stdout.count("MISS ") == 6 and "RTO of eu" in said.stdout
    assert run("recovery", "report", folder, *key, "--strict").exit_code == 1
    answer = json.loads(run("recovery", "report", folder, *key, "--json", "--rto", 5).stdout)
    assert sum(each["sla"] == "RTO" for each in answer["misses"]) == 3
    assert len(answer["recoveries"]) == 4 and answer["refused"] == []


def test_report_leaves_out_and_names_what_does_not_stand(place: Path) -> None:
    folder = place / "certificates"
    folder.mkdir()
    (folder / "good.json").write_bytes(WHOLE)
    (folder / "bad.json").write_bytes(forged(WHOLE, rto_seconds=1))
    key = ("--key", place / "eu.vkey")
    said = run("recovery", "report", folder, *key, "--json")
    answer = json.loads(said.stdout)
    assert said.exit_code == 1 and len(answer["recoveries"]) == 1
    assert [each["code"] for each in answer["refused"]] == ["wrong-times"]
    text = run("recovery", "report", folder, *key).stdout
    assert "NOT VERIFIED" in text and "rto_seconds: says 1.0, must be 370.0" in text


def test_report_of_nothing_is_bad_input(place: Path) -> None:
    empty = place / "none"
    empty.mkdir()
    said = run("recovery", "report", empty, "--key", place / "eu.vkey")
    assert said.exit_code == 2 and "no certificates" in said.stderr
