"""Vulnerability data is loaded by a workflow, receipted, and makes the fleet be judged again."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rollout_harness import CONTROL_QUEUE, Fleet, failure_of, look
from temporalio.client import WorkflowHandle
from vulnerability_harness import archive, directory, nvd, nvd_file, osv

from models.vulnerability_data import RefreshReport

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

BELOW_2 = [{"introduced": "0"}, {"fixed": "2.0"}]
Handle = WorkflowHandle[Any, RefreshReport]


async def _refresh(fleet: Fleet, feeds: dict[str, str] | None) -> Handle:
    return await fleet.plane.client.start_workflow(
        "RefreshVulnerabilities",
        {} if feeds is None else {"feeds": feeds},
        id=f"vulnerabilities/{fleet.name}",
        task_queue=CONTROL_QUEUE,
        result_type=RefreshReport,
    )


def _receipts(fleet: Fleet, handle: Handle) -> list[str]:
    return [
        stored.kind
        for stored in fleet.plane.ledger.read(subject="vulnerabilities")
        if stored.receipt.workflow_id == handle.id
    ]


async def test_feeds_are_loaded_and_the_fleet_is_judged_again(fleet: Fleet, tmp_path: Path) -> None:
    feeds = {
        "osv": str(archive(tmp_path / "all.zip", osv(f"GHSA-{fleet.name}", events=BELOW_2))),
        "nvd": str(nvd_file(tmp_path / "nvd.json", nvd("CVE-2026-1"))),
    }
    handle = await _refresh(fleet, feeds)

    report = await handle.result()

    assert [feed.name for feed in report.feeds] == ["nvd", "osv"]
    assert report.after != report.before
    assert report.after == fleet.plane.known.snapshot().digest
    assert _receipts(fleet, handle) == ["vulnerabilities.refreshed"]
    assert "| osv | 1 |" in await look(handle)  # type: ignore[arg-type]
    again = f"rejudge/{handle.id}/{report.after.removeprefix('sha256:')[:12]}"
    await fleet.plane.client.get_workflow_handle(again).result()
    assert fleet.plane.verifier.phases(fleet.old)[-1] == "running"


async def test_one_feed_that_fails_leaves_the_others_and_says_so(
    fleet: Fleet, tmp_path: Path
) -> None:
    good = directory(tmp_path / "osv", osv("GHSA-2", events=BELOW_2))
    (tmp_path / "nvd.json").write_text("{}")
    handle = await _refresh(fleet, {"osv": str(good), "nvd": str(tmp_path / "nvd.json")})

    assert "vulnerabilities: missing" in await failure_of(handle)  # type: ignore[arg-type]

    assert _receipts(fleet, handle) == ["vulnerabilities.refresh-failed"]
    [found] = [feed for feed in fleet.plane.known.snapshot().feeds if feed.name == "osv"]
    assert found.records == 1


async def test_without_any_feed_it_says_where_to_name_one(fleet: Fleet) -> None:
    assert "[sbom.feeds]" in await failure_of(await _refresh(fleet, None))  # type: ignore[arg-type]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


async def test_a_feed_may_come_over_http(fleet: Fleet, tmp_path: Path, served: str) -> None:
    archive(tmp_path / "all.zip", *(osv(f"GHSA-h{n}", events=BELOW_2) for n in range(3)))

    report = await (await _refresh(fleet, {"osv": f"{served}/all.zip"})).result()

    assert [feed.records for feed in report.feeds] == [3]


async def test_the_configuration_names_the_feeds(fleet: Fleet, tmp_path: Path) -> None:
    feed = directory(tmp_path / "osv", osv("GHSA-c", events=BELOW_2))
    text = fleet.plane.config.read_text()
    fleet.plane.config.write_text(f'{text}\n[sbom.feeds]\nosv = "{feed}"\n')

    report = await (await _refresh(fleet, None)).result()

    assert [found.name for found in report.feeds] == ["osv"]
