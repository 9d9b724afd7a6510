"""sigstore-python and cosign verify what we sign by identity, and we what cosign signs."""

import json
from datetime import timedelta

import pytest
from interop_tools import Tools, needs
from keyless_harness import BUILDER, Home, unlogged
from signing_harness import STATEMENT
from sigstore.errors import VerificationError
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity
from test_interop import BLOB, digest_of

from models.signed_statement import Signer
from models.statement import PROVENANCE, SIGNATURE, write_statement
from stores.bundle_verifier import verify_bundle
from stores.ledger import utc_now


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with Home(tmp_path_factory.mktemp("home")).served() as home:
        yield home


# --- sigstore-python ---
def test_sigstore_python_verifies_our_bundle_offline(home, tmp_path):
    root = tmp_path / "trusted_root.json"
    root.write_text(json.dumps(home.keys.trusted_root()))
    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(root)))
    bundle = Bundle.from_json(home.signer().sign(STATEMENT))
    said = verifier.verify_dsse(bundle, Identity(identity=BUILDER, issuer=home.url))
    assert said == ("application/vnd.in-toto+json", STATEMENT)
    for wrong in (
        Identity(identity=BUILDER, issuer="https://evil.example"),
        Identity(identity=BUILDER + "2", issuer=home.url),
    ):
        with pytest.raises(VerificationError):
            verifier.verify_dsse(bundle, wrong)


# --- cosign ---
@pytest.fixture
def tools(tmp_path, home):
    (tmp_path / "blob").write_bytes(BLOB)
    (tmp_path / "root.json").write_text(json.dumps(home.keys.trusted_root()))
    config = home.keys.trust_config()["signingConfig"]
    (tmp_path / "signing.json").write_text(json.dumps(config))
    return Tools(tmp_path)


def verify_blob(tools, home, bundle, *, kind=SIGNATURE, identity=BUILDER, issuer=None):
    (tools.directory / "bundle.json").write_bytes(bundle)
    return tools.run(
        *("cosign", "verify-blob-attestation", "--type", kind, "--bundle", "bundle.json"),
        *("--certificate-identity", identity, "--certificate-oidc-issuer", issuer or home.url),
        *("--trusted-root", "root.json", "--use-signed-timestamps", "blob"),
    )


@needs("cosign")
def test_cosign_verifies_what_an_identity_signed(home, tools):
    bundle = home.signer().sign(write_statement([("blob", digest_of(BLOB))], SIGNATURE, {}))
    done = verify_blob(tools, home, bundle)
    assert done.returncode == 0, done.stderr
    assert "Verified OK" in done.stdout + done.stderr


@needs("cosign")
def test_cosign_refuses_what_we_refuse(home, tools):
    """So that its word for ours is worth something."""
    about = write_statement([("blob", digest_of(BLOB))], SIGNATURE, {})
    good = home.signer().sign(about)
    minutes = timedelta(minutes=11)
    refused = [
        verify_blob(tools, home, good, identity=BUILDER + "2"),
        verify_blob(tools, home, good, issuer="https://evil.example"),
        verify_blob(tools, home, good, kind=PROVENANCE),
        verify_blob(tools, home, home.signer().sign(STATEMENT)),
        verify_blob(tools, home, home.handmade(statement=about, change=unlogged())),
        verify_blob(tools, home, home.handmade(statement=about, stamped_late=minutes)),
        verify_blob(tools, home, home.handmade(statement=about, stamps=lambda _: [])),
        verify_blob(tools, home, home.handmade(statement=about, entries=lambda _: [])),
    ]
    assert all(done.returncode != 0 for done in refused), [done.stderr for done in refused]


@needs("cosign")
def test_we_verify_what_cosign_signs_by_identity(home, tools):
    statement = write_statement([("blob", digest_of(BLOB))], PROVENANCE, {"made": "by hand"})
    (tools.directory / "statement.json").write_bytes(statement)
    (tools.directory / "token").write_text(home.token())
    tools.must(
        *("cosign", "attest-blob", "--statement", "statement.json", "--identity-token", "token"),
        *("--signing-config", "signing.json", "--trusted-root", "root.json"),
        *("--bundle", "made.json", "--yes", "blob"),
    )
    data = (tools.directory / "made.json").read_bytes()
    signed = verify_bundle(data, home.trust(), now=utc_now())
    assert signed.signer == Signer(kind="oidc", identity=BUILDER, issuer=home.url)
    assert signed.statement.is_about(digest_of(BLOB))
    assert signed.statement.predicate == {"made": "by hand"}
