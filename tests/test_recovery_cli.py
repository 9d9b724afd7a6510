"""`chainring recovery` against a region that runs: drills, incidents, and the report of both."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import typer
from recovery_harness import REGION
from restore_harness import QUEUE, Recovery, lose_a_segment, recovery_worker
from rollout_harness import Plane
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from test_validate_backup import flip_a_chunk
from typer.testing import CliRunner

from models.backup_retention import NONE, Limits
from workers.cli import backup, drills, drills_history, recovery_runs
from workers.cli.ledgers import LedgerPlace
from workers.cli.recovery import app

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

BY = ("--actor", "ana", "--reason", "by hand")


@pytest_asyncio.fixture(loop_scope="session")
async def recovery(
    plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Recovery]:
    address = plane.client.service_client.config.target_host
    namespace = plane.client.namespace

    async def region_client(_region: str) -> Client:
        return await Client.connect(
            address, namespace=namespace, data_converter=pydantic_data_converter
        )

    for module in (drills, recovery_runs):
        monkeypatch.setattr(module, "region_client", region_client)
    monkeypatch.setattr(recovery_runs, "RECOVERY_QUEUE", QUEUE)
    async with recovery_worker(tmp_path, plane.client) as made:
        place = LedgerPlace(REGION, made.url, made.backup.key.path)
        monkeypatch.setattr(drills_history, "find_ledger", lambda _name: place)
        made.backup.work(8)
        made.backup.snapshot()
        made.backup.work(4)
        made.backup.ship()
        yield made


async def _run(*words: str, to: typer.Typer = app) -> tuple[int, Any]:
    done = await asyncio.to_thread(CliRunner().invoke, to, list(words))
    return done.exit_code, json.loads(done.stdout) if "--json" in words else done.stdout


async def test_a_drill_by_hand_and_the_report_of_it(recovery: Recovery, tmp_path: Path) -> None:
    code, said = await _run("drill", REGION, *BY, "--json")
    assert code == 0 and said["state"] == "proved" and said["result"]["compared"]["same"]

    key = tmp_path / "eu.vkey"
    key.write_text(recovery.backup.key.public(REGION).vkey())
    report = ("report", str(tmp_path / "certificates"), "--key", str(key), "--region", REGION)
    code, found = await _run(*report, "--json")
    assert code == 0 and [each["verdict"] for each in found["drills"]] == ["proved"]
    assert [each["kind"] for each in found["recoveries"]] == ["drill"] and not found["incidents"]
    assert "proved" in (await _run(*report))[1]


async def test_an_incident_is_listed_and_decided(recovery: Recovery) -> None:
    lose_a_segment(recovery)
    code, said = await _run("drill", REGION, *BY)
    assert code == 1 and "are missing" in said.replace("\n", " ")
    code, [incident] = await _run("incidents", REGION, "--json")
    assert code == 1 and incident["request"]["kind"] == "drill-failed"

    assert (await _run("acknowledge", REGION, incident["id"], *BY))[0] == 0
    assert (await _run("resolve", REGION, incident["id"], *BY))[0] == 0
    assert await _run("incidents", REGION, "--json") == (0, [])
    await recovery.client.get_workflow_handle(incident["id"]).result()  # its receipts are written
    found = drills_history.history(REGION)
    assert [each["now"] for each in found["incidents"]] == ["resolved by ana"]


async def test_a_backup_is_read_sampled_and_mended_by_command(recovery: Recovery) -> None:
    code, said = await _run("validate", REGION, "--json", to=backup.app)
    assert code == 0 and said["state"] == "sound" and said["report"]["objects"] > 3
    code, said = await _run("validate", REGION, "--sample", to=backup.app)
    assert code == 0 and "documents restored" in said
    name = flip_a_chunk(recovery.backup)
    code, said = await _run("validate", REGION, "--json", to=backup.app)
    assert code == 1 and [each["name"] for each in said["report"]["bad"]] == [name]
    assert said["snapshot"] and said["incident"]


async def test_a_backup_is_planned_and_pruned_by_command(recovery: Recovery) -> None:
    recovery.close()
    recovery.backup.work(4)
    recovery.backup.snapshot()
    code, said = await _run("prune", REGION, to=backup.app)
    assert code == 0 and "nothing is old enough" in said
    recovery.limits = Limits(retention=NONE, step=NONE)
    code, said = await _run("prune", REGION, "--plan", "--json", to=backup.app)
    assert code == 0 and said["plan"]["counts"]["snapshots"] == 1 and said["pruned"] is None
    code, said = await _run("prune", REGION, to=backup.app)
    assert code == 0 and "gone: snapshots" in said
    recovery.limits = Limits(retention=NONE, step=NONE, stale=-timedelta(seconds=1))
    code, said = await _run("prune", REGION, "--json", to=backup.app)
    assert code == 1 and said["state"] == "refused" and said["incident"]
