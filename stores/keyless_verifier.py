"""Verifying a bundle that was signed with a short-lived certificate, with sigstore-python.

The certificate must come from a CA of the trust root, name one identity and an issuer whose tokens
that CA takes, and be logged; the signature must be dated by a clock of the trust root to within the
certificate's minutes, and be in the trust root's log. What the bundle says of its own time, and the
log's word for it, do not count.

Codes of `SignatureRefused` beside those of keys: ``certificate-malformed``, ``certificate-unknown``
(no CA of the trust root issued it), ``certificate-not-valid`` (signed outside of its minutes),
``issuer-unknown``, ``log-missing`` (no log entry with a proof, or several), and ``keyless``: what
the library refuses, in its words - the certificate's chain, purpose or logging, the log entry.
"""

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from models.bundle import Bundle
from models.certificates import certified_signer, load_certificate
from models.signed_statement import SignatureRefused, Signer
from models.timestamps import trusted_time
from models.trust import KeylessAuthority, TrustRoot, key_id


def verify_certificate(
    data: bytes, bundle: Bundle, trust: TrustRoot
) -> tuple[Signer, datetime, str]:
    """Who signed a bundle and when, and the id of the key that was certified.

    Args:
        data: the bytes that ``bundle`` was read from.

    Raises:
        SignatureRefused: see the module.
    """
    assert bundle.material.certificate is not None
    try:
        certificate = load_certificate(bundle.material.certificate.raw_bytes)
        signer = certified_signer(certificate)
    except ValueError as error:
        raise SignatureRefused("certificate-malformed", str(error)) from None
    authority = _issued_by(certificate, trust)
    if signer.issuer not in authority.issuers:
        known = ", ".join(authority.issuers)
        raise SignatureRefused("issuer-unknown", f"{signer.issuer!a} is none of {known}")
    key, signature = certificate.public_key(), bundle.envelope.signatures[0].sig
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        key.verify(signature, bundle.envelope.signed_bytes(), ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise SignatureRefused("wrong-signature", "not made by the certificate's key") from None
    signed_at = trusted_time(bundle.timestamps(), signature, authority.clocks)
    _require_in_force(certificate, signed_at)
    _require_log_entry(bundle)
    _verify(data, signer, authority, signed_at)
    return signer, signed_at, key_id(key)


def _issued_by(certificate: x509.Certificate, trust: TrustRoot) -> KeylessAuthority:
    """The authority whose CA signed a certificate, by its signature and not by its name alone."""
    for authority in trust.keyless_authorities:
        for each in authority.certificates:
            try:
                certificate.verify_directly_issued_by(each)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return authority
    name = certificate.issuer.rfc4514_string()
    raise SignatureRefused(
        "certificate-unknown", f"no trusted CA issued it; it names {name!a:.200}"
    )


def _require_in_force(certificate: x509.Certificate, signed_at: datetime) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= signed_at <= ends:
        minutes = f"{begins.isoformat()} to {ends.isoformat()}"
        raise SignatureRefused(
            "certificate-not-valid",
            f"signed at {signed_at.isoformat()}; the certificate is for {minutes}",
        )


def _require_log_entry(bundle: Bundle) -> None:
    entries = bundle.material.log_entries
    if len(entries) != 1:
        raise SignatureRefused("log-missing", f"{len(entries)} log entries, one is admitted")
    if not isinstance(entries[0].get("inclusionProof"), dict):
        raise SignatureRefused("log-missing", "the log entry has no inclusion proof")


def _verify(data: bytes, signer: Signer, authority: KeylessAuthority, signed_at: datetime) -> None:
    """Have the library verify all of it, against what was in force at the time of signing.

    It is asked for the very identity and issuer that were read here: two readers of a certificate
    that see two signers is what must not be.
    """
    # Imported here: half a second and 20 MB, which few processes that read evidence need.
    from sigstore.models import Bundle as SigstoreBundle  # noqa: PLC0415
    from sigstore.models import TrustedRoot  # noqa: PLC0415
    from sigstore.verify import Verifier  # noqa: PLC0415
    from sigstore.verify.policy import (  # noqa: PLC0415
        AllOf,
        AnyOf,
        Identity,
        OIDCIssuer,
        OIDCIssuerV2,
    )

    issuer = AnyOf([OIDCIssuer(signer.issuer), OIDCIssuerV2(signer.issuer)])
    policy = AllOf([Identity(identity=signer.identity), issuer])
    try:
        verifier = Verifier(trusted_root=TrustedRoot(authority.root_at(signed_at)))
        verifier.verify_dsse(SigstoreBundle.from_json(data), policy)
    except Exception as error:  # beside its own it lets through those of the parsers below it
        words = str(error) or type(error).__name__
        raise SignatureRefused("keyless", f"{words:.500}") from None
