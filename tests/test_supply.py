"""The supply chain's part of a home: what is missing lets nothing through."""

from datetime import UTC, datetime

import pytest
from release_evidence_harness import BUILDER, REPOSITORY

from models.addresses import ControlAddresses
from models.verification_policy import load_policy
from stores.oci import ImageLayout
from stores.templates import render_policy
from workers.supply import prepare_verification, release_verifier

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def addresses(root, **fields):
    return ControlAddresses.model_validate(
        {
            "temporal": {"address": "x:1", "namespace": "default", "task_queue": "control"},
            "worker": {"health_port": 0, "metrics_port": 0},
            "database": "sqlite://",
            "signing_key": root / "key.pem",
            "config": root / "fleet.toml",
            "releases": root / "releases",
            **fields,
        }
    )


def release(root):
    layout = ImageLayout(root / "releases")
    (root / "program").mkdir()
    (root / "program" / "serve").write_text("x")
    return layout, layout.put_release("web", "1.0.0", root / "program", entrypoint=["serve"])


def test_a_worker_without_a_policy_gives_no_release_a_pass(tmp_path):
    layout, digest = release(tmp_path)
    verifier = release_verifier(addresses(tmp_path), layout)
    judgement = verifier.verify(digest, phase="start", at=NOW, heartbeat=print)
    assert judgement.verdict.outcome == "error" and "verification" in judgement.verdict.why


def test_a_new_home_lets_nothing_through_until_somebody_says_whom_to_trust(tmp_path):
    layout, digest = release(tmp_path)
    (tmp_path / "fleet.toml").write_text("")
    address = prepare_verification(tmp_path)
    verifier = release_verifier(addresses(tmp_path, verification=address), layout)
    verdict = verifier.verify(digest, phase="start", at=NOW, heartbeat=print).verdict
    assert verdict.outcome == "error" and "trust.json" in verdict.why


def test_a_policy_that_is_there_is_left_as_it_is(tmp_path):
    address = prepare_verification(tmp_path)
    address.policy.write_text("name = 'ours'\n")
    assert prepare_verification(tmp_path) == address
    assert load_policy(address.policy.read_text()).name == "ours"


def test_the_default_policy_trusts_the_embedded_builder_and_no_source():
    policy = load_policy(render_policy())
    [signer] = policy.signature.signers
    assert (signer.kind, signer.identity) == ("key", "embedded-builder")
    assert policy.provenance.builders == ["urn:chainring:builder:embedded"]
    assert policy.provenance.sources == [] and policy.provenance.require_signed_commit
    assert policy.vulnerabilities.severities.unknown == "block"


def test_the_template_takes_every_value_that_it_names():
    values = {
        "policy_name": 'quoted "name"',
        "signer": "ours",
        "builders": [BUILDER],
        "sources": [{"repository": REPOSITORY}, {"repository": "b", "refs": ["refs/tags/v1"]}],
        "required_tests": ["unit::starts"],
        "require_signed_commit": False,
        "target_refused": "refuse",
        "refused_midway": "stop",
        "unknown": "allow",
    }
    policy = load_policy(render_policy(**values))
    assert policy.name == 'quoted "name"' and policy.tests.signers[0].identity == "ours"
    assert [each.refs for each in policy.provenance.sources] == [
        ["refs/heads/main"],
        ["refs/tags/v1"],
    ]
    assert policy.rollback.target_refused == "refuse" and policy.rollout.refused_midway == "stop"
    assert policy.vulnerabilities.severities.unknown == "allow"
    assert not policy.provenance.require_signed_commit


@pytest.mark.parametrize("name", ["signer", "policy_name"])
def test_a_value_cannot_write_keys_of_its_own(name):
    evil = 'x"\n[vulnerabilities.severities]\nunknown = "allow"\n#'
    with pytest.raises(ValueError, match="printable ASCII"):
        load_policy(render_policy(**{name: evil}))
