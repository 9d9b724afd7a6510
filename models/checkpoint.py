"""Checkpoints: signed statements of how long a ledger is and what it holds.

The form is a C2SP signed note whose text is a tlog-checkpoint: origin, size, base64 Merkle root and
one extension line with the hash of the last receipt. Nothing in it depends on the time, so signing
the same ledger at the same size gives the same bytes. Reading is in `models.verifier`.
"""

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.verifier import (
    ORIGIN_PREFIX,
    Checkpoint,
    PublicKey,
    open_checkpoint,
    parse_key,
    parse_keys,
)

__all__ = [
    "Checkpoint",
    "PublicKey",
    "open_checkpoint",
    "origin",
    "parse_key",
    "parse_keys",
    "public_key",
    "sign",
]


def origin(ledger: str) -> str:
    """The name under which a ledger's checkpoints are signed."""
    return ORIGIN_PREFIX + ledger


def public_key(key: Ed25519PrivateKey, ledger: str) -> PublicKey:
    """The key that verifies a ledger's checkpoints; its ``vkey()`` is what to publish."""
    return PublicKey(key.public_key().public_bytes_raw(), origin(ledger))


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """The signed note, its last line end included."""
    body = (
        f"{checkpoint.origin}\n{checkpoint.size}\n{_base64(checkpoint.root)}\n"
        f"head {checkpoint.head}\n"
    )
    public = public_key(key, checkpoint.ledger)
    signature = _base64(public.key_id + key.sign(body.encode()))
    return f"{body}\n\u2014 {public.name} {signature}\n"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
