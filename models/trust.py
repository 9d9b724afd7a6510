"""The trust root: whose signatures and whose clocks are believed, from when until when.

One JSON file, versioned by its digest. It holds public halves only. Nothing outside it, and nothing
that evidence brings along, makes a signer trusted.
"""

import base64
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from typing import Final, Literal, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)
from sigstore_models.common.v1 import TimeRange
from sigstore_models.trustroot.v1 import CertificateAuthority, TransparencyLogInstance, TrustedRoot

from models.canonical import canonical
from models.strict_json import read_as, read_object

ECDSA_P256: Final = "ecdsa-p256-sha256"
MAX_TRUST_BYTES = 4 * 1024**2


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrustedKey(_Part):
    """A public key that may sign, and when it might.

    A signature counts if its trusted time is in ``[valid_from, valid_until)`` and before
    ``revoked_at``. The algorithm belongs to the key and is never taken from what was signed.
    """

    identity: str = Field(min_length=1, max_length=512, description="who holds the private half")
    public_key: str = Field(max_length=4096, description="SubjectPublicKeyInfo, PEM")
    algorithm: Literal["ecdsa-p256-sha256"] = ECDSA_P256
    valid_from: AwareDatetime
    valid_until: AwareDatetime
    revoked_at: AwareDatetime | None = None
    revoked_because: str = Field(default="", max_length=1000)

    @field_validator("public_key")
    @classmethod
    def _is_p256(cls, pem: str) -> str:
        load_p256(pem)
        return pem

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.valid_from >= self.valid_until:
            raise ValueError("valid_until is not after valid_from")
        if self.revoked_at is not None and not self.revoked_because.strip():
            raise ValueError("revoked_because: a revocation needs its reason")
        return self

    @cached_property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The key itself."""
        return load_p256(self.public_key)

    @cached_property
    def key_id(self) -> str:
        """SHA-256 of the key's DER, hex."""
        return key_id(self.key)

    @property
    def hint(self) -> str:
        """The same as Sigstore's tools write it into a bundle: base64."""
        return hint_of(self.key_id)


class TimestampAuthority(_Part):
    """A clock that is believed: an RFC 3161 authority, its signing certificate first."""

    name: str = Field(min_length=1, max_length=512)
    certificates: list[str] = Field(
        min_length=1, max_length=8, description="PEM; the authority's own first, its root last"
    )
    valid_from: AwareDatetime
    valid_until: AwareDatetime | None = None

    @field_validator("certificates")
    @classmethod
    def _are_certificates(cls, pems: list[str]) -> list[str]:
        for pem in pems:
            _load_certificate(pem)
        return pems

    @cached_property
    def chain(self) -> list[x509.Certificate]:
        """The certificates themselves."""
        return [_load_certificate(pem) for pem in self.certificates]

    def was_valid(self, at: datetime) -> bool:
        """Whether the authority and each of its certificates were valid at a time."""
        ends = self.valid_until is not None and at > self.valid_until
        return (
            at >= self.valid_from
            and not ends
            and all(
                each.not_valid_before_utc <= at <= each.not_valid_after_utc for each in self.chain
            )
        )


class KeylessAuthority(_Part):
    """A Sigstore instance: certificate authority, logs and clocks, and whose tokens it takes."""

    name: str = Field(min_length=1, max_length=512)
    trusted_root: dict[str, JsonValue] = Field(description="Sigstore TrustedRoot, as its JSON")
    issuers: list[str] = Field(
        min_length=1, max_length=64, description="OIDC issuers, exactly as in the certificates"
    )

    @field_validator("trusted_root")
    @classmethod
    def _has_all_parts(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        root = _load_root(value)
        for part in ("certificate_authorities", "ctlogs", "tlogs", "timestamp_authorities"):
            if not getattr(root, part):
                raise ValueError(f"has no {part}; a certificate means nothing without them")
        for authority in (*root.certificate_authorities, *root.timestamp_authorities):
            if not _chain(authority):
                raise ValueError("an authority has no certificates")
        return value

    @cached_property
    def root(self) -> TrustedRoot:
        """The trusted root itself."""
        return _load_root(self.trusted_root)

    @cached_property
    def certificates(self) -> list[x509.Certificate]:
        """Certificates of every CA there ever was."""
        return [
            each for authority in self.root.certificate_authorities for each in _chain(authority)
        ]

    @cached_property
    def clocks(self) -> list[TimestampAuthority]:
        """The clocks that its signatures are dated by."""
        return [
            TimestampAuthority(
                name=f"{self.name}: {each.subject.common_name}",
                certificates=[one.public_bytes(Encoding.PEM).decode() for one in _chain(each)],
                valid_from=each.valid_for.start,
                valid_until=each.valid_for.end,
            )
            for each in self.root.timestamp_authorities
        ]

    def root_at(self, at: datetime) -> TrustedRoot:
        """What of the trusted root was in force at a time: a key that is retired later stays."""

        def logs(found: list[TransparencyLogInstance]) -> list[TransparencyLogInstance]:
            return [each for each in found if _was_in_force(each.public_key.valid_for, at)]

        def authorities(found: list[CertificateAuthority]) -> list[CertificateAuthority]:
            return [each for each in found if _was_in_force(each.valid_for, at)]

        root = self.root
        return root.model_copy(
            update={
                "certificate_authorities": authorities(root.certificate_authorities),
                "timestamp_authorities": authorities(root.timestamp_authorities),
                "ctlogs": logs(root.ctlogs),
                "tlogs": logs(root.tlogs),
            }
        )


class TrustRoot(_Part):
    """All that is trusted. Read one with `read_trust_root`."""

    signing_keys: list[TrustedKey] = Field(default=[], max_length=1000)
    timestamp_authorities: list[TimestampAuthority] = Field(default=[], max_length=64)
    keyless_authorities: list[KeylessAuthority] = Field(default=[], max_length=16)

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        ids = [key.key_id for key in self.signing_keys]
        if len(set(ids)) != len(ids):
            raise ValueError("signing_keys: a key is there twice")
        return self

    def find_key(self, name: str) -> TrustedKey | None:
        """The one key that a bundle's hint or key id names, in hex or in base64."""
        return next((key for key in self.signing_keys if name in (key.key_id, key.hint)), None)

    def to_bytes(self) -> bytes:
        """The whole root, defaults included, as canonical JSON (RFC 8785)."""
        return canonical(self.model_dump(mode="json"))

    def digest(self) -> str:
        """SHA-256 of `to_bytes`, ``sha256:<hex>``: the version of this trust root."""
        return "sha256:" + sha256(self.to_bytes()).hexdigest()


def read_trust_root(data: bytes) -> TrustRoot:
    """Read a trust root strictly; raises `models.strict_json.EvidenceError`."""
    value = read_object(data, what="trust root", max_bytes=MAX_TRUST_BYTES)
    return read_as(TrustRoot, value, what="trust root")


def load_p256(pem: str) -> ec.EllipticCurvePublicKey:
    """A public key on P-256 from PEM.

    Raises:
        ValueError: no public key, or one of another algorithm or curve.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("holds no public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("is not an ECDSA key on P-256")
    return key


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a key's SubjectPublicKeyInfo in DER, hex."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).hexdigest()


def hint_of(identifier: str) -> str:
    """A key id as Sigstore's tools write it into a bundle's ``hint``: base64 of its bytes."""
    return base64.b64encode(bytes.fromhex(identifier)).decode()


def _load_certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no certificate in PEM") from None


def _chain(authority: CertificateAuthority) -> list[x509.Certificate]:
    ders = [each.raw_bytes for each in authority.cert_chain.certificates]
    try:
        return [x509.load_der_x509_certificate(der) for der in ders]
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("an authority's certificate is none") from None


def _load_root(value: dict[str, JsonValue]) -> TrustedRoot:
    try:
        return TrustedRoot.from_json(canonical(value))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"not a Sigstore TrustedRoot: {place}: {first['msg']}") from None


def _was_in_force(period: TimeRange | None, at: datetime) -> bool:
    if period is None:
        return True
    return period.start <= at and (period.end is None or at <= period.end)
