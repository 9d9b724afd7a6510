"""Signing by identity: what stands, and every way in which a certificate may not."""

import base64
import json
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from keyless_harness import BUILDER, Home, entry_of, instead, unlogged, without
from pydantic import ValidationError
from signing_harness import DIGEST, STATEMENT, World, changed
from timestamp_authority import Authority

from models.certificates import ISSUER_V1, ISSUER_V2
from models.signed_statement import SignatureRefused, Signer
from models.statement import SIGNATURE, write_statement
from models.trust import KeylessAuthority, TrustRoot
from models.verification_policy import AllowedSigner, PolicyError, load_policy
from stores.bundle_verifier import verify_bundle
from stores.id_tokens import TokenUnavailable
from stores.ledger import utc_now
from stores.signing import SigningFailed

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with Home(tmp_path_factory.mktemp("home")).served() as home:
        yield home


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Somebody else's authority, which names everything as ours does."""
    with Home(tmp_path_factory.mktemp("other")).served() as home:
        yield home


@pytest.fixture(scope="module")
def bundle(home):
    return home.signer().sign(STATEMENT)


def accepted(data, trust):
    return verify_bundle(data, trust, now=utc_now() + 30 * MINUTE)


def refusal(data, trust):
    """Why a bundle is refused."""
    with pytest.raises(SignatureRefused) as refused:
        accepted(data, trust)
    return refused.value


def allowed(signer, **said):
    return AllowedSigner(**said).allows(signer.kind, signer.identity, signer.issuer)


# --- What stands ---
def test_what_an_identity_signed_stands(home, bundle):
    signed = verify_bundle(bundle, home.trust(), now=utc_now())
    assert signed.signer == Signer(kind="oidc", identity=BUILDER, issuer=home.url)
    assert signed.statement.is_about(DIGEST)
    assert abs((utc_now() - signed.signed_at).total_seconds()) < 60
    assert allowed(signed.signer, kind="oidc", identity=BUILDER, issuer=home.url)


def test_what_is_made_by_hand_stands_so_that_one_change_is_what_refuses_it(home):
    assert accepted(home.handmade(), home.trust()).signer.identity == BUILDER


def test_each_statement_has_a_key_of_its_own(home, bundle):
    again = home.signer().sign(STATEMENT)
    keys = {accepted(each, home.trust()).key_id for each in (bundle, again)}
    assert len(keys) == 2


def test_it_stands_after_the_certificate_and_its_authority_are_over(home):
    data = home.handmade()
    ended = at(home, utc_now() + 5 * MINUTE)
    assert accepted(data, ended).signer.identity == BUILDER


@pytest.mark.parametrize("identity", ["ana@example.org", "https://ci.example.org/a@refs/x"])
def test_an_identity_of_each_kind_is_read_back(home, identity):
    assert accepted(home.handmade(identity=identity), home.trust()).signer.identity == identity


# --- Identity and issuer ---
@pytest.mark.parametrize(
    "identity",
    [BUILDER + "-evil", "urn:evil:" + BUILDER, BUILDER.upper(), BUILDER + "/", BUILDER + "%00"],
)
def test_a_look_alike_identity_is_somebody_else(home, identity):
    signer = accepted(home.handmade(identity=identity), home.trust()).signer
    assert signer.identity == identity
    assert not allowed(signer, kind="oidc", identity=BUILDER, issuer=home.url)
    exact = "^" + BUILDER + "$"
    assert not allowed(signer, kind="oidc", identity_pattern=exact, issuer=home.url)


def test_an_unanchored_identity_is_no_policy(home):
    said = f'kind = "oidc", issuer = "{home.url}", identity_pattern = "{BUILDER}"'
    with pytest.raises(PolicyError, match="must be anchored"):
        load_policy(f"[signature]\nsigners = [{{{said}}}]")


def test_the_right_subject_of_another_issuer_is_somebody_else(home, other):
    both = TrustRoot(keyless_authorities=[home.keys.trusted(), other.keys.trusted()])
    signer = accepted(other.handmade(), both).signer
    assert signer.identity == BUILDER
    assert not allowed(signer, kind="oidc", identity=BUILDER, issuer=home.url)


def test_an_issuer_whose_tokens_the_authority_does_not_take_is_refused(home):
    data = home.handmade(issuer="https://evil.example")
    assert refusal(data, home.trust()).code == "issuer-unknown"


NO_ISSUER = without(ISSUER_V1, ISSUER_V2)
TWO_ISSUERS = instead(x509.UnrecognizedExtension(ISSUER_V1, b"https://evil.example"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (NO_ISSUER, "names no issuer"),
        (TWO_ISSUERS, "names 2 issuers"),
        (instead(x509.UnrecognizedExtension(ISSUER_V2, b"https://x")), "not a UTF8String"),
        (instead(x509.UnrecognizedExtension(ISSUER_V1, b"\xff")), "not UTF-8"),
        (without(ExtensionOID.SUBJECT_ALTERNATIVE_NAME), "no subject alternative name"),
        (
            instead(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(BUILDER), x509.RFC822Name("a@b")]
                ),
                critical=True,
            ),
            "2 subject alternative names",
        ),
        (
            instead(x509.SubjectAlternativeName([x509.DNSName("builder")]), critical=True),
            "is a DNSName",
        ),
        (
            instead(
                x509.SubjectAlternativeName(
                    [x509.OtherName(ISSUER_V1, asn1.encode_der("builder"))]
                ),
                critical=True,
            ),
            "is a OtherName",
        ),
    ],
)
def test_a_certificate_that_does_not_name_one_signer_is_refused(home, change, words):
    found = refusal(home.handmade(change=change), home.trust())
    assert (found.code, words in found.detail) == ("certificate-malformed", True), found


def test_an_absent_issuer_never_matches(home):
    signer = Signer(kind="oidc", identity=BUILDER, issuer="")
    assert not allowed(signer, kind="oidc", identity=BUILDER, issuer=home.url)
    with pytest.raises(ValidationError, match="without its issuer"):
        AllowedSigner(kind="oidc", identity=BUILDER)
    with pytest.raises(ValidationError):
        AllowedSigner(kind="oidc", identity=BUILDER, issuer="")


# --- Keys and certificates ---
def test_a_certificate_where_a_key_is_needed_does_not_count(home, bundle):
    signer = accepted(bundle, home.trust()).signer
    assert not allowed(signer, kind="key", identity=BUILDER)
    assert refusal(bundle, World().trust()).code == "certificate-unknown"


def test_a_key_where_a_certificate_is_needed_does_not_count(home):
    world = World()
    data = world.bundle()
    signer = accepted(data, world.trust(identity=BUILDER)).signer
    assert not allowed(signer, kind="oidc", identity=BUILDER, issuer=home.url)
    assert refusal(data, home.trust()).code == "key-unknown"


def test_a_bundle_with_a_key_and_a_certificate_is_refused(home, bundle):
    data = changed(bundle, lambda value: value["verificationMaterial"].update(publicKey={}))
    assert refusal(data, home.trust()).code == "malformed"


def test_a_bundle_that_brings_its_own_root_is_refused(home, other):
    data = other.handmade()
    chain = {"certificates": [{"rawBytes": base64.b64encode(b"root").decode()}]}

    def bring(value):
        value["verificationMaterial"].update(x509CertificateChain=chain)

    found = refusal(changed(data, bring), home.trust())
    assert (found.code, "chain of its own" in found.detail) == ("malformed", True)


@pytest.mark.parametrize("named", ["as ours", "with its root"])
def test_a_certificate_of_another_authority_is_refused(home, other, named):
    data = home.handmade(chain=other.authority._issuer.issue, issuer=home.url)
    assert other.keys.chain[0].subject == home.keys.chain[0].subject
    assert refusal(data, home.trust()).code == "certificate-unknown"


def test_a_signature_by_another_key_than_the_certified_is_refused(home, bundle):
    signature = json.loads(home.handmade())["dsseEnvelope"]["signatures"]
    data = changed(bundle, lambda value: value["dsseEnvelope"].update(signatures=signature))
    assert refusal(data, home.trust()).code == "wrong-signature"


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_a_key_of_another_curve_is_refused(home, bundle, curve):
    with pytest.raises(ValueError, match="P-256"):
        home.handmade(private=ec.generate_private_key(curve))
    other_key = ec.generate_private_key(curve)
    leaf, *_ = home.authority._issuer.issue(BUILDER, home.url, other_key.public_key())
    der = base64.b64encode(leaf.public_bytes(Encoding.DER))

    def replace(value):
        value["verificationMaterial"]["certificate"]["rawBytes"] = der.decode()

    assert refusal(changed(bundle, replace), home.trust()).code == "certificate-malformed"


@pytest.mark.parametrize(
    "change",
    [
        instead(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])),
        without(ExtensionOID.EXTENDED_KEY_USAGE),
        without(ExtensionOID.KEY_USAGE),
        without(ExtensionOID.AUTHORITY_KEY_IDENTIFIER),
        instead(x509.BasicConstraints(ca=True, path_length=None), critical=True),
    ],
)
def test_a_certificate_for_another_purpose_is_refused(home, change):
    assert refusal(home.handmade(change=change), home.trust()).code == "keyless"


# --- Time ---
def at(home, until: datetime, *parts):
    """Trust that ended at a time: all of it, or some parts."""
    root = home.keys.trusted_root()
    end = until.strftime("%Y-%m-%dT%H:%M:%SZ")
    for part in parts or ("certificateAuthorities", "timestampAuthorities", "ctlogs", "tlogs"):
        [one] = root[part]
        (one if "validFor" in one else one["publicKey"])["validFor"]["end"] = end
    return home.trust(trusted_root=root)


@pytest.mark.parametrize("late", [11 * MINUTE, -2 * MINUTE], ids=["after", "before"])
def test_a_certificate_that_was_not_valid_at_signing_time_is_refused(home, late):
    found = refusal(home.handmade(stamped_late=late), home.trust())
    assert (found.code, "the certificate is for" in found.detail) == ("certificate-not-valid", True)


def test_a_missing_timestamp_is_refused(home):
    assert refusal(home.handmade(stamps=lambda _: []), home.trust()).code == "timestamp-missing"


def test_an_untrusted_timestamp_is_refused(home, other):
    stranger = other.keys.timestamps
    data = home.handmade(stamps=lambda each: [stranger.timestamp(each)])
    assert refusal(data, home.trust()).code == "timestamp-untrusted"


def test_a_timestamp_over_something_else_is_refused(home):
    ours = home.keys.timestamps
    data = home.handmade(stamps=lambda _: [ours.timestamp(b"other")])
    assert refusal(data, home.trust()).code == "timestamp-untrusted"


def test_a_clock_of_the_root_that_is_not_of_the_authority_does_not_count(home):
    """Or whoever may date key signatures could date certificates of an authority."""
    clock = Authority(start=utc_now() - timedelta(days=1))
    clock.now = utc_now()
    data = home.handmade(stamps=lambda each: [clock.timestamp(each)])
    trust = home.trust().model_copy(update={"timestamp_authorities": [clock.trusted()]})
    assert refusal(data, trust).code == "timestamp-untrusted"


def test_time_taken_from_the_payload_does_not_count(home):
    said = write_statement([("app", DIGEST)], SIGNATURE, {"finishedOn": utc_now().isoformat()})
    late = home.handmade(statement=said, stamped_late=11 * MINUTE)
    assert refusal(late, home.trust()).code == "certificate-not-valid"
    undated = home.handmade(statement=said, stamps=lambda _: [])
    assert refusal(undated, home.trust()).code == "timestamp-missing"


def test_the_time_that_a_log_entry_says_does_not_count(home):
    now = str(int(utc_now().timestamp()))
    said = {"integratedTime": now, "inclusionPromise": {"signedEntryTimestamp": "AAAA"}}

    def dated(entries):
        return [entry | said for entry in entries]

    undated = home.handmade(stamps=lambda _: [], entries=dated)
    assert refusal(undated, home.trust()).code == "timestamp-missing"
    assert refusal(home.handmade(entries=dated), home.trust()).code == "keyless"


def test_what_is_signed_in_the_future_is_refused(home):
    data = home.handmade(stamped_late=5 * MINUTE)
    with pytest.raises(SignatureRefused, match="future"):
        verify_bundle(data, home.trust(), now=utc_now())


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ("certificateAuthorities", "keyless"),
        ("timestampAuthorities", "timestamp-untrusted"),
        ("ctlogs", "keyless"),
        ("tlogs", "keyless"),
    ],
)
def test_a_part_of_the_authority_that_ended_before_signing_does_not_count(home, part, code):
    assert refusal(home.handmade(), at(home, utc_now() - MINUTE, part)).code == code


# --- Certificate transparency ---
def test_a_certificate_without_an_sct_is_refused(home):
    assert "signed certificate timestamp" in refusal_of(home, unlogged())


def test_a_forged_sct_is_refused(home, other):
    def by_another_log(timestamps):
        return timestamps[:-8] + bytes(8)

    assert "SCT" in refusal_of(home, unlogged(by_another_log))
    home_key, home.keys.certificate_log = home.keys.certificate_log, other.keys.certificate_log
    try:
        data = home.handmade()
    finally:
        home.keys.certificate_log = home_key
    assert "SCT" in refusal(data, home.trust()).detail


def test_an_sct_of_another_certificate_is_refused(home):
    taken = []
    home.handmade(change=lambda found: taken.append(found[-1].value.value) or found)
    assert "SCT" in refusal_of(home, unlogged(lambda _: taken[-1]))


def refusal_of(home, change):
    found = refusal(home.handmade(change=change), home.trust())
    assert found.code == "keyless"
    return found.detail


# --- The log ---
def test_a_log_entry_of_another_bundle_is_refused(home):
    foreign = entry_of(home.handmade(statement=write_statement([("b", DIGEST)], SIGNATURE, {})))
    found = refusal(home.handmade(entries=lambda _: [foreign]), home.trust())
    assert (found.code, "inconsistent" in found.detail) == ("keyless", True)


def test_a_log_entry_of_the_same_statement_signed_again_is_refused(home):
    foreign = entry_of(home.handmade())
    assert refusal(home.handmade(entries=lambda _: [foreign]), home.trust()).code == "keyless"


@pytest.mark.parametrize("entries", [lambda _: [], lambda found: found * 2])
def test_no_log_entry_or_two_are_refused(home, entries):
    assert refusal(home.handmade(entries=entries), home.trust()).code == "log-missing"


def test_a_missing_inclusion_proof_is_refused(home):
    def unproven(entries):
        [entry] = entries
        return [{name: each for name, each in entry.items() if name != "inclusionProof"}]

    assert refusal(home.handmade(entries=unproven), home.trust()).code == "log-missing"

    def unsigned(entries):
        del entries[0]["inclusionProof"]["checkpoint"]
        return entries

    assert refusal(home.handmade(entries=unsigned), home.trust()).code == "keyless"


def test_a_log_of_another_key_is_refused(home, other):
    root = home.keys.trusted_root() | {"tlogs": other.keys.trusted_root()["tlogs"]}
    assert refusal(home.handmade(), home.trust(trusted_root=root)).code == "keyless"


@pytest.mark.parametrize("field", ["rootHash", "hashes", "treeSize", "logIndex"])
def test_a_changed_inclusion_proof_is_refused(home, field):
    home.handmade()  # so that there is a path

    def spoil(entries):
        proof, hash_ = entries[0]["inclusionProof"], base64.b64encode(bytes(32)).decode()
        size = int(proof["treeSize"])
        wrong = {"rootHash": hash_, "hashes": [hash_, *proof["hashes"][1:]]}
        wrong |= {"treeSize": str(2 * size + 1), "logIndex": "0"}
        proof[field] = wrong[field]
        return entries

    assert refusal(home.handmade(entries=spoil), home.trust()).code == "keyless"


# --- The trust root ---
@pytest.mark.parametrize(
    "part", ["certificateAuthorities", "timestampAuthorities", "ctlogs", "tlogs"]
)
def test_a_trusted_root_needs_all_its_parts(home, part):
    root = home.keys.trusted_root() | {part: []}
    with pytest.raises(ValidationError, match="trusted_root"):
        KeylessAuthority(name="x", trusted_root=root, issuers=[home.url])


def test_a_trusted_root_must_be_one(home):
    with pytest.raises(ValidationError, match="mediaType"):
        KeylessAuthority(name="x", trusted_root={}, issuers=[home.url])


# --- Signing ---
def test_a_token_of_another_issuer_signs_nothing(home):
    before = home.authority.log.size
    with pytest.raises(SigningFailed, match=r"not of https://elsewhere .*oidc_provider"):
        home.signer(tokens=home.token, issuer="https://elsewhere").sign(STATEMENT)
    assert home.authority.log.size == before


def test_what_the_authority_says_against_a_token_is_said(home, other):
    own = home.signer(tokens=lambda: forged_token(home, other.keys.tokens))
    with pytest.raises(SigningFailed, match="Signature verification failed"):
        own.sign(STATEMENT)


def forged_token(home, key):
    import jwt

    now = int(utc_now().timestamp())
    claims = {"iss": home.url, "aud": "sigstore", "sub": BUILDER, "iat": now, "exp": now + 60}
    return jwt.encode(claims, key, "ES256")


def test_a_service_that_does_not_answer_signs_nothing(home, tmp_path):
    config = home.keys.trust_config()
    for service in ("caUrls", "rekorTlogUrls", "tsaUrls"):
        said = json.loads(json.dumps(config))
        said["signingConfig"][service][0]["url"] = "http://127.0.0.1:9"
        services = tmp_path / "services.json"
        services.write_text(json.dumps(said))
        with pytest.raises(SigningFailed, match="keyless: "):
            home.signer(services=services).sign(STATEMENT)


def test_services_of_another_root_sign_nothing(home, other, tmp_path):
    said = home.keys.trust_config() | {"trustedRoot": other.keys.trusted_root()}
    services = tmp_path / "services.json"
    services.write_text(json.dumps(said))
    with pytest.raises(SigningFailed, match="keyless: "):
        home.signer(services=services).sign(STATEMENT)


@pytest.mark.parametrize("text", ["", "{}", '{"mediaType": "x"}', "[]"])
def test_services_that_are_none_are_named(home, tmp_path, text):
    services = tmp_path / "services.json"
    services.write_text(text)
    with pytest.raises(SigningFailed, match=r"services\.json: "):
        home.signer(services=services)


def test_no_token_no_signature(home):
    def none():
        raise TokenUnavailable("there is none")

    with pytest.raises(SigningFailed, match="token: there is none"):
        home.signer(tokens=none).sign(STATEMENT)
    with pytest.raises(SigningFailed, match="token: "):
        home.signer(tokens=lambda: "nonsense").sign(STATEMENT)
