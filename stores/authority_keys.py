"""The keys of a local Sigstore instance, made once in a directory of its own, and what is public.

Tokens, certificates, both logs and the clock have a key each, one file a key, 0600. Only the
authority's process reads them. The CA's root signs one certificate and is forgotten at once.
"""

import base64
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from models.trust import KeylessAuthority
from stores.certificates import SKEW, authority_certificate, root_certificate
from stores.files import file_lock, write_atomic
from stores.keys import KeyFileError, create_private_key, read_private_key
from stores.ledger import utc_now
from stores.timestamp_authority import LocalTimestampAuthority

TRUST_CONFIG = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
_ROOT = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
_SIGNING = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
_CHAIN = "certificate-chain.pem"


class AuthorityKeys:
    """The keys in a directory, and the trust that others may have in them.

    Args:
        url: where the authority answers; it is the issuer of its tokens too.

    Raises:
        KeyFileError: a key is missing beside its certificates, open to others, or of another kind.
    """

    def __init__(
        self,
        directory: Path,
        url: str,
        *,
        name: str = "local",
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.directory, self.url, self.name, self.clock = directory, url, name, clock
        with file_lock(directory / "authority.lock"):
            if not (directory / _CHAIN).exists():
                self._create()
        self.tokens = self._key("tokens")
        self.certificates = self._key("certificates")
        self.certificate_log = self._key("certificate-log")
        self.statement_log = self._key("statement-log")
        self.timestamps = LocalTimestampAuthority(directory, name=name, clock=clock)
        pem = (directory / _CHAIN).read_bytes()
        self.chain = x509.load_pem_x509_certificates(pem)

    def trusted(self) -> KeylessAuthority:
        """What a trust root must hold for what is signed with these certificates to count."""
        return KeylessAuthority(
            name=self.name, trusted_root=self.trusted_root(), issuers=[self.url]
        )

    def trusted_root(self) -> dict[str, Any]:
        """Sigstore's TrustedRoot: public halves alone."""
        return {
            "mediaType": _ROOT,
            "certificateAuthorities": [self._authority(self.chain)],
            "timestampAuthorities": [self._authority(self.timestamps.trusted().chain)],
            "ctlogs": [self._log(self.certificate_log)],
            "tlogs": [self._log(self.statement_log)],
        }

    def trust_config(self) -> dict[str, Any]:
        """Sigstore's ClientTrustConfig: the trusted root, and where to sign."""
        service = {
            "majorApiVersion": 1,
            "operator": self.name,
            "validFor": {"start": _time(self._start)},
        }
        signing = {
            "mediaType": _SIGNING,
            "caUrls": [{"url": self.url, **service}],
            "oidcUrls": [{"url": self.url, **service}],
            "rekorTlogUrls": [{"url": self.url, **service, "majorApiVersion": 2}],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": [{"url": f"{self.url}/api/v1/timestamp", **service}],
            "tsaConfig": {"selector": "ANY"},
        }
        return {
            "mediaType": TRUST_CONFIG,
            "trustedRoot": self.trusted_root(),
            "signingConfig": signing,
        }

    @property
    def _start(self) -> datetime:
        return self.chain[0].not_valid_before_utc

    def _authority(self, chain: list[x509.Certificate]) -> dict[str, Any]:
        ders = [_base64(each.public_bytes(Encoding.DER)) for each in chain]
        return {
            "subject": {
                "organization": "chainring",
                "commonName": chain[0].subject.rfc4514_string(),
            },
            "uri": self.url,
            "certChain": {"certificates": [{"rawBytes": der} for der in ders]},
            "validFor": {"start": _time(chain[0].not_valid_before_utc)},
        }

    def _log(self, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
        return {
            "baseUrl": self.url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": _base64(spki(key)),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": {"start": _time(self._start)},
            },
            "logId": {"keyId": _base64(log_id(key))},
        }

    def _key(self, name: str) -> ec.EllipticCurvePrivateKey:
        path = self.directory / f"{name}.pem"
        key = read_private_key(path)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KeyFileError(f"{path}: holds no ECDSA key")
        return key

    def _create(self) -> None:
        """All keys, and last the certificates, which say that all of it is there."""
        start = self.clock() - SKEW
        for name in ("tokens", "certificates", "certificate-log", "statement-log"):
            path = self.directory / f"{name}.pem"
            path.unlink(missing_ok=True)  # of a set-up that did not get to its end
            create_private_key(path, ec.generate_private_key(ec.SECP256R1()))
        root_key = ec.generate_private_key(ec.SECP256R1())
        root = root_certificate(f"{self.name} certificate root", root_key, start)
        own = authority_certificate(
            f"{self.name} certificates",
            self._key("certificates"),
            (root, root_key),
            start,
            purpose=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
            ca=True,
        )
        pems = b"".join(each.public_bytes(Encoding.PEM) for each in (own, root))
        write_atomic(self.directory / _CHAIN, pems)


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half: SubjectPublicKeyInfo, DER."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def log_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A log's name (RFC 6962, section 3.2): the hash of its public key."""
    return sha256(spki(key)).digest()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
