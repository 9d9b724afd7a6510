"""`chainring forensics` over a home of ledgers, and whether evidence that receipts name is kept."""

import json
from pathlib import Path

import pytest
from forensics_harness import Past, digest, evidence_of, hour, sbom_bundle
from typer.testing import CliRunner, Result

from models.addresses import VerificationAddress
from models.bundle import bundle_digest
from models.verifier import verify_proof
from stores.evidence_archive import EvidenceArchive
from stores.evidence_retention import check_evidence
from stores.oci import ImageLayout
from stores.vulnerabilities import VulnerabilityStore
from workers.cli.forensics import app, index_file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def addresses(root: Path, name: str) -> dict[str, object]:
    port = {"health_port": 0, "metrics_port": 0}
    shared = {
        "temporal": {"address": "x:1", "namespace": name, "task_queue": "q"},
        "worker": port,
        "database": f"sqlite:///{root}/{name}/store.db",
        "signing_key": f"{root}/{name}/{name}.pem",
        "config": "config.toml",
        "releases": f"{root}/releases",
    }
    if name == "control":
        files = {name: f"{root}/judge/{name}" for name in VerificationAddress.model_fields}
        files |= {"vulnerabilities": f"{root}/v.db", "archive": f"{root}/evidence"}
        return {**shared, "verification": files}
    gateway = {"port": 1, "admin_port": 1, "kv_port": 1, "directory": "envoy"}
    return {**shared, "region": name, "workdir": "work", "gateway": gateway}


@pytest.fixture
def past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Past:
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    made = Past(tmp_path)
    for name in made.ledgers:
        folder = tmp_path / ("control" if name == "control" else f"regions/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "addresses.json").write_text(json.dumps(addresses(tmp_path, name)))
    made.judge("one", hour(0))
    made.activate("eu-000", "one", hour(1))
    made.checkpoint()
    made.activate("eu-000", "two", hour(3))
    return made


def test_at_as_a_table_as_json_and_as_proofs(past: Past, tmp_path: Path):
    table = run("at", "2026-01-01T02:00:00Z", "--region", "eu")
    assert table.exit_code == 0, table.stdout
    for part in ("eu-000", "cccccccccccc", "pass", "eu/0 eu/1 control/0", "not shown:"):
        assert part in table.stdout
    assert "2 of 3 receipts proved" in table.stdout
    written = tmp_path / "p"
    answer = json.loads(run("at", "2026-01-01T02:00", "--json", "--proofs", written).stdout)
    assert answer["stays"][0]["release"] == digest("one")
    assert {path.name for path in written.iterdir()} == {"control-0.json", "eu-0.json"}
    key = past.notaries["eu"]._key.public("eu")
    assert verify_proof((written / "eu-0.json").read_bytes(), [key])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("at", "yesterday"), 2, "time: 'yesterday'"),
        (("at", "now", "--tenant", "nobody"), 1, "no receipt places 'nobody'"),
        (("where", "pkg:"), 1, "no package URL"),
        (("trace", "catalog:9"), 2, "not in"),
    ],
)
def test_a_wrong_question_is_answered_in_one_line(
    past: Past, capsys: pytest.CaptureFixture[str], arguments: tuple, code: int, message: str
):
    result = run(*arguments)
    assert result.exit_code == code
    assert message in (result.stderr if result.stderr else capsys.readouterr().err)


def test_where_and_trace_read_the_registry_and_the_archive(past: Past, tmp_path: Path):
    program = tmp_path / "program"
    program.mkdir()
    (program / "run").write_text("x")
    layout = ImageLayout(tmp_path / "releases")
    release = layout.put_release("web", "1", program, entrypoint=["./run"])
    for bundle in evidence_of(release, "pkg:pypi/kept@1.0"):
        layout.attach(release, bundle, "any")
    past.record("eu", "shard.activated", "eu-001", {"shard": "eu-001", "release": release}, hour(4))
    gone = sbom_bundle(digest("one"), "pkg:pypi/gone@1.0")
    EvidenceArchive(tmp_path / "evidence").put(gone)
    past.judge("one", hour(5), bundles=[bundle_digest(gone)])
    where = json.loads(run("where", "pkg:pypi/kept", "--json").stdout)
    assert [stay["shard"] for stay in where["stays"]] == ["eu-001"]
    old = json.loads(run("where", "pkg:pypi/gone@1.0", "--json").stdout)
    assert (old["total"], old["running"], old["stays"][0]["shard"]) == (1, 0, "eu-000")
    trace = json.loads(run("trace", "web:1", "--json").stdout)
    assert [item["says"].get("result") for item in trace["evidence"]].count("PASSED") == 1
    assert run("trace", release).exit_code == 0


def test_where_a_vulnerability_runs(past: Past, tmp_path: Path):
    archive = EvidenceArchive(tmp_path / "evidence")
    for name, purls in (
        ("one", ["pkg:pypi/My-Part@1.2", "pkg:npm/my-part@1.2"]),
        ("two", ["pkg:pypi/my-part@1.9", "pkg:pypi/my-part@one"]),
    ):
        bill = sbom_bundle(digest(name), *purls)
        past.judge(name, hour(5), bundles=[archive.put(bill)])
    record = {
        "id": "GHSA-x", "aliases": ["CVE-2026-1"], "modified": "2026-01-01T00:00:00Z",
        "affected": [{
            "package": {"ecosystem": "PyPI", "name": "my_part"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.5"}]}],
        }],
    }  # fmt: skip
    feed = tmp_path / "feed"
    feed.mkdir()
    (feed / "GHSA-x.json").write_text(json.dumps(record))
    assert run("where", "CVE-2026-1").exit_code == 3
    VulnerabilityStore(tmp_path / "v.db").load("osv", feed, now=hour(6))
    answer = json.loads(run("where", "CVE-2026-1", "--json").stdout)
    found = {stay["release"]: stay["components"] for stay in answer["stays"]}
    assert found == {
        digest("one"): ["pkg:pypi/My-Part@1.2"],
        digest("two"): ["pkg:pypi/my-part@one"],
    }
    assert (
        "pkg:pypi/my-part@one: whether CVE-2026-1 affects it cannot be told" in answer["unproven"]
    )
    assert run("where", "CVE-2026-2").exit_code == 1


def test_rebuild_gives_the_same_answers(past: Past):
    before = run("at", "2026-01-01T02:00:00Z", "--json").stdout
    assert index_file().exists()
    assert "eu" in run("rebuild").stdout
    assert run("at", "2026-01-01T02:00:00Z", "--json").stdout == before


def test_lost_evidence_is_named(past: Past, tmp_path: Path):
    archive = EvidenceArchive(tmp_path / "evidence")
    kept, lost = archive.put(b"kept"), bundle_digest(b"lost")
    past.judge("two", hour(6), bundles=[kept])
    assert check_evidence(past.ledgers["control"], archive).lost == (
        "control/0: names nothing that the verdict was given on",
    )
    past.judge("three", hour(7), bundles=[kept, lost])
    found = check_evidence(past.ledgers["control"], archive)
    assert (found.verdicts, found.digests) == (3, 2)
    assert found.lost[1] == f"control/2: bundles: evidence {lost}: not in the archive"
    result = run("retained")
    assert result.exit_code == 1
    assert "3 verdicts since 2026-01-01 name 2 pieces" in result.stdout
    blob = next((tmp_path / "evidence").rglob(kept.removeprefix("sha256:")))
    blob.write_bytes(b"else")
    assert len(check_evidence(past.ledgers["control"], archive).lost) == 4
