"""Certificates of the local authorities: roots, and what a root is there to vouch for."""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

LIFETIME = timedelta(days=3650)
SKEW = timedelta(minutes=5)
"""Certificates begin this much before they are made: whoever judges may have a clock behind."""

Issuer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def root_certificate(
    name: str, key: ec.EllipticCurvePrivateKey, start: datetime
) -> x509.Certificate:
    """A root, signed by itself."""
    builder = _builder(name, key, None, start)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.add_extension(_usage(ca=True), critical=True).sign(key, SHA256())


def authority_certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Issuer,
    start: datetime,
    *,
    purpose: x509.ExtendedKeyUsage,
    ca: bool = False,
) -> x509.Certificate:
    """What a root signs: a certificate for one purpose.

    Args:
        purpose: critical, as RFC 3161 has it, unless it is a CA's, of which others want it not to.
        ca: whether it may itself sign certificates, of end entities alone.
    """
    constraints = x509.BasicConstraints(ca=ca, path_length=0 if ca else None)
    return (
        _builder(name, key, issuer, start)
        .add_extension(constraints, critical=True)
        .add_extension(_usage(ca=ca), critical=True)
        .add_extension(purpose, critical=not ca)
        .sign(issuer[1], SHA256())
    )


def _builder(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: Issuer | None, start: datetime
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_key = issuer[1] if issuer else key
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority, critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
