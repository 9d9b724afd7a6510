"""DSSE envelopes (secure-systems-lab DSSE v1.0.2): what is signed is type and payload together."""

import base64
import binascii
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from models.strict_json import EvidenceError

IN_TOTO_TYPE = "application/vnd.in-toto+json"
"""The payload type of an in-toto statement."""

MAX_PAYLOAD = 12 * 1024**2
MAX_SIGNATURE = 8 * 1024


def decode_base64(text: Any) -> bytes:
    """Bytes from standard base64 in its one spelling.

    Raises:
        ValueError: not a string, not base64, or another spelling of the same bytes.
    """
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise ValueError("must be base64 text")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 with unused bits that are not zero")
    return data


def encode_base64(data: bytes) -> str:
    """Standard base64."""
    return base64.b64encode(data).decode()


Base64 = Annotated[bytes, PlainValidator(decode_base64), PlainSerializer(encode_base64)]
"""Bytes that JSON carries as standard base64."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Signature(_Part):
    """One signature; ``keyid`` is a hint of whose, and is not covered by it."""

    sig: Annotated[Base64, Field(min_length=1, max_length=MAX_SIGNATURE)]
    keyid: str = Field(default="", max_length=512)


class Envelope(_Part):
    """A payload, what it is, and who signed the two."""

    payload: Annotated[Base64, Field(max_length=MAX_PAYLOAD)]
    payload_type: str = Field(alias="payloadType", min_length=1, max_length=256)
    signatures: list[Signature] = Field(min_length=1, max_length=16)

    def signed_bytes(self) -> bytes:
        """What the signatures are over: the pre-authentication encoding."""
        return pae(self.payload_type, self.payload)


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: lengths first, so that no two inputs give one string."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def only_signature(envelope: Envelope) -> Signature:
    """The one signature of an envelope.

    Several would leave open which of them a reader goes by.

    Raises:
        EvidenceError: there is more than one.
    """
    if len(envelope.signatures) != 1:
        raise EvidenceError(f"envelope: {len(envelope.signatures)} signatures, one is admitted")
    return envelope.signatures[0]
