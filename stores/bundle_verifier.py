"""Verifying a signed statement: is this bundle by somebody the trust root knows, and from when?

What it means - whether this signer may say this about this release - is for the policy to judge.
The predicate type is handed on untouched, so that no attestation passes for a signature.
"""

from datetime import datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from models.bundle import Bundle, bundle_digest, read_bundle
from models.dsse import IN_TOTO_TYPE
from models.signed_statement import SignatureRefused, SignedStatement, Signer
from models.statement import read_statement
from models.strict_json import EvidenceError
from models.timestamps import trusted_time
from models.trust import TrustedKey, TrustRoot
from stores.keyless_verifier import verify_certificate

CLOCK_SKEW = timedelta(minutes=1)
"""How far a trusted clock may be ahead of ours."""


def verify_bundle(data: bytes, trust: TrustRoot, *, now: datetime) -> SignedStatement:
    """Verify a Sigstore bundle v0.3 over an in-toto statement, by key or by certificate.

    Args:
        now: the time of the judgement; nothing may have been signed after it.

    Raises:
        SignatureRefused: it does not stand; the code says why.
    """
    try:
        bundle = read_bundle(data)
        if len(bundle.envelope.signatures) != 1:
            raise SignatureRefused("signature-count", "one signature is admitted, no more")
        if bundle.envelope.payload_type != IN_TOTO_TYPE:
            kind = bundle.envelope.payload_type
            raise SignatureRefused("payload-type", f"{kind!r:.80} is not {IN_TOTO_TYPE}")
        signer, signed_at, key_id = _verify(data, bundle, trust)
        statement = read_statement(bundle.envelope.payload)
    except EvidenceError as error:
        raise SignatureRefused("malformed", str(error)) from None
    if signed_at > now + CLOCK_SKEW:
        raise SignatureRefused("future", f"signed at {signed_at.isoformat()}, which is to come")
    return SignedStatement(
        statement=statement,
        signer=signer,
        signed_at=signed_at,
        key_id=key_id,
        digest=bundle_digest(data),
    )


def _verify(data: bytes, bundle: Bundle, trust: TrustRoot) -> tuple[Signer, datetime, str]:
    if bundle.material.certificate is not None:
        return verify_certificate(data, bundle, trust)
    key, signature = _named_key(bundle, trust), bundle.envelope.signatures[0]
    try:
        key.key.verify(signature.sig, bundle.envelope.signed_bytes(), ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise SignatureRefused("wrong-signature", f"not made by key {key.key_id}") from None
    signed_at = trusted_time(bundle.timestamps(), signature.sig, trust.timestamp_authorities)
    _require_in_force(key, signed_at)
    return Signer(kind="key", identity=key.identity), signed_at, key.key_id


def _named_key(bundle: Bundle, trust: TrustRoot) -> TrustedKey:
    """The trusted key that the bundle names; hint and key id must not name two."""
    assert bundle.material.public_key is not None
    hint, signature = bundle.material.public_key.hint, bundle.envelope.signatures[0]
    keys = [_known(name, trust) for name in (hint, signature.keyid) if name]
    if not keys:
        raise SignatureRefused("key-missing", "neither hint nor key id says whose key it is")
    if any(key != keys[0] for key in keys):
        raise SignatureRefused("key-conflict", "hint and key id name two keys")
    return keys[0]


def _known(name: str, trust: TrustRoot) -> TrustedKey:
    key = trust.find_key(name)
    if key is None:
        raise SignatureRefused("key-unknown", f"no trusted key is called {name!r:.100}")
    return key


def _require_in_force(key: TrustedKey, signed_at: datetime) -> None:
    """Judge the key by trusted time: what was signed in its days stands after they are over."""
    at = f"signed at {signed_at.isoformat()}"
    if key.revoked_at is not None and signed_at >= key.revoked_at:
        since = key.revoked_at.isoformat()
        raise SignatureRefused(
            "key-revoked", f"{at}; the key is revoked from {since} on: {key.revoked_because}"
        )
    if not key.valid_from <= signed_at < key.valid_until:
        days = f"{key.valid_from.isoformat()} to {key.valid_until.isoformat()}"
        raise SignatureRefused("key-not-valid", f"{at}; the key signs from {days}")
