"""The newest signed head of each store, kept outside of it and of its backup.

A restore must reach this head or say what is missing: a backup that lost its end looks whole by
itself. A witness never takes a smaller head, nor another one of the same size.
"""

from collections.abc import Sequence
from pathlib import Path

from models.checkpoint import Checkpoint, PublicKey, origin, sign
from models.state_head import open_head, state_ledger
from stores.files import file_lock, write_atomic
from stores.keys import SigningKey

__all__ = ["HeadRefused", "Witness", "open_head", "sign_head", "state_ledger"]


class HeadRefused(Exception):
    """The head goes back behind one that was witnessed, or contradicts it."""


def sign_head(
    key: SigningKey, region: str, store: str, *, seq: int, root: bytes, chain: bytes
) -> str:
    """The signed note that says: after change ``seq`` this was the state root and the chain."""
    named = origin(state_ledger(region, store))
    return sign(Checkpoint(named, seq, root, chain.hex()), key.private)


class Witness:
    """Heads in a directory, one file a store."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def admit(self, region: str, store: str, note: str, keys: Sequence[PublicKey]) -> None:
        """Keep a head; the one that is there again changes nothing.

        Raises:
            HeadRefused: it is not signed, is smaller than the one here, or contradicts it.
        """
        path = self._path(region, store)
        new = open_head(note.encode(), keys)
        if new.ledger != state_ledger(region, store):
            raise HeadRefused(f"{new.ledger} is not the head of {state_ledger(region, store)}")
        with file_lock(path.with_suffix(".lock")):
            if path.exists():
                old = open_head(path.read_bytes(), keys)
                if old.size > new.size:
                    raise HeadRefused(
                        f"{new.ledger}: head {new.size} is behind {old.size}, which was witnessed"
                    )
                if old.size == new.size:
                    if old != new:
                        raise HeadRefused(f"{new.ledger}: two heads of size {new.size}")
                    return
            write_atomic(path, note.encode())

    def head(self, region: str, store: str) -> bytes | None:
        """The newest head, as signed; None when none was witnessed."""
        path = self._path(region, store)
        return path.read_bytes() if path.exists() else None

    def knows(self, region: str) -> bool:
        """Whether a head of any store of the region was witnessed."""
        return any(self._directory.glob(f"{state_ledger(region, '*')}.note"))

    def _path(self, region: str, store: str) -> Path:
        return self._directory / f"{state_ledger(region, store)}.note"
