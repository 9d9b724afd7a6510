"""A fleet that signs keyless: how a home is set up for it, and a release from commit to verdict."""

import asyncio
import json
import socket
from datetime import timedelta

import pytest
from build_harness import KEY, Yard, only, server, start
from keyless_harness import BUILDER, Home
from ports import free_port
from release_evidence_harness import failed
from signing_harness import STATEMENT, builder_address
from verifier_harness import FakeVulnerabilities

from activities.release_verifier import RegistryVerifier
from models.addresses import ClientToken, ControlAddresses, KeylessAddress
from models.config_supply import Signing
from models.signed_statement import Signer
from models.trust import read_trust_root
from models.verification_policy import load_policy
from stores.bundle_verifier import verify_bundle
from stores.evidence_archive import EvidenceArchive
from stores.ledger import utc_now
from stores.signing import SigningFailed
from stores.templates import render_policy
from workers.builder import trusted_signer
from workers.keyless import with_authority
from workers.stack_plan import Options, SetupError, set_up


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with Home(tmp_path_factory.mktemp("home")).served() as home:
        yield home


def keyless(home):
    token = ClientToken(client="builder", secret_file=home.secret)
    return KeylessAddress(services=home.services, token=token)


# --- From a commit to a verdict ---
def verdict_of(yard, directory, release, trust, policy):
    """What the real verifier says of a release under a policy and a trust root."""
    files = {name: directory / name for name in ("policy", "trust", "config")}
    files["policy"].write_text(policy)
    files["trust"].write_bytes(trust.to_bytes())
    files["config"].write_text("")
    verifier = RegistryVerifier(
        layout=yard.builder.layout,
        registry=yard.builder.layout,
        archive=EvidenceArchive(directory / "archive"),
        vulnerabilities=FakeVulnerabilities(as_of=utc_now()),
        policy=files["policy"],
        trust_root=files["trust"],
        config=files["config"],
    )
    return verifier.verify(release, phase="verify", at=utc_now(), heartbeat=print).verdict


async def test_a_release_is_built_and_signed_keyless_and_stands_by_its_identity(home, tmp_path):
    signing = Signing(mode="keyless", oidc_provider=home.url)
    yard = Yard(tmp_path, signing=signing, keyless=keyless(home))
    async with server() as client, yard.builder.worker(client):
        handle = await start(client, yard.request(yard.commit(), ref="refs/heads/main"))
        result = await asyncio.wait_for(handle.result(), 90)
    assert only(yard, "release.built").subject == result.release
    assert not yard.builder.trust.exists() and not (yard.builder.home / "keys").exists()

    signed = [
        verify_bundle(each, home.trust(), now=utc_now())
        for each in yard.builder.layout.evidence(result.release)
    ]
    assert {each.signer for each in signed} == {
        Signer(kind="oidc", identity=BUILDER, issuer=home.url)
    }
    assert len({each.key_id for each in signed}) == len(signed) == 4  # none was used twice

    said = {
        "issuer": home.url,
        "builders": ["urn:test:builder"],
        "sources": [{"repository": str(yard.repository.path)}],
    }

    def judge(trust=None, **changes):
        policy = render_policy(**said | changes)
        return verdict_of(yard, tmp_path, result.release, trust or home.trust(), policy)

    verdict = judge()
    assert (verdict.outcome, failed(verdict)) == ("pass", {})
    for wrong in ({"issuer": "https://evil.example"}, {"issuer": ""}, {"signer": BUILDER + "2"}):
        assert "the policy allows" in failed(judge(**wrong))["identity"]
    other = Home(tmp_path / "other")
    assert "certificate-unknown" in failed(judge(other.trust()))["signature"]


# --- Configuration ---
def test_the_mode_is_read_for_each_piece_of_work(home, tmp_path):
    modes = [KEY, Signing(mode="keyless", oidc_provider=home.url)]
    address = builder_address(tmp_path, keyless=keyless(home))
    signer = trusted_signer(address, tmp_path / "trust.json", lambda: modes.pop(0))
    first, second = signer().sign(STATEMENT), signer().sign(STATEMENT)
    trust = read_trust_root((tmp_path / "trust.json").read_bytes())
    assert verify_bundle(first, trust, now=utc_now()).signer.kind == "key"
    assert verify_bundle(second, home.trust(), now=utc_now()).signer.kind == "oidc"


def test_keyless_without_services_is_refused_and_no_key_takes_its_place(tmp_path):
    signer = trusted_signer(builder_address(tmp_path), None, lambda: Signing(mode="keyless"))
    with pytest.raises(SigningFailed, match=r"signing\.mode.*builder\.keyless"):
        signer()


def test_another_issuer_than_the_configured_signs_nothing(home, tmp_path):
    signing = Signing(mode="keyless", oidc_provider="https://token.example.org")
    address = builder_address(tmp_path, keyless=keyless(home))
    with pytest.raises(SigningFailed, match=r"token\.example\.org"):
        trusted_signer(address, None, lambda: signing)().sign(STATEMENT)


def test_a_key_signs_for_as_many_days_as_the_configuration_says(tmp_path):
    address, trust = builder_address(tmp_path), tmp_path / "trust.json"
    trusted_signer(address, trust, lambda: Signing(key_rotation_days=7))()
    [key] = read_trust_root(trust.read_bytes()).signing_keys
    assert timedelta(days=7) <= key.valid_until - key.valid_from < timedelta(days=8)


# --- Setting up a home ---
def config_of(directory, issuer):
    path = directory / "chosen.toml"
    path.write_text(f'[signing]\nmode = "keyless"\noidc_provider = "{issuer}"\n')
    return Options(config=path, temporal_port=0)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path))
    return tmp_path


def test_a_home_with_an_issuer_on_loopback_has_its_own_authority(root):
    issuer = f"http://127.0.0.1:{free_port()}"
    plan = set_up(config_of(root, issuer))
    [process] = [each for each in plan.processes if each.name == "authority"]
    assert process.ready_url == f"{issuer}/healthz" and process.command[-1] == "authority"
    control = ControlAddresses.model_validate_json(
        (root / "control" / "addresses.json").read_bytes()
    )
    token = control.builder.keyless.token
    assert token.secret_file.stat().st_mode & 0o077 == 0
    trust = root / "verification" / "trust.json"
    [authority] = read_trust_root(trust.read_bytes()).keyless_authorities
    assert authority.issuers == [issuer]
    policy = load_policy((root / "verification" / "policy.toml").read_text())
    [signer] = policy.provenance.signers
    assert (signer.kind, signer.identity, signer.issuer) == ("oidc", BUILDER, issuer)
    before = {path: path.read_bytes() for path in (trust, token.secret_file)}
    assert set_up(config_of(root, issuer)) == plan
    assert {path: path.read_bytes() for path in before} == before


def test_a_home_that_moves_its_authority_still_trusts_what_was_signed_before(home):
    trust = with_authority(with_authority(home.trust(), home.keys.trusted()), home.keys.trusted())
    assert trust == home.trust()
    moved = home.keys.trusted().model_copy(update={"issuers": ["http://127.0.0.1:1"]})
    [one] = with_authority(trust, moved).keyless_authorities
    assert one.issuers == ["http://127.0.0.1:1", home.url]


def test_an_authority_of_other_keys_is_another_one(home, tmp_path):
    other = Home(tmp_path).keys.trusted()
    assert len(with_authority(home.trust(), other).keyless_authorities) == 2


def test_a_key_home_has_no_authority(root):
    assert "authority" not in {each.name for each in set_up(Options(temporal_port=0)).processes}
    assert not (root / "authority").exists()


def test_an_issuer_of_somebody_else_needs_his_services(root):
    issuer = "https://token.example.org"
    with pytest.raises(SetupError, match=r"ClientTrustConfig in .*services\.json"):
        set_up(config_of(root, issuer))
    (root / "builder" / "services.json").write_text("{}")
    set_up(config_of(root, issuer))
    written = json.loads((root / "control" / "addresses.json").read_bytes())
    assert written["builder"]["keyless"]["token"]["file"] == str(root / "builder" / "token")


def test_a_port_in_use_is_named(root):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        issuer = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(SetupError, match=r"signing\.oidc_provider"):
            set_up(config_of(root, issuer))
