"""Signing in-toto statements into Sigstore bundles, by a key in a file or in a KMS.

Every signature gets an RFC 3161 timestamp: a key's days are judged by trusted time, so a signature
without one would be refused. What a signer returned is verified before it is handed out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from securesystemslib.signer import (  # type: ignore[attr-defined]  # the package has no __all__
    CryptoSigner,
    Signer,
    SSlibKey,
)

from models.bundle import write_bundle
from models.dsse import IN_TOTO_TYPE, Envelope, Signature, pae
from models.statement import read_statement
from models.trust import hint_of, key_id, load_p256
from stores.keys import read_private_key

KMS_SCHEMES: Final = ("awskms", "gcpkms", "azurekms", "hsm", "hv", "file2")
"""Key URIs that securesystemslib opens; ``hv`` is HashiCorp Vault, ``file2`` a PEM file."""


class SigningFailed(Exception):
    """Nothing was signed: the key, the KMS or the clock does not serve; the message says which."""


class TimestampSource(Protocol):
    """An RFC 3161 timestamp authority."""

    def timestamp(self, message: bytes) -> bytes:
        """A TimeStampResp (DER) over ``message``, which the authority sees only the hash of."""
        ...


class StatementSigner(Protocol):
    """One who signs statements."""

    def sign(self, statement: bytes) -> bytes:
        """A Sigstore bundle v0.3 over an in-toto statement.

        Raises:
            models.strict_json.EvidenceError: ``statement`` is none.
            SigningFailed: no signature could be had.
        """
        ...


class KeySigner:
    """Signs with an ECDSA P-256 key that a securesystemslib signer holds.

    Raises:
        ValueError: ``public_key`` is not on P-256.
    """

    def __init__(
        self, signer: Signer, public_key: str, timestamps: Sequence[TimestampSource]
    ) -> None:
        self._signer = signer
        self._public = load_p256(public_key)
        self._timestamps = timestamps
        self.key_id = key_id(self._public)

    def sign(self, statement: bytes) -> bytes:
        """See `StatementSigner.sign`."""
        read_statement(statement)
        signed = pae(IN_TOTO_TYPE, statement)
        signature = self._signature(signed)
        # The hint names the key. A DSSE key id would name it a second time, and cosign takes none
        # but its own spelling of one.
        envelope = Envelope(
            payload=statement, payload_type=IN_TOTO_TYPE, signatures=[Signature(sig=signature)]
        )
        stamps = self._seen(signature)
        return write_bundle(envelope, hint=hint_of(self.key_id), timestamps=stamps)

    def _signature(self, message: bytes) -> bytes:
        try:
            signature = bytes.fromhex(self._signer.sign(message).signature)
        except Exception as error:  # a KMS client has errors of its own kinds
            raise SigningFailed(f"key {self.key_id}: {_words(error)}") from None
        try:
            self._public.verify(signature, message, ec.ECDSA(SHA256()))
        except InvalidSignature:
            raise SigningFailed(
                f"key {self.key_id}: its signature is not ECDSA with SHA-256 in DER by that key"
            ) from None
        return signature

    def _seen(self, signature: bytes) -> list[bytes]:
        try:
            return [source.timestamp(signature) for source in self._timestamps]
        except Exception as error:
            raise SigningFailed(f"timestamp: {_words(error)}") from None


class KmsSigner(KeySigner):
    """Signs with a key that a KMS keeps; the private half is never here.

    Args:
        uri: which key, as securesystemslib writes it: ``gcpkms:projects/.../cryptoKeyVersions/1``.
        public_key: its public half, PEM.

    Raises:
        SigningFailed: the URI is of no known scheme, or the KMS does not open the key.
        ValueError: ``public_key`` is not on P-256.
    """

    def __init__(self, uri: str, public_key: str, timestamps: Sequence[TimestampSource]) -> None:
        scheme = uri.partition(":")[0]
        if scheme not in KMS_SCHEMES:
            raise SigningFailed(f"key URI: {scheme!r} is none of {', '.join(KMS_SCHEMES)}")
        public = load_p256(public_key)
        try:
            signer = Signer.from_priv_key_uri(uri, SSlibKey.from_crypto(public))
        except Exception as error:
            raise SigningFailed(f"key {uri}: {_words(error)}") from None
        super().__init__(signer, public_key, timestamps)


def file_signer(path: Path, public_key: str, timestamps: Sequence[TimestampSource]) -> KeySigner:
    """A signer with the private key in a PEM file.

    Raises:
        stores.keys.KeyFileError: missing, open to others, or no private key.
        SigningFailed: the file's key is not the private half of ``public_key``.
    """
    private = read_private_key(path)
    try:
        signer = CryptoSigner(private, SSlibKey.from_crypto(load_p256(public_key)))
    except Exception as error:
        raise SigningFailed(f"{path}: {_words(error)}") from None
    return KeySigner(signer, public_key, timestamps)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
