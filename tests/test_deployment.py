"""The deploy attestation: each receipt of an activation holds an in-toto statement about it."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from temporalio.testing import ActivityEnvironment

from activities.region import RegionActivities
from models.deployment import VERIFIER, Approval, deployment_statement
from models.seeding import FleetLayout
from models.statement import DEPLOYMENT, Statement
from models.steps import ActivateShard
from stores.fleet import FleetStore
from stores.ledger import Ledger
from stores.shards import ShardStore

pytest_plugins = ["databases"]

NOW = datetime(2026, 11, 25, 12, 30, 15, 123456, tzinfo=UTC)
RELEASE, VERDICT = "sha256:" + "a" * 64, "sha256:" + "b" * 64
APPROVAL = Approval(deployer="ana", verdicts={RELEASE: VERDICT})


@pytest.fixture
def region(engine):
    ledger = Ledger(engine, "eu", clock=lambda: NOW)
    FleetStore(engine, ledger, "eu").seed(
        FleetLayout(tenants=4, shards=2, regions=["eu"]), actor="ana"
    )
    shards = ShardStore(engine, ledger, "eu")

    def activate(shard, release, epoch, draft):
        return shards.activate(shard=shard, release=release, epoch=epoch, draft=draft)[0]

    activities = RegionActivities(
        "eu",
        target=SimpleNamespace(activate=activate),
        shards=shards,
        ledger=ledger,
        notary=None,
        clock=lambda: NOW,
    )
    return SimpleNamespace(activities=activities, ledger=ledger)


def activated(region, **fields):
    step = ActivateShard(
        rollout="rollout/web-1/1", epoch=1, ring="canary", release=RELEASE, shard="eu-000", **fields
    )
    activation = ActivityEnvironment().run(region.activities.activate_shard, step)
    return region.ledger.get(activation.seq).receipt.body


def test_each_activation_says_who_deployed_what_where_by_which_verdict(region):
    body = activated(region, approval=APPROVAL)
    statement = Statement.model_validate(body["deployment"])
    assert statement.is_about(RELEASE) and statement.predicate_type == DEPLOYMENT
    assert statement.predicate == {
        "timestamp": "2026-11-25T12:30:15.123456Z",
        "deployer": "ana",
        "region": "eu",
        "shard": "eu-000",
        "rollout": "rollout/web-1/1",
        "verifier": VERIFIER,
        "verdict": {"digest": {"sha256": "b" * 64}},
        "override": None,
    }
    assert (body["release"], body["ring"]) == (RELEASE, "canary")


def test_a_repeated_activation_adds_no_second_statement(region):
    first = activated(region, approval=APPROVAL)
    assert activated(region, approval=APPROVAL) == first
    assert len(list(region.ledger.read(kinds=["shard.activated"]))) == 1


def test_a_rollout_from_before_has_no_statement_to_make(region):
    assert "deployment" not in activated(region)


def test_a_release_that_was_not_judged_has_no_verdict_and_the_statement_says_so():
    said = deployment_statement(
        Approval(deployer="ana", verdicts={}, override="breakglass/x/1"),
        release=RELEASE,
        region="eu",
        shard="eu-000",
        rollout="r",
        at=NOW,
    )
    assert said["predicate"]["verdict"] is None
    assert said["predicate"]["override"] == "breakglass/x/1"


def test_no_tenant_data_can_cross_with_an_approval():
    with pytest.raises(ValueError, match="tenant"):
        Approval(deployer="ana", verdicts={}, tenant="t1")
