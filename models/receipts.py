"""Receipts: what was done, by whom, to what, chained by hash.

A receipt is a canonical JSON object. Its bytes as stored are what is hashed, and the next receipt
names that hash in ``prev``; so they are written once, here, and never written again from parsed
data. Order is by ``seq``; ``at`` is evidence, not order.
"""

import json.encoder
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    StringConstraints,
    ValidationError,
)

from models.canonical import CanonicalError, canonical, parse
from models.ids import RegionCode

GENESIS = "0" * 64
"""``prev`` of the first receipt of a ledger, and the head of an empty one."""

MAX_BODY_BYTES = 4 * 1024 * 1024

KIND_PATTERN = r"^[a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)*$"

_NO_CONTROL = r"^[^\x00-\x1f\x7f]*$"
Kind = Annotated[str, StringConstraints(pattern=KIND_PATTERN, max_length=100)]
Name = Annotated[str, StringConstraints(pattern=_NO_CONTROL, min_length=1, max_length=512)]
OptionalName = Annotated[str, StringConstraints(pattern=_NO_CONTROL, max_length=512)]
HexHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Timestamp = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]

_quote = json.encoder.encode_basestring
"""A JSON string exactly as RFC 8785, section 3.2.2.2, spells it."""


class ReceiptError(ValueError):
    """Bytes that are no receipt; the message says what is wrong with them."""


class Draft(BaseModel):
    """What a caller says; the ledger adds its name, ``seq``, ``prev`` and ``at``.

    Two drafts with one ``idempotency_key`` are the same effect, and only one is ever stored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    actor: Name
    subject: Name
    body: dict[str, JsonValue]
    workflow_id: OptionalName = ""
    run_id: OptionalName = ""
    idempotency_key: Name

    _body: bytes = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Take the canonical form at once, so that a bad body is refused where it is made."""
        try:
            self._body = canonical(self.body)
        except CanonicalError as error:
            raise ValueError(f"body: {error}") from None
        if len(self._body) > MAX_BODY_BYTES:
            raise ValueError(f"body: {len(self._body)} bytes, the limit is {MAX_BODY_BYTES}")

    @property
    def canonical_body(self) -> bytes:
        """The body as it will be stored."""
        return self._body


class Receipt(BaseModel):
    """A receipt as read back."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ledger: RegionCode
    seq: int = Field(ge=0)
    prev: HexHash
    kind: Kind
    at: Timestamp
    actor: Name
    subject: Name
    body: dict[str, JsonValue]
    workflow_id: OptionalName
    run_id: OptionalName
    idempotency_key: Name

    def says(self, draft: Draft) -> bool:
        """Whether the draft is this receipt again (runs and workflows may differ after a reset)."""
        return (
            self.kind == draft.kind
            and self.subject == draft.subject
            and self.actor == draft.actor
            and canonical(self.body) == draft.canonical_body
        )


@dataclass(frozen=True)
class StoredReceipt:
    """A receipt's bytes with what the store's index knows of them."""

    seq: int
    kind: str
    data: bytes

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the stored bytes, in hex."""
        return receipt_hash(self.data)

    @cached_property
    def receipt(self) -> Receipt:
        """The parsed receipt; raises `ReceiptError`."""
        return parse_receipt(self.data)


def receipt_hash(data: bytes) -> str:
    """What the next receipt's ``prev`` must be."""
    return sha256(data).hexdigest()


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC with microseconds; raises ValueError for a time without a zone."""
    if at.tzinfo is None:
        raise ValueError("a receipt's time needs a time zone")
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def seal(draft: Draft, *, ledger: str, seq: int, prev: str, at: str) -> bytes:
    """The bytes of the receipt.

    The keys below are in RFC 8785 order (UTF-16 code units), so the object is canonical when its
    parts are; putting it together here spares a second walk over the body.
    """
    return (
        f'{{"actor":{_quote(draft.actor)},"at":"{at}","body":'.encode()
        + draft.canonical_body
        + (
            f',"idempotency_key":{_quote(draft.idempotency_key)},"kind":"{draft.kind}",'
            f'"ledger":"{ledger}","prev":"{prev}","run_id":{_quote(draft.run_id)},'
            f'"seq":{seq},"subject":{_quote(draft.subject)},'
            f'"workflow_id":{_quote(draft.workflow_id)}}}'
        ).encode()
    )


def parse_receipt(data: bytes) -> Receipt:
    """Read a receipt's bytes.

    Raises:
        ReceiptError: not strict JSON, or a field is missing, unknown or wrong.
    """
    try:
        return Receipt.model_validate(parse(data))
    except CanonicalError as error:
        raise ReceiptError(str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ReceiptError(f"{field}: {first['msg']}") from None
