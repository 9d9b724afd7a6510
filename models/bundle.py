"""Sigstore bundles v0.3: a signed statement with all that is needed to verify it.

Read strictly: one media type, one DSSE envelope, and one of two kinds of signer - the hint of a key
that the verifier knows, or the signer's own short-lived certificate. A chain or a root is no part
of it: whom to trust is said by the verifier's trust root and never by the evidence.
"""

from hashlib import sha256
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from models.canonical import canonical
from models.dsse import Base64, Envelope
from models.strict_json import read_as, read_object

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"

MAX_TIMESTAMPS = 8
MAX_LOG_ENTRIES = 8
MAX_TIMESTAMP_BYTES = 64 * 1024
MAX_CERTIFICATE_BYTES = 64 * 1024


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class PublicKeyHint(_Part):
    """Says which of the verifier's keys it is; not covered by the signature."""

    hint: str = Field(default="", max_length=512)


class Certificate(_Part):
    """The signer's certificate, DER."""

    raw_bytes: Annotated[Base64, Field(min_length=1, max_length=MAX_CERTIFICATE_BYTES)] = Field(
        alias="rawBytes"
    )


class Timestamp(_Part):
    """An RFC 3161 TimeStampResp over the signature, DER."""

    signed_timestamp: Annotated[Base64, Field(min_length=1, max_length=MAX_TIMESTAMP_BYTES)] = (
        Field(alias="signedTimestamp")
    )


class Timestamps(_Part):
    """The timestamps of one signature."""

    rfc3161: list[Timestamp] = Field(
        default=[], alias="rfc3161Timestamps", max_length=MAX_TIMESTAMPS
    )


class VerificationMaterial(_Part):
    """Who signed, and what shows when."""

    public_key: PublicKeyHint | None = Field(default=None, alias="publicKey")
    certificate: Certificate | None = None
    log_entries: list[dict[str, JsonValue]] = Field(
        default=[], alias="tlogEntries", max_length=MAX_LOG_ENTRIES
    )
    timestamps: Timestamps = Field(default=Timestamps(), alias="timestampVerificationData")

    @model_validator(mode="before")
    @classmethod
    def _brings_no_chain(cls, value: Any) -> Any:
        if isinstance(value, dict) and "x509CertificateChain" in value:
            raise ValueError("x509CertificateChain: a bundle may not bring a chain of its own")
        return value

    @field_validator("timestamps", mode="before")
    @classmethod
    def _null_is_none(cls, value: Any) -> Any:
        return Timestamps() if value is None else value

    @model_validator(mode="after")
    def _one_signer(self) -> Self:
        if (self.public_key is None) == (self.certificate is None):
            raise ValueError("needs either publicKey or certificate")
        return self


class Bundle(_Part):
    """A DSSE envelope and its verification material."""

    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = Field(alias="mediaType")
    material: VerificationMaterial = Field(alias="verificationMaterial")
    envelope: Envelope = Field(alias="dsseEnvelope")

    @model_validator(mode="before")
    @classmethod
    def _says_what_it_is(cls, value: Any) -> Any:
        if isinstance(value, dict) and "messageSignature" in value:
            raise ValueError("messageSignature: a signature over bare bytes states nothing")
        return value

    def timestamps(self) -> list[bytes]:
        """The RFC 3161 responses, DER."""
        return [each.signed_timestamp for each in self.material.timestamps.rfc3161]


def read_bundle(data: bytes) -> Bundle:
    """Read a bundle strictly; raises `models.strict_json.EvidenceError`."""
    return read_as(Bundle, read_object(data, what="bundle"), what="bundle")


def write_bundle(
    envelope: Envelope,
    *,
    hint: str | None = None,
    certificate: bytes | None = None,
    timestamps: list[bytes] | None = None,
    log_entries: list[dict[str, JsonValue]] | None = None,
) -> bytes:
    """A bundle's bytes: canonical JSON (RFC 8785).

    Args:
        hint: which key signed; or else ``certificate``, DER.
        timestamps: RFC 3161 responses over the signature, DER.
        log_entries: transparency log entries, as Sigstore's JSON has them.

    Raises:
        ValueError: neither or both of ``hint`` and ``certificate``, or a part beyond its bound.
    """
    material = VerificationMaterial(
        public_key=None if hint is None else PublicKeyHint(hint=hint),
        certificate=None if certificate is None else Certificate(raw_bytes=certificate),
        log_entries=log_entries or [],
        timestamps=Timestamps(
            rfc3161=[Timestamp(signed_timestamp=each) for each in timestamps or []]
        ),
    )
    bundle = Bundle(media_type=MEDIA_TYPE, material=material, envelope=envelope)
    return canonical(bundle.model_dump(mode="json", by_alias=True, exclude_none=True))


def bundle_digest(data: bytes) -> str:
    """A bundle's name in receipts and verdicts: ``sha256:<hex>`` of its bytes."""
    return "sha256:" + sha256(data).hexdigest()
