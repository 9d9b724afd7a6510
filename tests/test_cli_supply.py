"""Commands about the home's own keys, overrides and vulnerability data; no server is needed."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner
from vulnerability_harness import CRITICAL, directory, osv, severity

from models.addresses import ControlAddresses
from models.break_glass import Override
from models.receipts import Draft
from models.trust import read_trust_root
from stores.ledger import Ledger
from stores.overrides import OverrideStore
from stores.sql import create_all, open_engine
from stores.vulnerabilities import VulnerabilityStore
from workers.builder import prepare_builder
from workers.cli import app
from workers.supply import prepare_verification


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home as `chainring up` sets it up, without its processes."""
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path))
    addresses = ControlAddresses.model_validate(
        {
            "temporal": {"address": "127.0.0.1:1", "namespace": "default", "task_queue": "control"},
            "worker": {"health_port": 0, "metrics_port": 0},
            "database": f"sqlite:///{tmp_path}/control.db",
            "signing_key": tmp_path / "key.pem",
            "config": tmp_path / "fleet.toml",
            "releases": tmp_path / "releases",
            "verification": prepare_verification(tmp_path),
            "builder": prepare_builder(tmp_path),
        }
    )
    (tmp_path / "fleet.toml").write_text("[signing]\nkey_rotation_days = 30\n")
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "addresses.json").write_text(addresses.model_dump_json())
    create_all(open_engine(addresses.database))
    return addresses


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def receipts(home):
    ledger = Ledger(open_engine(home.database), "control")
    return [(stored.kind, stored.receipt.actor) for stored in ledger.read()]


def who(reason="quarterly"):
    return ("--actor", "ana", "--reason", reason)


def test_a_rotation_is_receipted_and_trusted(home):
    assert run("keys", "rotate", *who()).exit_code == 0
    assert run("keys", "rotate", *who()).exit_code == 0

    keys = json.loads(run("keys", "list", "--json").output)

    trust = read_trust_root(home.verification.trust_root.read_bytes())
    assert {key["key_id"] for key in keys} == {key.key_id for key in trust.signing_keys}
    assert len(keys) == 2 and len(trust.timestamp_authorities) == 1
    assert receipts(home) == [("key.rotated", "ana")] * 2
    newest = max(trust.signing_keys, key=lambda key: key.valid_until)
    assert timedelta(29) < newest.valid_until - datetime.now(UTC) <= timedelta(30)


def test_a_configuration_that_does_not_hold_stops_a_rotation_and_no_revocation(home):
    assert run("keys", "rotate", *who()).exit_code == 0
    [key] = json.loads(run("keys", "list", "--json").output)
    home.config.write_text("[signing]\nkey_rotation_days = 0\n")
    assert run("keys", "rotate", *who()).exit_code == 2
    at = ("--at", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert run("keys", "revoke", key["key_id"], *at, *who("stolen")).exit_code == 0


def test_a_revocation_reaches_the_trust_root_and_the_ledger(home):
    run("keys", "rotate", *who())
    [key] = json.loads(run("keys", "list", "--json").output)

    done = run("keys", "revoke", key["key_id"], "--at", "2026-11-20T00:00:00Z", *who("stolen"))

    assert done.exit_code == 0, done.output
    [trusted] = read_trust_root(home.verification.trust_root.read_bytes()).signing_keys
    assert (trusted.revoked_at, trusted.revoked_because) == (
        datetime(2026, 11, 20, tzinfo=UTC),
        "stolen",
    )
    assert receipts(home)[-1] == ("key.revoked", "ana")


@pytest.mark.parametrize(
    ("key", "at", "word"),
    [("nobody", "2026-11-20T00:00:00Z", "key"), ("", "2999-01-01T00:00:00Z", "to come")],
)
def test_a_wrong_revocation_says_why_and_changes_nothing(home, key, at, word, capsys):
    run("keys", "rotate", *who())
    [known] = json.loads(run("keys", "list", "--json").output)

    refused = run("keys", "revoke", key or known["key_id"], "--at", at, *who("why"))

    assert refused.exit_code == 2
    assert word in refused.output + capsys.readouterr().err
    assert receipts(home) == [("key.rotated", "ana")]


def test_overrides_in_force_are_listed(home):
    engine = open_engine(home.database)
    store = OverrideStore(engine, Ledger(engine, "control"))
    override = Override(
        id="breakglass/x/1",
        release=f"sha256:{'a' * 64}",
        opened_by="ana",
        approved_by="ben",
        reason="pager",
        expires=datetime.now(UTC) + timedelta(hours=1),
    )
    draft = Draft(kind="breakglass.approved", actor="b", subject="s", body={}, idempotency_key="k")
    store.grant(override, draft)

    [listed] = json.loads(run("breakglass", "list", "--json").output)

    assert (listed["opened_by"], listed["approved_by"]) == ("ana", "ben")


def test_vulnerability_data_is_shown_and_searched(home, tmp_path):
    assert run("vulnerabilities", "status").exit_code == 1
    record = osv(
        "GHSA-1", events=[{"introduced": "0"}, {"fixed": "2.0"}], severity=severity(CRITICAL)
    )
    feed = directory(tmp_path / "feed", record)
    now = datetime.now(UTC)
    VulnerabilityStore(home.verification.vulnerabilities).load("osv", feed, now=now)

    assert run("vulnerabilities", "status").exit_code == 0
    found = run("vulnerabilities", "search", "pkg:pypi/flask@1.0", "--json")
    assert found.exit_code == 1
    assert json.loads(found.output)[0]["severity"] == "critical"
    assert run("vulnerabilities", "search", "pkg:pypi/flask@2.0").exit_code == 0
    assert run("vulnerabilities", "search", "pkg:generic/x@1").exit_code == 2


@pytest.mark.parametrize("feed", ["osv", "osv=", "cve=/x"])
def test_a_feed_that_is_none_is_refused(home, feed):
    assert run("vulnerabilities", "refresh", feed).exit_code == 2
