"""The embedded authority: whom it gives certificates, and what its log keeps."""

import base64
import hashlib
import hmac
import json
import os
import signal
import stat
import subprocess
import sys
import time
from datetime import timedelta

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from keyless_harness import BUILDER, Home, base64_of, entry_of
from ports import free_port
from signing_harness import STATEMENT

from models.addresses import AuthorityAddress, ClientToken, FileToken
from models.merkle import verify_inclusion
from stores.authority import BadRequest, LocalAuthority
from stores.authority_log import LogDamaged, LogInUse, MerkleLog
from stores.authority_tokens import TokenRefused, enrol, read_clients
from stores.bundle_verifier import verify_bundle
from stores.id_tokens import TokenUnavailable, token_source
from stores.keys import KeyFileError
from stores.ledger import utc_now

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with Home(tmp_path_factory.mktemp("home")).served() as home:
        yield home


def pem_of(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def csr(key, spoil=False):
    """A certificate request, as its field has it."""
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    der = bytearray(made.public_bytes(Encoding.DER))
    if spoil:
        der[-1] ^= 1
    text = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    return {"certificateSigningRequest": base64_of(text)}


def proof(key, subject=BUILDER):
    signature = key.sign(subject.encode(), ec.ECDSA(SHA256()))
    return {
        "publicKeyRequest": {
            "publicKey": {"algorithm": "ECDSA", "content": pem_of(key)},
            "proofOfPossession": base64_of(signature),
        }
    }


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


# --- Tokens ---
def claims(home, **changes):
    now = int(utc_now().timestamp())
    said = {"iss": home.url, "aud": "sigstore", "sub": BUILDER, "iat": now, "exp": now + 60}
    return {name: value for name, value in (said | changes).items() if value is not None}


def hs256_by_public_key(home):
    """The old trick: the public key taken for a shared secret."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode()
        for each in ({"alg": "HS256", "typ": "JWT"}, claims(home))
    )
    text = f"{head}.{body}".encode()
    mac = hmac.new(pem_of(home.keys.tokens).encode(), text, hashlib.sha256).digest()
    return f"{head}.{body}." + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def signed(home, key=None, **changes):
    return jwt.encode(claims(home, **changes), key or home.keys.tokens, "ES256")


NOW = int(utc_now().timestamp())
BAD_TOKENS = {
    "wrong audience": lambda home: signed(home, aud="somebody"),
    "no audience": lambda home: signed(home, aud=None),
    "expired": lambda home: signed(home, iat=NOW - 900, exp=NOW - 600),
    "never expires": lambda home: signed(home, exp=None),
    "not yet valid": lambda home: signed(home, nbf=NOW + 600),
    "wrong issuer": lambda home: signed(home, iss="https://evil.example"),
    "no subject": lambda home: signed(home, sub=None),
    "wrong signature": lambda home: signed(home, key=new_key()),
    "no signature": lambda home: jwt.encode(claims(home), None, "none"),
    "public key as secret": hs256_by_public_key,
    "no token": lambda home: "x",
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_no_certificate_is_given_for_a_bad_token(home, name):
    token, asked = BAD_TOKENS[name](home), csr(new_key())
    with pytest.raises(TokenRefused):
        home.authority.certificate(token, asked)
    answer = httpx.post(
        f"{home.url}/api/v2/signingCert", json=asked, headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 401 and answer.json()["message"].startswith("token: ")


def test_a_good_token_is_taken_so_that_one_change_is_what_refuses_it(home):
    made = home.authority.certificate(signed(home), csr(new_key()))
    assert len(made["signedCertificateEmbeddedSct"]["chain"]["certificates"]) == 3


def test_a_token_lasts_for_minutes(home):
    token = home.token()
    try:
        home.late = HOUR
        with pytest.raises(TokenRefused, match="expired"):
            home.authority.certificate(token, csr(new_key()))
    finally:
        home.late = timedelta()


@pytest.mark.parametrize(("client", "secret"), [("builder", "wrong"), ("nobody", ""), ("", "")])
def test_a_token_needs_the_secret(home, client, secret):
    with pytest.raises(TokenRefused):
        home.authority.tokens.issue(client, secret)
    form = {"grant_type": "client_credentials"}
    answer = httpx.post(f"{home.url}/token", data=form, auth=(client, secret))
    assert answer.status_code == 401 and "token" not in answer.json()


def test_others_can_verify_a_token_by_the_published_keys(home):
    keys = jwt.PyJWKClient(f"{home.url}/keys")
    token = home.token()
    found = jwt.decode(token, keys.get_signing_key_from_jwt(token), ["ES256"], audience="sigstore")
    assert (found["iss"], found["sub"]) == (home.url, BUILDER)


def test_tokens_come_from_a_file_or_from_the_issuer(home, tmp_path):
    file = tmp_path / "token"
    with pytest.raises(TokenUnavailable, match="token"):
        token_source(FileToken(file=file), home.url)()
    file.write_text("abc\n")
    assert token_source(FileToken(file=file), home.url)() == "abc"
    address = ClientToken(client="builder", secret_file=home.secret)
    assert home.authority.tokens.verify(token_source(address, home.url)()) == BUILDER
    wrong = ClientToken(client="builder", secret_file=file)
    with pytest.raises(TokenUnavailable, match="401") as refused:
        token_source(wrong, home.url)()
    assert "abc" not in str(refused.value)
    with pytest.raises(TokenUnavailable, match="ConnectError"):
        token_source(address, "http://127.0.0.1:9")()


# --- Possession ---
def test_either_proof_of_possession_is_taken(home):
    for made in (csr, proof):
        key = new_key()
        given = home.authority.certificate(home.token(), made(key))
        pem = given["signedCertificateEmbeddedSct"]["chain"]["certificates"][0]
        leaf = x509.load_pem_x509_certificate(pem.encode())
        assert leaf.public_key() == key.public_key()
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(minutes=10)


def without_proof():
    asked = proof(new_key())
    del asked["publicKeyRequest"]["proofOfPossession"]
    return asked


def proof_of_another_key():
    asked = proof(new_key())
    asked["publicKeyRequest"]["publicKey"]["content"] = pem_of(new_key())
    return asked


BAD_PROOFS = {
    "no proof": (without_proof, "proofOfPossession: Field required"),
    "of another key": (proof_of_another_key, "not made with this key"),
    "over another subject": (lambda: proof(new_key(), "somebody"), "not made with this key"),
    "request of another key": (lambda: csr(new_key(), spoil=True), "not signed with its own key"),
    "no request": (dict, "publicKeyRequest: "),
    "no key": (lambda: {"certificateSigningRequest": "AAAA"}, "certificateSigningRequest: "),
    "other curve": (lambda: csr(ec.generate_private_key(ec.SECP384R1())), "P-256"),
}


@pytest.mark.parametrize("name", BAD_PROOFS)
def test_no_certificate_is_given_without_proof_of_possession(home, name):
    make, words = BAD_PROOFS[name]
    with pytest.raises(BadRequest, match=words):
        home.authority.certificate(home.token(), make())
    answer = httpx.post(
        f"{home.url}/api/v2/signingCert",
        json=make(),
        headers={"Authorization": f"Bearer {home.token()}"},
    )
    assert answer.status_code == 400 and words in answer.json()["message"]


# --- The log ---
def log(directory, key):
    return MerkleLog(directory, key, "log.example.org")


def test_every_entry_is_proven_when_it_is_answered(tmp_path):
    key = new_key()
    with log(tmp_path, key) as one:
        for number in range(20):
            entry = b"entry %d" % number
            found = one.append(entry)
            assert (found.index, found.size) == (number, number + 1)
            verify_inclusion(entry, found.index, found.size, found.path, found.root)
            assert found.checkpoint.split("\n")[:2] == ["log.example.org", str(number + 1)]


def test_a_log_goes_on_where_it_was(tmp_path):
    key = new_key()
    with log(tmp_path, key) as one:
        first = one.append(b"a")
    with (tmp_path / "entries").open("ab") as file:
        file.write(b"half of a li")  # of a process that was killed
    with log(tmp_path, key) as again:
        assert again.size == first.size == 1
        found = again.append(b"b")
        verify_inclusion(b"b", 1, 2, found.path, found.root)
    assert (tmp_path / "entries").read_bytes() == b"YQ==\nYg==\n"


@pytest.mark.parametrize("content", [b"", b"YQ==\n", b"YQ==\nYw==\n", b"Yg==\nYQ==\n"])
def test_a_log_that_lost_what_it_answered_for_is_refused(tmp_path, content):
    key = new_key()
    with log(tmp_path, key) as one:
        one.append(b"a")
        one.append(b"b")
    (tmp_path / "entries").write_bytes(content)
    with pytest.raises(LogDamaged, match="entries"):
        log(tmp_path, key)


def test_a_log_has_one_writer(tmp_path):
    with log(tmp_path, new_key()), pytest.raises(LogInUse):
        log(tmp_path, new_key())


def test_what_nobody_signed_is_not_logged(home):
    size = home.authority.log.size
    body = json.loads(base64.b64decode(entry_of(home.handmade())["canonicalizedBody"]))
    said = body["spec"]["hashedRekordV002"]
    asked = {"digest": base64_of(bytes(32)), "signature": said["signature"]}
    for request, words in [
        ({"hashedRekordRequestV002": asked}, "not made over this digest"),
        ({"hashedRekordRequestV002": {}}, "Field required"),
        ({}, "Exactly one"),
    ]:
        answer = httpx.post(f"{home.url}/api/v2/log/entries", json=request)
        assert answer.status_code == 400 and words in answer.json()["message"]
    assert home.authority.log.size == size + 1


def test_a_request_that_is_none_is_refused(home):
    assert httpx.post(f"{home.url}/api/v1/timestamp", content=b"x").status_code == 400
    assert httpx.post(f"{home.url}/api/v2/signingCert", content=b"[]").status_code == 400
    large = httpx.post(f"{home.url}/api/v2/log/entries", content=b"x" * 100_000)
    assert large.status_code == 413


# --- The directory ---
def test_keys_are_their_owners_alone_and_made_once(tmp_path):
    home = Home(tmp_path)
    directory = home.address.directory
    keys = {path.name: path.read_bytes() for path in directory.glob("*.pem")}
    private = [name for name, text in keys.items() if b"PRIVATE KEY" in text]
    modes = {stat.S_IMODE((directory / name).stat().st_mode) for name in private}
    assert (len(private), modes) == (5, {0o600})
    assert stat.S_IMODE(home.secret.stat().st_mode) == 0o600
    assert home.secret.read_text() not in (directory / "clients.json").read_text()
    home.authority.__exit__()
    again = type(home.keys)(directory, home.url)
    assert again.trusted() == home.keys.trusted()
    (directory / "tokens.pem").chmod(0o644)
    with pytest.raises(KeyFileError, match=r"tokens\.pem: others may read it"):
        type(home.keys)(directory, home.url)


def test_enrolling_again_keeps_the_secret(tmp_path):
    clients, secret = tmp_path / "clients.json", tmp_path / "secret"
    enrol(clients, "builder", BUILDER, secret)
    first = secret.read_text()
    enrol(clients, "builder", "urn:other", secret)
    assert secret.read_text() == first
    assert read_clients(clients)["builder"].identity == "urn:other"
    with pytest.raises(ValueError, match="identity"):
        enrol(clients, "builder", "d\u00e9j\u00e0:vu", secret)


# --- The process ---
def test_the_process_serves_until_it_is_told_to_stop(tmp_path):
    port = free_port()
    directory = tmp_path / "authority"
    address = AuthorityAddress(directory=directory, url=f"http://127.0.0.1:{port}")
    directory.mkdir()
    (directory / "addresses.json").write_text(address.model_dump_json())
    secret = tmp_path / "secret"
    enrol(directory / "clients.json", "builder", BUILDER, secret)
    process = subprocess.Popen(
        [sys.executable, "-m", "workers", "authority"],
        env=os.environ | {"CHAINRING_HOME": str(tmp_path)},
    )
    try:
        until_ready(f"{address.url}/healthz", process)
        home = Home.at(address, secret, tmp_path)
        data = home.signer().sign(STATEMENT)
        assert verify_bundle(data, home.trust(), now=utc_now()).signer.issuer == address.url
        note = httpx.get(f"{address.url}/api/v2/checkpoint").text
        assert note.split("\n")[1] == "1"
        with pytest.raises(LogInUse):
            LocalAuthority(home.keys, {})
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def until_ready(url, process):
    for _ in range(400):
        assert process.poll() is None
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("never ready")
