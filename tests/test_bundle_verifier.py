"""Signed statements: what stands, and every way in which a signature may not."""

import base64
import hashlib
import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from signing_harness import DIGEST, NOW, STATEMENT, World, changed, pem_of, trusted_key
from timestamp_authority import START, Authority

from models.bundle import bundle_digest, write_bundle
from models.dsse import IN_TOTO_TYPE, Envelope, Signature, pae
from models.signed_statement import SignatureRefused, Signer
from models.statement import PROVENANCE, SIGNATURE, write_statement
from models.trust import TrustRoot
from stores.bundle_verifier import verify_bundle


@pytest.fixture(scope="module")
def world():
    return World()


def refusal(data, trust, now=NOW):
    """Why a bundle is refused."""
    with pytest.raises(SignatureRefused) as refused:
        verify_bundle(data, trust, now=now)
    return refused.value


def sealed(world, signature, *, payload=STATEMENT, kind=IN_TOTO_TYPE, stamped=None, **extra):
    """A bundle with a signature made by hand."""
    envelope = Envelope(payload=payload, payload_type=kind, signatures=[Signature(sig=signature)])
    stamps = [world.clock.timestamp(signature if stamped is None else stamped)]
    hint = trusted_key(world.private).hint
    return write_bundle(envelope, **{"hint": hint, "timestamps": stamps} | extra)


def made(world, private=None, digest=None, message=None):
    private = private or world.private
    return private.sign(message or pae(IN_TOTO_TYPE, STATEMENT), ec.ECDSA(digest or SHA256()))


def only_signature(value):
    return value["dsseEnvelope"]["signatures"][0]


def test_a_signed_statement_stands(world):
    at = START + timedelta(days=10)
    data = world.bundle(at=at)
    signed = verify_bundle(data, world.trust(), now=NOW)
    assert signed.statement.is_about(DIGEST)
    assert signed.statement.predicate_type == SIGNATURE
    assert signed.signer == Signer(kind="key", identity="builder")
    assert signed.signed_at == at
    assert signed.key_id == trusted_key(world.private).key_id
    assert signed.digest == bundle_digest(data) == "sha256:" + hashlib.sha256(data).hexdigest()


def test_the_predicate_type_is_visible_so_that_no_attestation_passes_for_a_signature(world):
    data = world.bundle(write_statement([("app", DIGEST)], PROVENANCE, {}))
    signed = verify_bundle(data, world.trust(), now=NOW)
    assert signed.statement.predicate_type == PROVENANCE != SIGNATURE


@pytest.mark.parametrize("name", ["hex", "base64"])
def test_a_key_is_named_in_either_spelling(world, name):
    key = trusted_key(world.private)
    data = sealed(world, made(world), hint=key.key_id if name == "hex" else key.hint)
    assert verify_bundle(data, world.trust(), now=NOW).key_id == key.key_id


# --- The envelope ---
def test_another_payload_type_is_refused(world):
    kind = "application/json"
    signature = made(world, message=pae(kind, STATEMENT))
    assert refusal(sealed(world, signature, kind=kind), world.trust()).code == "payload-type"


def test_a_payload_type_changed_after_signing_is_refused(world):
    signature = made(world, message=pae("application/json", STATEMENT))
    assert refusal(sealed(world, signature), world.trust()).code == "wrong-signature"


def test_a_signature_over_the_payload_without_its_type_is_refused(world):
    signature = made(world, message=STATEMENT)
    assert refusal(sealed(world, signature), world.trust()).code == "wrong-signature"


def test_a_changed_payload_is_refused(world):
    other = base64.b64encode(write_statement([("app", "sha256:" + "cd" * 32)], SIGNATURE, {}))
    data = changed(
        world.bundle(), lambda value: value["dsseEnvelope"].update(payload=other.decode())
    )
    assert refusal(data, world.trust()).code == "wrong-signature"


@pytest.mark.parametrize("place", ["bundle", "envelope", "signature", "statement"])
def test_a_json_key_given_twice_is_refused(world, place):
    data = world.bundle()
    if place == "statement":
        payload = STATEMENT.replace(b'"_type"', b'"predicateType":"x","_type"', 1)
        data = sealed(world, made(world, message=pae(IN_TOTO_TYPE, payload)), payload=payload)
    else:
        key = {"bundle": "mediaType", "envelope": "payloadType", "signature": "keyid"}[place]
        data = data.replace(f'"{key}":'.encode(), f'"{key}":"x","{key}":'.encode(), 1)
    found = refusal(data, world.trust())
    assert found.code == "malformed"
    assert "occurs twice" in found.detail


def test_several_signatures_are_refused(world):
    def twice(value):
        value["dsseEnvelope"]["signatures"] *= 2

    assert refusal(changed(world.bundle(), twice), world.trust()).code == "signature-count"


def test_no_signature_is_refused(world):
    data = changed(world.bundle(), lambda value: value["dsseEnvelope"].update(signatures=[]))
    assert refusal(data, world.trust()).code == "malformed"


def test_a_field_in_a_second_spelling_is_refused(world):
    data = changed(world.bundle(), lambda value: value["dsseEnvelope"].update(payload_type="x"))
    assert refusal(data, world.trust()).code == "malformed"


@pytest.mark.parametrize("payload", ["YWJj\n", "YWJ", "YWJjZB==", "Y-_j", 7, None, ["YWJj"]])
def test_base64_has_one_spelling(world, payload):
    data = changed(world.bundle(), lambda value: value["dsseEnvelope"].update(payload=payload))
    assert "payload" in refusal(data, world.trust()).detail


def test_another_media_type_is_refused(world):
    data = changed(
        world.bundle(),
        lambda value: value.update(
            mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"
        ),
    )
    assert refusal(data, world.trust()).code == "malformed"
    data = changed(world.bundle(), lambda value: value.pop("mediaType"))
    assert refusal(data, world.trust()).code == "malformed"


def test_a_signature_over_bare_bytes_is_refused(world):
    data = changed(world.bundle(), lambda value: value.update(messageSignature={}))
    assert "states nothing" in refusal(data, world.trust()).detail


# --- Keys ---
def test_an_unknown_key_is_refused(world):
    other = ec.generate_private_key(ec.SECP256R1())
    assert refusal(world.bundle(private=other), world.trust()).code == "key-unknown"


def test_an_unknown_key_id_is_refused_even_where_the_hint_is_known(world):
    data = changed(world.bundle(), lambda value: only_signature(value).update(keyid="other"))
    assert refusal(data, world.trust()).code == "key-unknown"


def test_a_missing_key_id_is_refused(world):
    def unnamed(value):
        only_signature(value).update(keyid="")
        value["verificationMaterial"]["publicKey"] = {}

    assert refusal(changed(world.bundle(), unnamed), world.trust()).code == "key-missing"


def test_hint_and_key_id_may_not_name_two_keys(world):
    other = trusted_key(ec.generate_private_key(ec.SECP256R1()))
    trust = world.trust()
    trust = trust.model_copy(update={"signing_keys": [*trust.signing_keys, other]})
    data = changed(world.bundle(), lambda value: only_signature(value).update(keyid=other.hint))
    assert refusal(data, trust).code == "key-conflict"


def test_a_signature_under_another_keys_name_is_refused(world):
    other = ec.generate_private_key(ec.SECP256R1())
    data = sealed(world, made(world, private=other))
    assert refusal(data, world.trust()).code == "wrong-signature"


def test_raw_r_and_s_are_refused(world):
    r, s = decode_dss_signature(made(world))
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert refusal(sealed(world, raw), world.trust()).code == "wrong-signature"


def test_der_with_something_after_it_is_refused(world):
    data = sealed(world, made(world) + b"\x00")
    assert refusal(data, world.trust()).code == "wrong-signature"


def test_another_hash_is_refused(world):
    data = sealed(world, made(world, digest=SHA384()))
    assert refusal(data, world.trust()).code == "wrong-signature"


def test_a_signature_of_another_algorithm_is_refused(world):
    message = pae(IN_TOTO_TYPE, STATEMENT)
    by_rsa = rsa.generate_private_key(65537, 2048).sign(message, padding.PKCS1v15(), SHA256())
    by_ed25519 = ed25519.Ed25519PrivateKey.generate().sign(message)
    for signature in (by_rsa, by_ed25519):
        assert refusal(sealed(world, signature), world.trust()).code == "wrong-signature"


@pytest.mark.parametrize(
    "private",
    [
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["ed25519", "rsa", "p384"],
)
def test_a_trust_root_takes_no_key_of_another_algorithm(private):
    with pytest.raises(ValueError, match="is not an ECDSA key on P-256"):
        trusted_key(private)


def test_a_trust_root_takes_no_other_algorithm_for_a_key(world):
    with pytest.raises(ValueError, match="algorithm"):
        trusted_key(world.private, algorithm="rsa-pss-sha256")


def test_a_trust_root_takes_no_key_twice(world):
    key = trusted_key(world.private)
    with pytest.raises(ValueError, match="a key is there twice"):
        TrustRoot(signing_keys=[key, trusted_key(world.private, identity="other")])


def test_a_certificate_does_not_stand_in_for_a_key(world):
    """Not even one of a key that is trusted as a key: nobody is trusted to issue it."""
    certificate = world.clock.own.public_bytes(Encoding.DER)
    data = sealed(world, made(world), hint=None, certificate=certificate)
    with pytest.raises(SignatureRefused):
        verify_bundle(data, world.trust(), now=NOW)


def test_a_key_does_not_stand_in_for_a_certificate(world):
    """Where only certificates are trusted, a bare key is a stranger."""
    trust = world.trust().model_copy(update={"signing_keys": []})
    assert refusal(world.bundle(), trust).code == "key-unknown"


def test_key_and_certificate_at_once_are_refused(world):
    certificate = base64.b64encode(world.clock.own.public_bytes(Encoding.DER)).decode()

    def both(value):
        value["verificationMaterial"]["certificate"] = {"rawBytes": certificate}

    assert "either" in refusal(changed(world.bundle(), both), world.trust()).detail


def test_a_bundle_may_not_bring_its_own_root(world):
    root = base64.b64encode(world.clock.root.public_bytes(Encoding.DER)).decode()
    chain = {"certificates": [{"rawBytes": root}]}

    def with_chain(value):
        value["verificationMaterial"]["x509CertificateChain"] = chain

    assert "chain of its own" in refusal(changed(world.bundle(), with_chain), world.trust()).detail


# --- Trusted time ---
def test_without_a_timestamp_it_is_refused(world):
    assert refusal(world.bundle(clocks=[]), world.trust()).code == "timestamp-missing"


def test_a_strangers_timestamp_is_refused_though_it_brings_its_root(world):
    stranger = Authority()  # same names, other keys
    found = refusal(world.bundle(clocks=[stranger]), world.trust())
    assert found.code == "timestamp-untrusted"


def test_no_trusted_clock_trusts_no_timestamp(world):
    trust = world.trust().model_copy(update={"timestamp_authorities": []})
    assert refusal(world.bundle(), trust).code == "timestamp-untrusted"


def test_a_timestamp_over_another_signature_is_refused(world):
    data = sealed(world, made(world), stamped=made(world))
    found = refusal(data, world.trust())
    assert found.code == "timestamp-untrusted"
    assert "Mismatch" in found.detail


@pytest.mark.parametrize("changes", [{"valid_until": START}, {"valid_from": NOW}])
def test_a_timestamp_outside_of_the_authoritys_days_is_refused(world, changes):
    clock = world.clock.trusted(**changes)
    trust = world.trust().model_copy(update={"timestamp_authorities": [clock]})
    assert refusal(world.bundle(), trust).code == "timestamp-untrusted"


@pytest.mark.parametrize("days", [-1, 31])
def test_a_timestamp_outside_of_its_certificates_days_is_refused(days):
    world = World()
    world.clock = Authority(days=30)
    at = START + timedelta(days=days)
    clock = world.clock.trusted(valid_from=START - timedelta(days=100))
    trust = world.trust(valid_from=START - timedelta(days=100))
    trust = trust.model_copy(update={"timestamp_authorities": [clock]})
    assert refusal(world.bundle(at=at), trust).code == "timestamp-untrusted"


def test_a_certificate_that_is_not_for_timestamps_gives_none():
    world = World()
    world.clock = Authority(eku=False)
    assert refusal(world.bundle(), world.trust()).code == "timestamp-untrusted"


def test_a_damaged_timestamp_is_refused(world):
    signature = made(world)
    whole = world.clock.timestamp(signature)
    for stamp in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"\x30\x00", b"no"):
        data = sealed(world, signature, timestamps=[stamp])
        assert refusal(data, world.trust()).code == "timestamp-untrusted"


def test_a_rejected_timestamp_is_refused(world):
    rejected = base64.b64decode("MAUwAwIBAg==")  # status: rejection, no token
    data = sealed(world, made(world), timestamps=[rejected])
    assert refusal(data, world.trust()).code == "timestamp-untrusted"


def test_the_earliest_trusted_timestamp_counts(world):
    stranger, later = Authority("stranger"), world.clock
    stranger.now, signature, stamps = START - timedelta(days=5), made(world), []
    for days in (20, 15):
        later.now = START + timedelta(days=days)
        stamps.append(later.timestamp(signature))
    data = sealed(world, signature, timestamps=[*stamps, stranger.timestamp(signature)])
    signed = verify_bundle(data, world.trust(), now=NOW)
    assert signed.signed_at == START + timedelta(days=15)


def test_time_in_the_payload_has_no_say(world):
    """The payload says a day on which the key was good; the trusted clock knows better."""
    claims = {"metadata": {"startedOn": "2026-01-05T00:00:00Z", "signedAt": "2026-01-05T00:00:00Z"}}
    late = START + timedelta(days=120)
    data = world.bundle(write_statement([("app", DIGEST)], PROVENANCE, claims), at=late)
    assert refusal(data, world.trust(), now=late).code == "key-not-valid"


def test_a_signature_from_the_future_is_refused(world):
    data = world.bundle(at=NOW + timedelta(minutes=2))
    assert refusal(data, world.trust()).code == "future"


def test_clocks_may_differ_a_little(world):
    data = world.bundle(at=NOW + timedelta(seconds=59))
    assert verify_bundle(data, world.trust(), now=NOW)


# --- A key's days ---
def test_what_a_key_signed_in_its_days_stands_after_they_are_over(world):
    data = world.bundle(at=START + timedelta(days=89))
    assert verify_bundle(data, world.trust(), now=START + timedelta(days=3000))


@pytest.mark.parametrize(("days", "stands"), [(29, False), (30, True), (89, True), (90, False)])
def test_a_key_signs_from_its_first_moment_to_before_its_last(world, days, stands):
    trust = world.trust(valid_from=START + timedelta(days=30))
    data, now = world.bundle(at=START + timedelta(days=days)), START + timedelta(days=200)
    if stands:
        assert verify_bundle(data, trust, now=now)
    else:
        assert refusal(data, trust, now=now).code == "key-not-valid"


def test_a_rotated_out_key_cannot_sign_with_a_back_dated_time(world):
    """The only clock that may date a signature back is one that is not trusted."""
    late, back_dated = world.clock, Authority()
    late.now, back_dated.now = START + timedelta(days=100), START + timedelta(days=10)
    signature = made(world)
    stamps = [back_dated.timestamp(signature), late.timestamp(signature)]
    data = sealed(world, signature, timestamps=stamps)
    found = refusal(data, world.trust(), now=START + timedelta(days=101))
    assert found.code == "key-not-valid"


REVOKED = START + timedelta(days=20)


@pytest.mark.parametrize(
    ("after", "stands"),
    [(timedelta(seconds=-1), True), (timedelta(0), False), (timedelta(days=1), False)],
)
def test_a_revoked_key_is_judged_by_trusted_time(world, after, stands):
    trust = world.trust(revoked_at=REVOKED, revoked_because="stolen laptop")
    data = world.bundle(at=REVOKED + after)
    if stands:
        assert verify_bundle(data, trust, now=NOW)
    else:
        found = refusal(data, trust)
        assert found.code == "key-revoked"
        assert "stolen laptop" in found.detail


def test_a_revoked_key_without_trusted_time_is_refused(world):
    trust = world.trust(revoked_at=REVOKED, revoked_because="stolen laptop")
    assert refusal(world.bundle(clocks=[]), trust).code == "timestamp-missing"
    stranger = Authority()
    stranger.now = START + timedelta(days=1)
    data = world.bundle(clocks=[stranger])
    assert refusal(data, trust).code == "timestamp-untrusted"


def test_a_revocation_needs_a_reason(world):
    with pytest.raises(ValueError, match="revoked_because"):
        world.trust(revoked_at=REVOKED)


# --- Statements ---
def signed_payload(world, value):
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    return sealed(world, made(world, message=pae(IN_TOTO_TYPE, payload)), payload=payload)


def statement(**changes):
    return json.loads(STATEMENT) | changes


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (statement(subject=[{"name": "app", "digest": {"sha512": "ab" * 64}}]), "needs a sha256"),
        (statement(subject=[{"name": "app", "digest": {"sha256": "AB" * 32}}]), "sha256"),
        (statement(subject=[{"name": "app", "digest": {"sha256": "ab" * 31}}]), "sha256"),
        (statement(subject=[{"name": "app", "digest": {"sha256": "ab" * 32 + "\n"}}]), "sha256"),
        (statement(subject=[{"name": "app"}]), "digest"),
        (statement(subject=[]), "subject"),
        (statement(_type="https://in-toto.io/Statement/v0.1"), "_type"),
        (statement(predicateType=""), "predicateType"),
        (statement(predicate=[]), "predicate"),
        (statement(other=1), "other"),
        ([statement()], "not a JSON object"),
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (STATEMENT[:-1] + b',"x":' + b"[" * 70 + b"]" * 70 + b"}", "nested deeper"),
        (STATEMENT[:-1] + b',"x":' + b"[" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_a_statement_that_is_none_is_refused(world, value, said):
    found = refusal(signed_payload(world, value), world.trust())
    assert found.code == "malformed"
    assert said in found.detail


@pytest.mark.parametrize("missing", ["_type", "predicateType", "subject"])
def test_a_statement_needs_all_its_parts(world, missing):
    value = statement()
    del value[missing]
    found = refusal(signed_payload(world, value), world.trust())
    assert found.code == "malformed"
    assert missing in found.detail


def test_an_oversize_bundle_is_refused_unread(world):
    found = refusal(b'"' + b"x" * (16 * 1024**2) + b'"', world.trust())
    assert found.code == "malformed"
    assert "the limit is" in found.detail


def test_a_trust_roots_digest_is_of_what_it_means(world):
    trust = world.trust()
    again = TrustRoot.model_validate_json(trust.to_bytes())
    assert again.digest() == trust.digest()
    assert world.trust(identity="other").digest() != trust.digest()
    assert pem_of(world.private) in trust.to_bytes().decode().replace("\\n", "\n")
