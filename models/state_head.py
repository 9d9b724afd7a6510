"""Signed heads of a store's state: after so many changes, this state root and this chain hash."""

from collections.abc import Sequence
from dataclasses import replace

from models.checkpoint import Checkpoint, PublicKey, open_checkpoint


def state_ledger(region: str, store: str) -> str:
    """The name under which a store's heads are signed."""
    return f"{region}-state-{store}"


def open_head(note: bytes, keys: Sequence[PublicKey]) -> Checkpoint:
    """Check and read a head.

    Args:
        keys: those of the region, under any name: a head is signed under the store's.

    Raises:
        models.verifier.Refused: it is not signed by one of them.
    """
    first = note.split(b"\n", 1)[0].decode(errors="replace")
    return open_checkpoint(note, [replace(key, name=first) for key in keys])
