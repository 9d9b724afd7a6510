"""A local RFC 3161 timestamp authority: trusted time for homes that have no other clock.

Its root and signing key are made once in a directory of its own; only the process that runs it
reads them. It sees hashes and no content.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from models.trust import TimestampAuthority
from stores.certificates import SKEW, authority_certificate, root_certificate
from stores.files import file_lock, write_atomic
from stores.keys import KeyFileError, create_private_key, read_private_key
from stores.ledger import utc_now

POLICY = "1.3.6.1.4.1.57264.2"
"""Of Sigstore's timestamp authority, whoever runs it; Go reads no OID with an arc over 31 bits."""
_KEY, _CERTIFICATES = "timestamp.pem", "timestamp-chain.pem"

_HASHES = {"sha256": 32, "sha384": 48, "sha512": 64}


class BadTimestampRequest(ValueError):
    """Not a timestamp request (RFC 3161, section 2.4.1), or one for a hash that is too weak."""


class LocalTimestampAuthority:
    """Signs hashes with the time of its clock, in whole seconds.

    Raises:
        KeyFileError: the directory holds a key without its certificates, or the reverse.
    """

    def __init__(
        self, directory: Path, *, name: str = "local", clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._name = name
        self._clock = clock
        with file_lock(directory / "timestamp.lock"):
            if not (directory / _CERTIFICATES).exists():
                self._create(directory)
        key = read_private_key(directory / _KEY)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KeyFileError(f"{directory / _KEY}: holds no ECDSA key")
        self._key = key
        pem = (directory / _CERTIFICATES).read_bytes()
        self._own, self._root = x509.load_pem_x509_certificates(pem)

    def trusted(self) -> TimestampAuthority:
        """What a trust root must hold for these timestamps to count."""
        pems = [each.public_bytes(Encoding.PEM).decode() for each in (self._own, self._root)]
        return TimestampAuthority(
            name=self._name, certificates=pems, valid_from=self._own.not_valid_before_utc
        )

    def timestamp(self, message: bytes) -> bytes:
        """A TimeStampResp (DER) over ``message``."""
        return self._respond("sha256", hashlib.sha256(message).digest(), None)

    def answer(self, request: bytes) -> bytes:
        """A TimeStampResp for a TimeStampReq, both DER; raises `BadTimestampRequest`."""
        try:
            asked = tsp.TimeStampReq.load(request, strict=True)
            imprint = asked["message_imprint"]
            algorithm = imprint["hash_algorithm"]["algorithm"].native
            digest, nonce = imprint["hashed_message"].native, asked["nonce"].native
        except (ValueError, TypeError, KeyError) as error:
            raise BadTimestampRequest(f"request: {error}") from None
        if len(digest) != _HASHES.get(algorithm):
            raise BadTimestampRequest(f"hash: {algorithm} of {len(digest)} bytes is not taken")
        return self._respond(algorithm, digest, nonce)

    def _respond(self, algorithm: str, digest: bytes, nonce: int | None) -> bytes:
        info = {
            "version": "v1",
            "policy": POLICY,
            "message_imprint": {
                "hash_algorithm": {"algorithm": algorithm},
                "hashed_message": digest,
            },
            "serial_number": x509.random_serial_number(),
            "gen_time": self._clock().replace(microsecond=0),
        }
        if nonce is not None:
            info["nonce"] = nonce
        content = tsp.TSTInfo(info).dump()
        token = {"content_type": "signed_data", "content": self._signed(content)}
        response = {"status": {"status": "granted"}, "time_stamp_token": token}
        data: bytes = tsp.TimeStampResp(response).dump()
        return data

    def _signed(self, content: bytes) -> dict[str, object]:
        """CMS SignedData over a TSTInfo (RFC 5652, RFC 5816)."""
        own = asn1_x509.Certificate.load(self._own.public_bytes(Encoding.DER))
        root = asn1_x509.Certificate.load(self._root.public_bytes(Encoding.DER))
        certificate_id = {"certs": [{"cert_hash": hashlib.sha256(own.dump()).digest()}]}
        attributes = cms.CMSAttributes(
            [
                {"type": "content_type", "values": ["tst_info"]},
                {"type": "message_digest", "values": [hashlib.sha256(content).digest()]},
                {
                    "type": "signing_certificate_v2",
                    "values": [tsp.SigningCertificateV2(certificate_id)],
                },
            ]
        )
        signer = {
            "version": "v1",
            "sid": {
                "issuer_and_serial_number": {
                    "issuer": own.issuer,
                    "serial_number": own.serial_number,
                }
            },
            "digest_algorithm": {"algorithm": "sha256"},
            "signed_attrs": attributes,
            "signature_algorithm": algos.SignedDigestAlgorithm({"algorithm": "sha256_ecdsa"}),
            "signature": self._key.sign(attributes.dump(), ec.ECDSA(SHA256())),
        }
        return {
            "version": "v3",
            "digest_algorithms": [{"algorithm": "sha256"}],
            "encap_content_info": {
                "content_type": "tst_info",
                "content": core.ParsableOctetString(content),
            },
            "certificates": [own, root],
            "signer_infos": [signer],
        }

    def _create(self, directory: Path) -> None:
        """A root, whose key is forgotten at once, and the one certificate it will ever sign."""
        start = self._clock() - SKEW
        root_key = ec.generate_private_key(ec.SECP256R1())
        key = ec.generate_private_key(ec.SECP256R1())
        root = root_certificate(f"{self._name} timestamp root", root_key, start)
        stamping = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        own = authority_certificate(
            f"{self._name} timestamps", key, (root, root_key), start, purpose=stamping
        )
        (directory / _KEY).unlink(missing_ok=True)  # of a set-up that did not get to its end
        create_private_key(directory / _KEY, key)
        pems = b"".join(each.public_bytes(Encoding.PEM) for each in (own, root))
        write_atomic(directory / _CERTIFICATES, pems)
