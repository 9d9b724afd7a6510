"""What a region says under the key of its ledger: an in-toto statement in a DSSE envelope."""

from collections.abc import Sequence
from contextlib import suppress

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from models.canonical import canonical
from models.checkpoint import PublicKey, public_key
from models.dsse import IN_TOTO_TYPE, Envelope, Signature, only_signature, pae
from models.strict_json import EvidenceError, read_as, read_object
from models.verifier import Refused

MAX_BYTES = 4 * 1024**2


def key_id(key: PublicKey) -> str:
    """How a signature names its key: as the key's vkey begins."""
    return f"{key.name}+{key.key_id.hex()}"


def sign_payload(payload: bytes, region: str, key: Ed25519PrivateKey) -> bytes:
    """A statement's file: its envelope, signed by the region's ledger key, one line."""
    signature = Signature(
        sig=key.sign(pae(IN_TOTO_TYPE, payload)), keyid=key_id(public_key(key, region))
    )
    envelope = Envelope(payload=payload, payload_type=IN_TOTO_TYPE, signatures=[signature])
    return canonical(envelope.model_dump(mode="json", by_alias=True)) + b"\n"


def open_envelope(data: bytes, *, what: str) -> Envelope:
    """The envelope, whoever signed it; raises `Refused` (malformed, wrong-type)."""
    try:
        envelope = read_as(Envelope, read_object(data, what=what, max_bytes=MAX_BYTES), what=what)
        only_signature(envelope)
    except EvidenceError as error:
        raise Refused("malformed", str(error)) from None
    if envelope.payload_type != IN_TOTO_TYPE:
        raise Refused(
            "wrong-type", f"payloadType: says {envelope.payload_type}, must be {IN_TOTO_TYPE}"
        )
    return envelope


def signer_of(envelope: Envelope, keys: Sequence[PublicKey]) -> PublicKey:
    """Whose key signed; nothing of the payload is read before.

    Raises:
        Refused: unknown-key, bad-signature.
    """
    signature = only_signature(envelope)
    named = [key for key in keys if key_id(key) == signature.keyid]
    if not named:
        said = signature.keyid or "none"
        raise Refused("unknown-key", f"keyid: {said} is none of the given keys")
    for key in named:
        with suppress(InvalidSignature):
            public = Ed25519PublicKey.from_public_bytes(key.raw)
            public.verify(signature.sig, envelope.signed_bytes())
            return key
    raise Refused("bad-signature", f"signatures: that of {signature.keyid} does not verify")
