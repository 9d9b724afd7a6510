"""Signing by a key in a file and by a KMS; keys that are rotated and revoked."""

import json
import stat
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Signature, Signer
from signing_harness import STATEMENT, World, pem_of
from timestamp_authority import START

from models.dsse import Envelope
from models.dsse import Signature as DsseSignature
from models.signed_statement import SignatureRefused
from models.strict_json import EvidenceError
from models.trust import TrustRoot
from stores import signing
from stores.bundle_verifier import verify_bundle
from stores.keys import KeyFileError, create_private_key
from stores.signing import KmsSigner, SigningFailed, file_signer
from stores.signing_keys import REGISTRY, SigningKeys

NOW = START + timedelta(days=10)


class Clock:
    """The time of the registry and of the timestamp authority at once."""

    def __init__(self, world):
        self.world = world
        self.set(NOW)

    def set(self, now):
        self.now = self.world.clock.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def world():
    return World()


@pytest.fixture
def clock(world):
    return Clock(world)


@pytest.fixture
def keys(tmp_path, clock):
    return SigningKeys(tmp_path / "keys", "builder", clock=clock)


def key_files(keys):
    return sorted(path.stem for path in keys.directory.glob("*.pem"))


# --- A key in a file ---
def test_a_key_in_a_file_signs(tmp_path, world):
    path = tmp_path / "key.pem"
    create_private_key(path, world.private)
    data = file_signer(path, pem_of(world.private), [world.clock]).sign(STATEMENT)
    assert verify_bundle(data, world.trust(), now=NOW).signer.identity == "builder"


def test_a_key_file_open_to_others_is_refused(tmp_path, world):
    path = tmp_path / "key.pem"
    create_private_key(path, world.private)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="others may read it"):
        file_signer(path, pem_of(world.private), [])


def test_the_private_half_of_another_key_is_refused(tmp_path, world):
    path = tmp_path / "key.pem"
    create_private_key(path, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(SigningFailed, match="does not match"):
        file_signer(path, pem_of(world.private), [])


def test_what_is_no_statement_is_not_signed(world):
    with pytest.raises(EvidenceError):
        world.signer().sign(b"{}")


def test_without_a_timestamp_nothing_is_signed(world):
    class Down:
        def timestamp(self, message):
            raise ConnectionError("refused")

    with pytest.raises(SigningFailed, match="timestamp: ConnectionError"):
        world.signer(clocks=[Down()]).sign(STATEMENT)


# --- A KMS ---
class Kms(Signer):
    """A KMS in this process, under the scheme ``hsm``; what it does wrong is set by the URI."""

    private = ec.generate_private_key(ec.SECP256R1())

    def __init__(self, fault):
        self.fault = fault

    @classmethod
    def from_priv_key_uri(cls, uri, public_key, secrets_handler=None):
        fault = uri.partition(":")[2]
        if fault == "locked":
            raise PermissionError("locked")
        return cls(fault)

    @property
    def public_key(self):
        raise NotImplementedError

    def sign(self, payload):
        if self.fault == "down":
            raise ConnectionError("unreachable")
        made = self.private.sign(payload, ec.ECDSA(SHA256()))
        if self.fault == "raw":
            r, s = decode_dss_signature(made)
            made = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        if self.fault == "other":
            made = ec.generate_private_key(ec.SECP256R1()).sign(payload, ec.ECDSA(SHA256()))
        return Signature("id", made.hex())


@pytest.fixture
def kms(monkeypatch):
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "hsm", Kms)


def test_a_kms_signs(world, kms):
    data = KmsSigner("hsm:good", pem_of(Kms.private), [world.clock]).sign(STATEMENT)
    world.private = Kms.private
    assert verify_bundle(data, world.trust(), now=NOW).signer.identity == "builder"


def test_a_kms_of_securesystemslib_signs(tmp_path, world):
    path = tmp_path / "key.pem"
    create_private_key(path, world.private)
    signer = KmsSigner(f"file2:{path}", pem_of(world.private), [world.clock])
    assert verify_bundle(signer.sign(STATEMENT), world.trust(), now=NOW)


@pytest.mark.parametrize(
    ("fault", "said"), [("down", "unreachable"), ("raw", "not ECDSA"), ("other", "not ECDSA")]
)
def test_a_kms_that_does_not_sign_right_signs_nothing(world, kms, fault, said):
    with pytest.raises(SigningFailed, match=said):
        KmsSigner(f"hsm:{fault}", pem_of(Kms.private), [world.clock]).sign(STATEMENT)


@pytest.mark.parametrize(
    ("uri", "said"), [("hsm:locked", "locked"), ("envvar:KEY", "is none of"), ("", "is none of")]
)
def test_a_kms_key_that_cannot_be_opened_is_said(world, kms, uri, said):
    with pytest.raises(SigningFailed, match=said):
        KmsSigner(uri, pem_of(Kms.private), [world.clock])


def test_every_scheme_is_one_that_the_library_opens():
    assert set(signing.KMS_SCHEMES) <= set(SIGNER_FOR_URI_SCHEME)


def test_a_kms_key_on_another_curve_is_refused(kms):
    with pytest.raises(ValueError, match="P-256"):
        KmsSigner("hsm:good", pem_of(ec.generate_private_key(ec.SECP384R1())), [])


# --- Rotation ---
def test_the_first_key_is_made_when_it_is_needed(keys):
    key = keys.current()
    assert keys.current() == key
    assert keys.public() == [key]
    path = keys.directory / f"{key.key_id}.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_registry_holds_no_private_key(keys):
    keys.rotate()
    keys.rotate()
    assert "PRIVATE" not in (keys.directory / REGISTRY).read_text()


def test_two_processes_get_one_key(keys, clock):
    again = SigningKeys(keys.directory, "builder", clock=clock)
    assert keys.current() == again.current()


def test_a_key_is_replaced_after_ninety_days(keys, clock):
    first = keys.current()
    assert first.valid_until - NOW == timedelta(days=90)
    clock.set(NOW + timedelta(days=89))
    assert keys.current() == first
    clock.set(NOW + timedelta(days=90))
    second = keys.current()
    assert second.key_id != first.key_id
    assert keys.public() == [first, second]
    assert key_files(keys) == [second.key_id]


def test_a_rotation_that_is_made_shorter_counts_for_the_key_that_is_there(keys, clock):
    first = keys.current()
    shorter = SigningKeys(keys.directory, "builder", rotation_days=30, clock=clock)
    clock.set(NOW + timedelta(days=29))
    assert shorter.current() == first
    clock.set(NOW + timedelta(days=30))
    second = shorter.current()
    assert second.key_id != first.key_id
    assert second.valid_until - clock.now == timedelta(days=30)
    assert shorter.public()[0].valid_until < first.valid_until


def test_every_signature_of_a_year_stands_under_rotation(keys, clock, world):
    """Whenever it is asked, the registry gives a key whose days hold the timestamp."""
    bundles = []
    for hours in range(0, 365 * 24, 7 * 24 - 1):
        clock.set(NOW + timedelta(hours=hours))
        bundles.append(keys.signer([world.clock]).sign(STATEMENT))
    trust = keys.export(TrustRoot(timestamp_authorities=[world.clock.trusted()]))
    signed = [verify_bundle(data, trust, now=clock.now) for data in bundles]
    assert len({each.key_id for each in signed}) == len(keys.public()) == 5


def test_a_key_that_was_replaced_signs_no_more(keys, clock, world):
    old = keys.signer([world.clock])
    keys.rotate()
    trust = keys.export(TrustRoot(timestamp_authorities=[world.clock.trusted()]))
    clock.set(NOW + timedelta(minutes=59))
    assert verify_bundle(old.sign(STATEMENT), trust, now=clock.now)  # work that was under way
    clock.set(NOW + timedelta(minutes=60))
    with pytest.raises(SignatureRefused) as refused:
        verify_bundle(old.sign(STATEMENT), trust, now=clock.now)
    assert refused.value.code == "key-not-valid"


def test_a_clock_that_is_a_little_behind_is_no_harm(keys, world, clock):
    clock.set(NOW.replace(microsecond=900_000))
    signer = keys.signer([world.clock])
    world.clock.now = NOW - timedelta(seconds=30)
    trust = keys.export(TrustRoot(timestamp_authorities=[world.clock.trusted()]))
    assert verify_bundle(signer.sign(STATEMENT), trust, now=NOW)


def test_a_lost_private_key_is_replaced(keys):
    first = keys.current()
    (keys.directory / f"{first.key_id}.pem").unlink()
    assert keys.current().key_id != first.key_id
    assert len(keys.public()) == 2


def test_a_crash_before_the_registry_is_written_loses_nothing(keys, monkeypatch):
    first = keys.current()

    def crash(*_):
        raise OSError("no space")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr("stores.signing_keys.write_atomic", crash)
        keys.rotate()
    assert keys.current() == first


def test_a_damaged_registry_is_no_reason_for_a_new_key(keys):
    keys.current()
    (keys.directory / REGISTRY).write_text('{"signing_keys": [')
    with pytest.raises(KeyFileError, match=REGISTRY):
        keys.current()


@pytest.mark.parametrize("days", [0, -1, float("nan"), 1e9])
def test_rotation_days_are_bounded(tmp_path, days):
    with pytest.raises(ValueError, match="rotation_days"):
        SigningKeys(tmp_path, "builder", rotation_days=days)


# --- Revocation ---
def test_a_revoked_key_is_replaced_and_its_private_half_removed(keys):
    key = keys.current()
    revoked = keys.revoke(key.key_id, NOW - timedelta(days=1), "stolen laptop")
    assert (revoked.revoked_at, revoked.revoked_because) == (
        NOW - timedelta(days=1),
        "stolen laptop",
    )
    assert key_files(keys) == []
    assert keys.current().key_id != key.key_id


def test_a_signature_before_the_revocation_stands_and_one_after_it_does_not(keys, clock, world):
    signer, key = keys.signer([world.clock]), keys.current()
    before = signer.sign(STATEMENT)
    clock.set(NOW + timedelta(days=2))
    after = signer.sign(STATEMENT)
    keys.revoke(key.key_id, NOW + timedelta(days=1), "stolen laptop")
    trust = keys.export(TrustRoot(timestamp_authorities=[world.clock.trusted()]))
    assert verify_bundle(before, trust, now=clock.now)
    with pytest.raises(SignatureRefused) as refused:
        verify_bundle(after, trust, now=clock.now)
    assert refused.value.code == "key-revoked"


def test_a_revocation_moves_back_and_never_forth(keys):
    key = keys.current().key_id
    keys.revoke(key, NOW - timedelta(days=1), "stolen")
    assert keys.revoke(key, NOW - timedelta(days=2), "earlier").revoked_because == "earlier"
    with pytest.raises(ValueError, match="already"):
        keys.revoke(key, NOW - timedelta(days=1), "later")
    with pytest.raises(ValueError, match="to come"):
        keys.revoke(key, NOW + timedelta(days=1), "later")


def test_a_revocation_names_a_known_key_and_a_reason(keys):
    with pytest.raises(ValueError, match="is not in"):
        keys.revoke("ab" * 32, NOW, "stolen")
    key = keys.current()
    with pytest.raises(ValueError, match="revoked_because"):
        keys.revoke(key.key_id, NOW, " ")
    assert keys.public() == [key]


def test_export_keeps_other_keys_and_every_revocation(keys, world):
    key = keys.current()
    trust = keys.export(world.trust(identity="somebody else"))
    assert [each.identity for each in trust.signing_keys] == ["somebody else", "builder"]
    revoked = key.model_copy(update={"revoked_at": NOW, "revoked_because": "by hand"})
    known = TrustRoot(signing_keys=[revoked])
    assert keys.export(known).signing_keys[0].revoked_because == "by hand"


def test_an_envelope_round_trips():
    envelope = Envelope(
        payload=b"\x00\xff", payload_type="t", signatures=[DsseSignature(sig=b"s", keyid="k")]
    )
    value = json.loads(envelope.model_dump_json(by_alias=True))
    assert value["payload"] == "AP8="
    assert Envelope.model_validate(value) == envelope


def test_a_crypto_signer_is_what_the_library_calls_a_file():
    assert SIGNER_FOR_URI_SCHEME["file2"] is CryptoSigner
