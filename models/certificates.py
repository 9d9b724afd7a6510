"""What a Sigstore certificate says: one identity, and the OIDC issuer that vouched for it.

The form is Fulcio's (its ``docs/oid-info.md``): the identity is the only subject alternative name,
a URI or an email address; the issuer is an extension. Whether to believe it is not asked here.
"""

from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec

from models.signed_statement import Signer

ISSUER_V1: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
"""The issuer's bare bytes; old, and still written beside the other one."""
ISSUER_V2: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
"""The issuer as a UTF8String in DER."""


def load_certificate(der: bytes) -> x509.Certificate:
    """A certificate with a key that may have signed: ECDSA on P-256.

    Raises:
        ValueError: these bytes are none, or the key is of another kind.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
    except Exception as error:  # the library raises several kinds, one of them for odd curves
        raise ValueError(f"not a certificate: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("its key is not an ECDSA key on P-256")
    return certificate


def certified_signer(certificate: x509.Certificate) -> Signer:
    """Whom a certificate names.

    Raises:
        ValueError: no identity or several, no issuer or two, or an extension that cannot be read.
    """
    try:
        extensions = certificate.extensions
    except Exception as error:  # as above
        raise ValueError(f"its extensions cannot be read: {error}") from None
    return Signer(kind="oidc", identity=_identity(extensions), issuer=_issuer(extensions))


def _identity(extensions: x509.Extensions) -> str:
    try:
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        raise ValueError("it has no subject alternative name, which is where an identity is") from (
            None
        )
    if len(names) != 1:
        raise ValueError(f"it has {len(names)} subject alternative names; one is an identity")
    [name] = names
    if isinstance(name, x509.RFC822Name | x509.UniformResourceIdentifier):
        return _said(name.value, "identity")
    raise ValueError(f"its subject alternative name is a {type(name).__name__}")


def _issuer(extensions: x509.Extensions) -> str:
    """Both spellings must say the same, so that no two readers see two issuers."""
    found: set[str] = set()
    for extension in extensions:
        if isinstance(extension.value, x509.UnrecognizedExtension):
            data = extension.value.value
            if extension.oid == ISSUER_V1:
                found.add(_text(data, "issuer"))
            elif extension.oid == ISSUER_V2:
                found.add(_utf8_string(data, "issuer"))
    if len(found) != 1:
        raise ValueError(f"it names {len(found)} issuers" if found else "it names no issuer")
    return _said(found.pop(), "issuer")


def _utf8_string(der: bytes, what: str) -> str:
    try:
        return asn1.decode_der(str, der)
    except ValueError:
        raise ValueError(f"{what}: not a UTF8String in DER") from None


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{what}: not UTF-8") from None


def _said(text: str, what: str) -> str:
    if not text:
        raise ValueError(f"{what}: is empty")
    return text
