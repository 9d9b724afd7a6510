"""The verification policy: exact by default, patterns anchored, every mistake named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from release_evidence_harness import POLICY

from models.verification_policy import (
    AllowedSigner,
    PolicyError,
    VerificationPolicy,
    load_policy,
    read_policy,
)

SIGNER = '[signature]\nsigners = [{kind = "oidc", issuer = "https://i", '


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[", "not valid TOML"),
        ("colour = 1", "colour: unknown key"),
        ("[signature]\nsigner = []", "signature.signer: unknown key"),
        ('[signature]\nsigners = [{kind = "key"}]', "signature.signers.0: needs either"),
        ('[signature]\nsigners = [{kind = "gpg", identity = "a"}]', "signature.signers.0.kind"),
        (SIGNER + 'identity = "a", identity_pattern = "^a$"}]', "needs either"),
        (SIGNER + 'identity_pattern = "a$"}]', "must be anchored"),
        (SIGNER + 'identity_pattern = "^a"}]', "must be anchored"),
        (SIGNER + 'identity_pattern = "^a|b$"}]', "alternative outside"),
        (SIGNER + 'identity_pattern = "^($"}]', "not a regular expression"),
        (SIGNER + 'identity = "builder\u0435"}]', "printable ASCII"),
        (SIGNER + 'identity = " a"}]', "printable ASCII"),
        ('[signature]\nsigners = [{kind = "oidc", identity = "a"}]', "without its issuer"),
        ('[signature]\nsigners = [{kind = "key", identity = "a", issuer = "b"}]', "a key has none"),
        ('[tests]\nsigners = [{kind = "key", identity_pattern = "^a$"}]', "named exactly"),
        ('[provenance]\nsources = [{repository = "r", refs = ["main"]}]', "is not a full name"),
        ('[provenance]\nsources = [{repository = "r", refs = []}]', "sources.0.refs"),
        ('[vulnerabilities.severities]\ncritical = "allow"', "severities.critical"),
        ('[vulnerabilities.severities]\nunknown = "ignore"', "severities.unknown"),
        ("[vulnerabilities]\nmax_data_age_hours = 0", "max_data_age_hours"),
        ("[vulnerabilities]\nmax_data_age_hours = inf", "max_data_age_hours"),
        ("[tests]\nminimum_passed = 0", "tests.minimum_passed"),
        ("[tests]\nminimum_passed = '3'", "tests.minimum_passed"),
        ("[sbom]\nminimum_components = 0", "sbom.minimum_components"),
        ('[rollback]\ntarget_refused = "ignore"', "rollback.target_refused"),
        ("x = " + "[" * 100_000, ""),
        ("a" * 300_000, "not a policy"),
    ],
)
def test_a_mistake_is_named(text, key):
    with pytest.raises(PolicyError) as error:
        load_policy(text)
    assert key in str(error.value)


def test_all_mistakes_are_listed():
    with pytest.raises(PolicyError) as error:
        load_policy("[tests]\nminimum_passed = 0\n[sbom]\nminimum_components = 0\n")
    assert len(str(error.value).splitlines()) == 2


def test_an_empty_policy_allows_nobody():
    empty = load_policy("")
    assert [list(empty.signers(kind)) for kind in ("signature", "provenance", "sbom", "tests")] == (
        [[]] * 4
    )
    assert empty.provenance.builders == [] and empty.vulnerabilities.severities.unknown == "block"


def test_its_digest_is_its_meaning():
    text = load_policy(POLICY)
    assert text.digest() == load_policy(f"# a remark\n{POLICY}").digest()
    assert text.digest() != load_policy(POLICY.replace("main", "next")).digest()
    assert read_policy(text.to_bytes()) == text


@pytest.mark.parametrize("data", [b"", b"[]", b'{"colour": 1}', b"\xff", b'{"name": 1}'])
def test_an_archived_policy_that_is_none_is_refused(data):
    with pytest.raises(PolicyError):
        read_policy(data)


@pytest.mark.parametrize(
    ("pattern", "identity", "allowed"),
    [
        ("^a(b|c)$", "ab", True),
        ("^a(b|c)$", "abc", False),
        ("^a[|]b$", "a|b", True),
        ("^a\\|b$", "a|b", True),
        ("^a.c$", "a\u0441c", False),
        ("^a.c$", "a\nc", False),
        ("^ab$", "ab\n", False),
    ],
)
def test_a_pattern_means_the_whole_identity(pattern, identity, allowed):
    signer = AllowedSigner(kind="oidc", identity_pattern=pattern, issuer="i")
    assert signer.allows("oidc", identity, "i") is allowed


@given(st.text(min_size=1, max_size=30), st.text(max_size=30))
def test_an_exact_name_allows_nothing_else(extra, other):
    signer = AllowedSigner(kind="key", identity="builder")
    for identity in (extra + "builder", "builder" + extra, other):
        assert not signer.allows("key", identity, "") or identity == "builder"


@given(st.text(max_size=200))
def test_no_text_crashes_the_reader(text):
    try:
        assert isinstance(load_policy(text), VerificationPolicy)
    except PolicyError as error:
        assert str(error)
