"""A commit becomes a release with its evidence, or nothing at all."""

import asyncio

import pytest
from build_harness import Yard, only, server, start, statements, status_of, until
from temporalio.client import WorkflowFailureError
from test_build_runner import gone

from models.canonical import canonical
from models.provenance import BUILD_TYPE, read_provenance
from models.sbom import read_sbom
from models.sbom_compare import compare
from models.statement import PROVENANCE, SBOM, SIGNATURE, TESTS
from models.test_results import read_test_result
from stores.oci import ReleaseNotFound
from stores.sbom_contents import read_contents
from workflows.regions import plain_words


@pytest.fixture
def yard(tmp_path):
    return Yard(tmp_path)


async def build(yard, commit, **fields):
    async with server() as client, yard.builder.worker(client):
        handle = await start(client, yard.request(commit, **fields))
        return await asyncio.wait_for(handle.result(), 60), await status_of(handle)


async def failure(yard, commit, **fields):
    with pytest.raises(WorkflowFailureError) as caught:
        await build(yard, commit, **fields)
    return plain_words(caught.value)


def untouched(yard):
    """Nothing was published, and nothing is left behind."""
    with pytest.raises(ReleaseNotFound):
        yard.builder.layout.resolve("web:1.0.0")
    assert not list((yard.builder.home / "work" / "builds").glob("*"))
    return not list(yard.builder.ledger.read(kinds=["release.built"]))


async def test_a_commit_becomes_a_release_with_all_its_evidence(yard, tmp_path):
    commit = yard.commit()
    result, status = await build(yard, commit, ref="refs/heads/main", reproducible=True)
    layout = yard.builder.layout
    assert layout.resolve("web:1.0.0") == result.release
    assert layout.verify(result.release)
    assert (result.tests, status.state) == ("2 passed, 0 failed", "built")

    found = statements(yard, result.release)
    assert set(found) == {SIGNATURE, PROVENANCE, SBOM, TESTS}
    said = read_provenance(found[PROVENANCE])
    assert (said.builder_id, said.build_type) == ("urn:test:builder", BUILD_TYPE)
    assert (said.commit, said.ref) == (commit, "refs/heads/main")
    assert said.commit_signature.principal == "ana@example.org"
    names = {material.name for material in said.materials}
    bill = read_sbom(canonical(found[SBOM]))
    contents = read_contents(layout.unpack(result.release, tmp_path / "unpacked"))
    assert compare(bill, contents, digest=result.release).covers
    assert {"chainring.build.toml", "requirements.txt", ".specify/web.ttl"} <= names
    assert said.reproducibility.identical and not said.reproducibility.differences
    summary, results = read_test_result(found[TESTS])
    assert (summary, results.passed) == ("PASSED", ["answers", "serves"])

    receipt = only(yard, "release.built")
    assert (receipt.subject, receipt.seq) == (result.release, result.receipt)
    assert receipt.body["commit"] == commit
    assert receipt.body["reproducibility"]["identical"] is True
    assert receipt.body["evidence"] == result.evidence
    logs = {path.name for path in (yard.builder.home / "work" / "logs").glob("*.log")}
    assert f"{receipt.body['logs']['test'].removeprefix('sha256:')}.log" in logs
    assert not list((yard.builder.home / "work" / "builds").glob("*"))


async def test_what_differs_between_two_builds_is_named(yard):
    make = "import os\nfrom pathlib import Path\n" + (
        "Path('dist').mkdir()\nPath('dist/where').write_text(os.getcwd())\n"
        "Path('dist/release.json').write_text('{\"entrypoint\": [\"python3\"]}')\n"
    )
    check = "print('1..1')\nprint('ok 1')"
    commit = yard.commit(make_py=make, check_py=check)
    result, _ = await build(yard, commit, reproducible=True)
    assert not result.reproducibility.identical
    [line] = result.reproducibility.differences
    assert line.startswith("where: sha256:")
    said = read_provenance(statements(yard, result.release)[PROVENANCE])
    assert said.reproducibility.differences == [line]


WRONG = [
    (
        {"check_py": "print('1..1')\nprint('not ok 1 - serves')"},
        "tests: 0 passed, 1 failed: serves",
    ),
    ({"check_py": "print('1..0')"}, "no test was run"),
    ({"check_py": "print('fine')"}, "no plan"),
    ({"check_py": "print('1..1\\nok 1 - x'); raise SystemExit(4)"}, "exit status 4 although"),
    ({"make_py": "raise SystemExit('no compiler')"}, "build: exit status 1"),
    ({"make_py": ""}, "output: the build made no directory dist"),
    ({"_specify__web_ttl": "a:b a:c a:d .\n"}, ".specify/web.ttl: line 1: "),
    ({"chainring_build_toml": "name = 'web'"}, "chainring.build.toml: version: Field required"),
]


async def test_what_is_wrong_stops_the_build_and_publishes_nothing(yard):
    commits = [yard.commit(**files) for files, _ in WRONG]
    async with server() as client, yard.builder.worker(client):
        handles = [await start(client, yard.request(commit)) for commit in commits]
        ends = await asyncio.gather(*(each.result() for each in handles), return_exceptions=True)
    for end, (_, message) in zip(ends, WRONG, strict=True):
        assert isinstance(end, WorkflowFailureError), end
        assert message in plain_words(end)
    assert untouched(yard)
    receipts = [stored.receipt for stored in yard.builder.ledger.read(kinds=["build.failed"])]
    assert {each.body["commit"] for each in receipts} == set(commits)
    assert all(each.body["state"] == "failed" and each.body["why"] for each in receipts)


async def test_an_unsigned_commit_is_not_built(yard):
    yard.repository.git("config", "commit.gpgsign", "false")
    said = await failure(yard, yard.commit())
    assert said.endswith("it is not signed")
    assert untouched(yard)


async def test_wrong_input_fails_at_once_and_names_the_field(yard):
    async with server() as client, yard.builder.worker(client):
        handle = await start(client, {"repository": "/srv/x", "commit": "main"})
        with pytest.raises(WorkflowFailureError) as caught:
            await asyncio.wait_for(handle.result(), 20)
        assert "commit" in plain_words(caught.value)


async def test_cancellation_ends_the_commands_and_publishes_nothing(yard, tmp_path):
    alive = tmp_path / "alive"
    make = f"""
from pathlib import Path
import os, time
Path({str(alive)!r}).write_text(str(os.getpid()))
time.sleep(600)
"""
    commit = yard.commit(make_py=make)
    async with server() as client, yard.builder.worker(client):
        handle = await start(client, yard.request(commit))
        await until(handle, "building")
        while not alive.exists() or not alive.read_text():
            await asyncio.sleep(0.05)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await asyncio.wait_for(handle.result(), 30)
        assert (await status_of(handle)).state == "cancelled"
    assert gone(int(alive.read_text()))
    assert untouched(yard)
    assert only(yard, "build.failed").body["state"] == "cancelled"
