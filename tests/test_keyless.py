"""Signing by identity: what stands, and every way in which a certificate may not."""

import pytest
from keyless_harness import BUILDER, Home
from signing_harness import DIGEST, STATEMENT

from models.signed_statement import Signer
from stores.bundle_verifier import verify_bundle
from stores.ledger import utc_now


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with Home(tmp_path_factory.mktemp("home")).served() as home:
        yield home


@pytest.fixture(scope="module")
def bundle(home):
    return home.signer().sign(STATEMENT)


def test_what_an_identity_signed_stands(home, bundle):
    signed = verify_bundle(bundle, home.trust(), now=utc_now())
    assert signed.signer == Signer(kind="oidc", identity=BUILDER, issuer=home.url)
    assert signed.statement.is_about(DIGEST)
    assert abs((utc_now() - signed.signed_at).total_seconds()) < 60
