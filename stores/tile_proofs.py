"""Inclusion proofs that read a few tiles of the forensics index instead of all receipts.

A proof is checked against the signed checkpoint before it is given away: an index or a ledger that
is not what was signed proves nothing, and never something false.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from models.checkpoint import Checkpoint, PublicKey, open_checkpoint
from models.merkle import verify_inclusion
from models.merkle_tiles import TileError, TileLoader, TileTree
from models.receipts import StoredReceipt
from models.verifier import Refused
from stores.checkpoints import CheckpointFiles
from stores.proofs import InclusionDocument, ProofError


@dataclass(frozen=True)
class _Signed:
    checkpoint: Checkpoint
    note: str


class TileProver:
    """Proves receipts of one ledger against its newest checkpoint that the index reaches.

    Args:
        size: how many receipts are indexed.
    """

    def __init__(
        self,
        name: str,
        tiles: TileLoader,
        size: int,
        files: CheckpointFiles,
        keys: Sequence[PublicKey],
    ) -> None:
        self._name = name
        self._tree = TileTree(tiles)
        self._signed = _newest(files, keys, size)

    @property
    def signed(self) -> int:
        """How many receipts the checkpoint is over; 0 without one."""
        return self._signed.checkpoint.size if self._signed else 0

    def inclusion(self, stored: StoredReceipt) -> InclusionDocument:
        """That a receipt is among those that were signed.

        Raises:
            ProofError: it is not signed yet, or the index or the ledger is not what was signed.
        """
        if self._signed is None:
            raise ProofError(f"ledger {self._name} has no checkpoint yet")
        checkpoint = self._signed.checkpoint
        if stored.seq >= checkpoint.size:
            raise ProofError(
                f"receipt {stored.seq} is not among the {checkpoint.size} signed ones yet "
                "(`chainring receipts checkpoint`)"
            )
        try:
            path = self._tree.inclusion_path(stored.seq, checkpoint.size)
        except TileError as error:
            raise ProofError(f"the index is damaged: {error}") from None
        entry = bytes.fromhex(stored.hash)
        if not verify_inclusion(entry, stored.seq, checkpoint.size, path, checkpoint.root):
            raise ProofError(f"receipt {stored.seq} is not the one that was signed")
        return {
            "kind": "inclusion",
            "receipt": stored.data.decode(),
            "checkpoint": self._signed.note,
            "proof": [base64.b64encode(each).decode() for each in path],
        }


def _newest(files: CheckpointFiles, keys: Sequence[PublicKey], size: int) -> _Signed | None:
    """The newest checkpoint over at most ``size`` receipts; only that one is opened."""
    paths = [path for path in files.paths() if 0 < int(path.stem) <= size]
    if not paths:
        return None
    note = paths[-1].read_bytes()
    try:
        checkpoint = open_checkpoint(note, keys)
    except Refused as refusal:
        raise ProofError(f"{paths[-1].name}: {refusal}") from None
    if checkpoint.size != int(paths[-1].stem):
        raise ProofError(f"{paths[-1].name}: is about size {checkpoint.size}")
    return _Signed(checkpoint, note.decode())
