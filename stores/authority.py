"""A local Sigstore instance: what Fulcio, Rekor and a timestamp authority do, for one home.

Requests and answers have the form of those services' HTTP interfaces, whose clients therefore work
with it: Fulcio's v2, Rekor's v2 (entries are on disk and proven when it answers), RFC 3161.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sigstore_models.common.v1 import PublicKeyDetails
from sigstore_models.rekor.v2.entry import CreateEntryRequest

from models.canonical import canonical
from models.certificates import load_certificate
from stores.authority_certificates import CertificateIssuer
from stores.authority_keys import AuthorityKeys, log_id
from stores.authority_log import MerkleLog
from stores.authority_tokens import Client, TokenIssuer

CERTIFICATE_LOG, STATEMENT_LOG = "certificate-log", "statement-log"
_P256 = PublicKeyDetails.PKIX_ECDSA_P256_SHA_256


class BadRequest(ValueError):
    """A request that no certificate or log entry follows from; the message names the field."""


class _PublicKey(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    content: str = Field(max_length=8192, description="PEM")


class _KeyRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    public_key: _PublicKey = Field(alias="publicKey")
    proof: str = Field(alias="proofOfPossession", min_length=1, max_length=8192)


class LocalAuthority:
    """An authority with its logs open; one process at a time has it.

    Raises:
        LogInUse, LogDamaged: see `stores.authority_log`.
    """

    def __init__(self, keys: AuthorityKeys, clients: Mapping[str, Client]) -> None:
        self.keys = keys
        self.tokens = TokenIssuer(keys.tokens, keys.url, clients, keys.clock)
        origin = urlsplit(keys.url).hostname or "localhost"
        with ExitStack() as stack:
            certificates = stack.enter_context(
                MerkleLog(
                    keys.directory / CERTIFICATE_LOG, keys.certificate_log, f"{origin}/certificates"
                )
            )
            self.log = stack.enter_context(
                MerkleLog(keys.directory / STATEMENT_LOG, keys.statement_log, origin)
            )
            self._issuer = CertificateIssuer(keys, certificates)
            self._held = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def certificate(self, token: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Fulcio's ``POST /api/v2/signingCert``.

        Args:
            request: a PKCS #10 request in ``certificateSigningRequest``, or a ``publicKeyRequest``
                with a signature over the token's subject: either shows that the asker has the key.

        Raises:
            TokenRefused: the token does not stand.
            BadRequest: the key is not on P-256, or is not shown to be the asker's.
        """
        identity = self.tokens.verify(token)
        chain = self._issuer.issue(identity, self.keys.url, _shown_key(request, identity))
        pems = [each.public_bytes(Encoding.PEM).decode() for each in chain]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": pems}}}

    def trust_bundle(self) -> dict[str, Any]:
        """Fulcio's ``GET /api/v2/trustBundle``."""
        pems = [each.public_bytes(Encoding.PEM).decode() for each in self.keys.chain]
        return {"chains": [{"certificates": pems}]}

    def log_entry(self, request: bytes) -> dict[str, Any]:
        """Rekor's ``POST /api/v2/log/entries``: a hash that a certificate's key signed.

        A DSSE envelope is logged by the hash of its pre-authentication encoding.

        Raises:
            BadRequest: another kind of entry, or the signature does not stand.
        """
        body = _entry(request)
        logged = self.log.append(body)
        index, key_id = str(logged.index), _base64(log_id(self.keys.statement_log))
        return {
            "logIndex": index,
            "logId": {"keyId": key_id},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "inclusionProof": {
                "logIndex": index,
                "rootHash": _base64(logged.root),
                "treeSize": str(logged.size),
                "hashes": [_base64(each) for each in logged.path],
                "checkpoint": {"envelope": logged.checkpoint},
            },
            "canonicalizedBody": _base64(body),
        }


def _shown_key(request: Mapping[str, Any], identity: str) -> ec.EllipticCurvePublicKey:
    """The key that a request is for, once it is shown that the asker holds it."""
    if "certificateSigningRequest" in request:
        return _requested_key(request["certificateSigningRequest"])
    try:
        asked = _KeyRequest.model_validate(request.get("publicKeyRequest"))
        key = _p256(load_pem_public_key(asked.public_key.content.encode()))
        proof = base64.b64decode(asked.proof, validate=True)
        key.verify(proof, identity.encode(), ec.ECDSA(SHA256()))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in ("publicKeyRequest", *first["loc"]))
        raise BadRequest(f"{place}: {first['msg']}") from None
    except InvalidSignature:
        raise BadRequest("publicKeyRequest.proofOfPossession: not made with this key") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadRequest(f"publicKeyRequest: {error}") from None
    return key


def _requested_key(text: Any) -> ec.EllipticCurvePublicKey:
    try:
        asked = x509.load_pem_x509_csr(base64.b64decode(text, validate=True))
        key, holds = _p256(asked.public_key()), asked.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, binascii.Error) as error:
        raise BadRequest(f"certificateSigningRequest: {error}") from None
    if not holds:
        raise BadRequest("certificateSigningRequest: not signed with its own key")
    return key


def _p256(key: PublicKeyTypes) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the key is not an ECDSA key on P-256")
    return key


def _entry(data: bytes) -> bytes:
    """The log entry that a request asks for, in canonical JSON."""
    try:
        asked = CreateEntryRequest.from_json(data).hashed_rekord_request_v002
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "request"
        raise BadRequest(f"{place}: {first['msg']}") from None
    if asked is None or asked.signature.verifier.x509_certificate is None:
        raise BadRequest("request: neither a hashedRekordRequestV002 nor one with a certificate")
    signature, verifier = asked.signature, asked.signature.verifier
    if verifier.key_details != _P256:
        raise BadRequest(f"keyDetails: {verifier.key_details.value} is not {_P256.value}")
    assert verifier.x509_certificate is not None
    try:
        key = _p256(load_certificate(verifier.x509_certificate.raw_bytes).public_key())
        key.verify(signature.content, asked.digest, ec.ECDSA(utils.Prehashed(SHA256())))
    except InvalidSignature:
        raise BadRequest("signature: not made over this digest with this key") from None
    except ValueError as error:
        raise BadRequest(f"signature: {error}") from None
    spec = {
        "data": {"algorithm": "SHA2_256", "digest": _base64(asked.digest)},
        "signature": json.loads(signature.to_json()),
    }
    return canonical(
        {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": spec}}
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
