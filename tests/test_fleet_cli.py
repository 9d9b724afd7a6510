"""The commands `chainring fleet` and `chainring tenants` on a home with two regions."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from models.addresses import GatewayAddress, RegionAddresses, TemporalAddress, WorkerAddress
from workers.cli import app

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path))
    for region in ("eu", "apac"):
        own = tmp_path / "regions" / region
        own.mkdir(parents=True)
        addresses = RegionAddresses(
            region=region,
            temporal=TemporalAddress(address="127.0.0.1:1", namespace=region, task_queue="region"),
            worker=WorkerAddress(health_port=0, metrics_port=0),
            database=f"sqlite:///{own}/fleet.db",
            signing_key=own / "key.pem",
            config=tmp_path / "config.toml",
            releases=tmp_path / "releases",
            workdir=own / "work",
            gateway=GatewayAddress(port=1, admin_port=2, directory=own, kv_port=3),
        )
        (own / "addresses.json").write_text(addresses.model_dump_json())
    return tmp_path


def run(*arguments: str, code: int = 0) -> Any:
    """The command's JSON, or its message when it is refused."""
    result = RUNNER.invoke(app, [*arguments, *(["--json"] if code in (0, 3) else [])])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code in (0, 3) else result.output


def test_seed_then_show() -> None:
    seeded = run("fleet", "seed", "--tenants", "20", "--shards", "4")
    assert [(one["region"], one["shards"], one["tenants"]) for one in seeded] == [
        ("apac", 2, 10),
        ("eu", 2, 10),
    ]
    assert all(one["replayed"] for one in run("fleet", "seed", "--tenants", "20", "--shards", "4"))
    shown = run("fleet", "show")
    assert [(one["generation"], len(one["shards"]), one["releases"]) for one in shown] == [
        (1, 2, {}),
        (1, 2, {}),
    ]


def test_a_seed_that_one_region_refuses_changes_no_region(home: Path) -> None:
    run("fleet", "seed", "--tenants", "20", "--shards", "4")
    (home / "regions" / "apac" / "fleet.db").rename(home / "gone")
    for suffix in ("-wal", "-shm"):
        (home / "regions" / "apac" / f"fleet.db{suffix}").unlink(missing_ok=True)
    from stores.sql import _engines

    _engines.clear()
    run("fleet", "seed", "--tenants", "30", "--shards", "4", code=2)
    assert [one["tenants"] for one in run("tenants", "stats")] == [0, 10]


def test_the_life_of_a_tenant() -> None:
    run("fleet", "seed", "--tenants", "20", "--shards", "4")
    assert run("tenants", "create", "acme", "--region", "eu", "--size", "7")["size"] == 7
    assert run("tenants", "suspend", "acme", "--reason", "unpaid")["state"] == "suspended"
    listed = run("tenants", "list", "--region", "eu", "--state", "suspended")
    assert [one["id"] for one in listed["tenants"]] == ["acme"]
    assert run("tenants", "resume", "acme")["state"] == "active"
    assert run("tenants", "move", "acme", "--to", "eu-001")["shard"] == "eu-001"
    assert run("tenants", "find", "acme")[0]["region"] == "eu"


def test_the_same_key_does_it_once() -> None:
    run("fleet", "seed", "--tenants", "20", "--shards", "4")
    once = run("tenants", "create", "acme", "--region", "eu", "--key", "k")
    assert run("tenants", "create", "acme", "--region", "eu", "--key", "k") == once


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ["fleet", "seed", "--tenants", "3", "--shards", "4"]),
        (2, ["tenants", "create", "Acme", "--region", "eu"]),
        (2, ["tenants", "create", "acme", "--region", "mars"]),
        (2, ["tenants", "suspend", "nobody"]),
        (2, ["tenants", "list", "--region", "eu", "--limit", "0"]),
        (1, ["tenants", "find", "nobody"]),
    ],
)
def test_refusals_have_their_exit_code(code: int, arguments: list[str]) -> None:
    run(*arguments, code=code)


def test_a_region_that_does_not_answer_hides_no_other(home: Path) -> None:
    run("fleet", "seed", "--tenants", "20", "--shards", "4")
    addresses = home / "regions" / "apac" / "addresses.json"
    told = json.loads(addresses.read_text())
    told["database"] = "postgresql+psycopg://nobody@127.0.0.1:1/gone"
    addresses.write_text(json.dumps(told))
    apac, eu = run("fleet", "show", code=3)
    assert "unreachable" in apac["problem"]
    assert (eu["problem"], eu["tenants"]) == (None, 10)
