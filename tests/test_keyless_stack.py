"""A stack that signs keyless: samples are built and verified, and the authority may be killed."""

from embedded import CONFIG, running_stack
from keyless_harness import BUILDER
from ports import free_port

from models.trust import read_trust_root
from stores.bundle_verifier import verify_bundle
from stores.ledger import utc_now
from stores.oci import ImageLayout


def signers(home, release):
    trust = read_trust_root((home / "verification" / "trust.json").read_bytes())
    layout = ImageLayout(home / "releases")
    bundles = layout.evidence(layout.resolve(release))
    assert len(bundles) == 4
    signed = [verify_bundle(each, trust, now=utc_now()).signer for each in bundles]
    return {(each.kind, each.identity, each.issuer) for each in signed}


def test_a_keyless_stack_builds_and_verifies_and_survives_its_authority(tmp_path):
    issuer = f"http://127.0.0.1:{free_port()}"
    signing = f'\n[signing]\nmode = "keyless"\noidc_provider = "{issuer}"\n'
    home = tmp_path / "home"
    with running_stack(home, CONFIG + signing) as stack:
        for version, release in [("1.0.0", "catalog:1.0.0"), ("1.1.0", "catalog:1.1.0")]:
            stack.build_samples(version)
            assert signers(home, release) == {("oidc", BUILDER, issuer)}
            done = stack.chainring("verify", release, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            stack.kill("authority")  # the second build waits for it, and the log goes on
    assert not (home / "builder" / "keys").exists()
    entries = (home / "authority" / "statement-log" / "entries").read_bytes().splitlines()
    assert len(entries) >= 8
