"""The local certificate authority: ten minutes for whoever a token names, and logged before it is.

Certificates have the form of Fulcio's. Each one holds a signed certificate timestamp (RFC 6962)
over itself, from a log in which its precertificate is by then.
"""

import struct
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from models.certificates import ISSUER_V1, ISSUER_V2
from stores.authority_keys import AuthorityKeys, log_id
from stores.authority_log import MerkleLog

LIFETIME = timedelta(minutes=10)

_V1, _PRECERTIFICATE, _TIMESTAMP, _TIMESTAMPED_ENTRY = 0, 1, 0, 0  # RFC 6962, section 3.2 to 3.4
_SHA256, _ECDSA = 4, 3  # RFC 5246, section 7.4.1.4.1


class CertificateIssuer:
    """Makes certificates with the authority's keys."""

    def __init__(self, keys: AuthorityKeys, log: MerkleLog) -> None:
        self._keys, self._log = keys, log

    def issue(
        self, identity: str, issuer: str, public_key: ec.EllipticCurvePublicKey
    ) -> list[x509.Certificate]:
        """A certificate for a key, and the chain above it.

        Args:
            identity: of the token that was verified; a URI or an email address, printable ASCII.
            issuer: of that token.
            public_key: whose private half the asker has shown to hold.
        """
        builder = self._builder(identity, issuer, public_key)
        # Signed once only to learn the bytes that a log signs, which are those without its SCT.
        draft = self._signed(builder, b"\x04\x00")
        own, *above = self._keys.chain
        return [self._signed(builder, self._logged(draft.tbs_precertificate_bytes)), own, *above]

    def _builder(
        self, identity: str, issuer: str, public_key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = self._keys.clock().replace(microsecond=0)
        own = self._keys.chain[0]
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        signing = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(
            self._keys.certificates.public_key()
        )
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(own.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + LIFETIME)
            .add_extension(usage, critical=True)
            .add_extension(signing, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(key_id, critical=False)
            .add_extension(x509.SubjectAlternativeName([_name(identity)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(ISSUER_V1, issuer.encode()), critical=False)
            .add_extension(
                x509.UnrecognizedExtension(ISSUER_V2, asn1.encode_der(issuer)), critical=False
            )
        )

    def _signed(self, builder: x509.CertificateBuilder, timestamps: bytes) -> x509.Certificate:
        oid = ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS
        extension = x509.UnrecognizedExtension(oid, timestamps)
        return builder.add_extension(extension, critical=False).sign(
            self._keys.certificates, SHA256()
        )

    def _logged(self, tbs: bytes) -> bytes:
        """Log a precertificate; the extension's value, a list of one SCT (RFC 6962, 3.3)."""
        at = int(self._keys.clock().timestamp() * 1000)
        issuer_key = log_id(self._keys.certificates)  # the hash of the key, as a log's id is
        entry = issuer_key + len(tbs).to_bytes(3, "big") + tbs
        dated = struct.pack("!QH", at, _PRECERTIFICATE) + entry + b"\0\0"
        self._log.append(struct.pack("!BB", _V1, _TIMESTAMPED_ENTRY) + dated)
        key = self._keys.certificate_log
        signature = key.sign(struct.pack("!BB", _V1, _TIMESTAMP) + dated, ec.ECDSA(SHA256()))
        sct = struct.pack("!B32sQHBB", _V1, log_id(key), at, 0, _SHA256, _ECDSA)
        sct += _prefixed(signature)
        return asn1.encode_der(_prefixed(_prefixed(sct)))


def _name(identity: str) -> x509.GeneralName:
    if ":" in identity:
        return x509.UniformResourceIdentifier(identity)
    return x509.RFC822Name(identity)


def _prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
