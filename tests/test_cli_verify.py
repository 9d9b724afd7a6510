"""`chainring verdict replay --release`: the archived evidence says again what the receipt says."""

import json

import pytest
import typer
from known_harness import OSV, Known
from temporalio.testing import ActivityEnvironment
from typer.testing import CliRunner
from verifier_harness import NOW

from activities.verification import JUDGED, VerificationActivities
from models.ids import short
from models.steps import JudgeRelease
from stores.blobs import BlobStore
from stores.ledger import Ledger
from stores.overrides import OverrideStore
from stores.sql import create_all, open_engine
from workers.cli import verdict as command
from workers.cli import verify as verifying


class Home:
    """A home with a control ledger, and the activity that judges into it."""

    def __init__(self, root):
        self.bench = Known(root)
        self.bench.load(OSV | {"withdrawn": "2026-01-02T00:00:00Z"})
        (root / "control").mkdir()
        url = f"sqlite:///{root}/control/control.db"
        files = self.bench.files
        addresses = {
            "temporal": {"address": "127.0.0.1:1", "namespace": "default", "task_queue": "control"},
            "worker": {"health_port": 0, "metrics_port": 0},
            "database": url,
            "signing_key": "key.pem",
            "config": str(files["config"]),
            "releases": str(root / "releases"),
            "verification": {
                "policy": str(files["policy"]),
                "trust_root": str(files["trust"]),
                "vulnerabilities": str(root / "vulnerabilities.db"),
                "vex": str(root / "vex"),
                "exceptions": str(root / "exceptions.toml"),
                "archive": str(root / "archive"),
            },
        }
        (root / "control" / "addresses.json").write_text(json.dumps(addresses))
        engine = open_engine(url)
        create_all(engine)
        self.ledger = Ledger(engine, "control")
        self.activities = VerificationActivities(
            verifier=self.bench.verifier,
            layout=self.bench.layout,
            ledger=self.ledger,
            overrides=OverrideStore(engine, self.ledger),
            clock=lambda: NOW,
        )

    def judge(self, release, attempt=1):
        step = JudgeRelease(release=release, phase="verify", attempt=attempt)
        return ActivityEnvironment().run(self.activities.judge_release, step)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path))
    return Home(tmp_path)


def run(*arguments):
    return CliRunner().invoke(command.app, list(arguments))


def test_a_verdict_is_recorded_once_and_given_again(home):
    release = home.bench.attested()
    judged, again = home.judge(release), home.judge(release)
    assert judged == again and judged.may_go_on
    assert [each.kind for each in home.ledger.read()] == [JUDGED]
    home.bench.files["policy"].write_text("")  # what the archive says does not depend on it
    for name in (release, "catalog:1.0.0", short(release), "0"):
        result = run("replay", "--release", name, "--json")
        assert result.exit_code == 0, result.output
        [row] = json.loads(result.stdout)
        assert (row["match"], row["recorded"], row["replayed"]) == (True, "pass", "pass")


def test_every_verdict_on_a_release_is_replayed_and_shown(home):
    release = home.bench.release()
    home.judge(release)
    home.bench.attest(release)
    home.judge(release, attempt=2)
    rows = json.loads(run("replay", "--release", release, "--json").stdout)
    assert [row["replayed"] for row in rows] == ["fail", "pass"]
    shown = run("show", "--release", release).stdout
    assert "FAIL" in shown and "PASS" in shown
    assert "match" in run("replay", "--release", release).stdout


def test_evidence_that_is_missing_or_altered_is_no_match(home):
    release = home.bench.attested()
    verdict = home.judge(release).verdict
    blobs = BlobStore(home.bench.home / "archive")
    bundle = blobs.path(verdict.inputs.bundles[0])
    bundle.write_bytes(bundle.read_bytes()[::-1])
    result = run("replay", "--release", release, "--json")
    assert result.exit_code == 1
    assert "its content is" in json.loads(result.stdout)[0]["differences"][0]


@pytest.mark.parametrize("name", ["sha256:" + "0" * 64, "nothing:1", "99", "0" * 12])
def test_a_release_without_verdicts_is_bad_input(home, name):
    home.judge(home.bench.attested())
    result = run("replay", "--release", name)
    assert result.exit_code == 2 and result.output


def test_one_source_at_a_time(home):
    assert run("replay", "--release", "0", "--seq", "0").exit_code == 2


def test_a_release_that_is_not_there_is_refused_before_temporal_is_asked(home):
    app = typer.Typer()
    app.command()(verifying.verify)
    result = CliRunner().invoke(app, ["nothing:1"])
    assert result.exit_code == 2 and "nothing:1" in result.output
