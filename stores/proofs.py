"""Proof documents from a ledger and its checkpoints, for `models.verifier.verify_proof`.

JSON-ready: an inclusion proof carries the receipt and the checkpoint, a consistency proof the two
checkpoints; hashes are base64. Nothing else is needed to check them but the ledger's public key.
"""

import base64
from collections.abc import Sequence
from typing import TypedDict

from models.checkpoint import Checkpoint, PublicKey, open_checkpoint
from models.merkle import consistency_proof, inclusion_proof
from stores.checkpoints import CheckpointFiles
from stores.ledger import Ledger


class ProofError(Exception):
    """There is nothing to prove this with; the message says what is missing."""


class InclusionDocument(TypedDict):
    """A receipt is among those that were signed."""

    kind: str
    receipt: str
    checkpoint: str
    proof: list[str]


class ConsistencyDocument(TypedDict):
    """A later checkpoint goes on from an earlier one."""

    kind: str
    first: str
    second: str
    proof: list[str]


class Prover:
    """Makes proofs about one ledger against the checkpoints outside its database.

    A proof reads all receipts up to the checkpoint's size. It is not checked here: one made from a
    damaged ledger does not verify.
    """

    def __init__(self, ledger: Ledger, files: CheckpointFiles, keys: Sequence[PublicKey]) -> None:
        self._ledger = ledger
        self._signed = {
            checkpoint.size: (checkpoint, note.decode())
            for note in files.notes()
            for checkpoint in [open_checkpoint(note, keys)]
        }

    def inclusion(self, seq: int, size: int | None = None) -> InclusionDocument:
        """That receipt ``seq`` is in the checkpoint of ``size`` (the newest one by default).

        Raises:
            ProofError: no such receipt or checkpoint.
        """
        checkpoint, note = self._checkpoint(size)
        stored = self._ledger.get(seq)
        if stored is None or seq >= checkpoint.size:
            raise ProofError(f"seq: receipt {seq} is not among the {checkpoint.size} signed ones")
        proof = inclusion_proof(self._hashes(checkpoint.size), seq)
        return {
            "kind": "inclusion",
            "receipt": stored.data.decode(),
            "checkpoint": note,
            "proof": _encode(proof),
        }

    def consistency(self, first: int, second: int | None = None) -> ConsistencyDocument:
        """That the checkpoint of size ``second`` (the newest) goes on from that of ``first``.

        Raises:
            ProofError: no such checkpoint, or the first is the larger one.
        """
        earlier, first_note = self._checkpoint(first)
        later, second_note = self._checkpoint(second)
        if earlier.size > later.size:
            raise ProofError(f"first: size {earlier.size} is larger than {later.size}")
        proof = consistency_proof(self._hashes(later.size), earlier.size)
        return {
            "kind": "consistency",
            "first": first_note,
            "second": second_note,
            "proof": _encode(proof),
        }

    def _checkpoint(self, size: int | None) -> tuple[Checkpoint, str]:
        if not self._signed:
            raise ProofError(f"ledger {self._ledger.name} has no checkpoint yet")
        wanted = max(self._signed) if size is None else size
        if wanted not in self._signed:
            sizes = ", ".join(str(each) for each in sorted(self._signed))
            raise ProofError(f"no checkpoint of size {wanted}; there are: {sizes}")
        return self._signed[wanted]

    def _hashes(self, size: int) -> list[bytes]:
        hashes = [bytes.fromhex(stored.hash) for stored in self._ledger.read(limit=size)]
        if len(hashes) < size:
            raise ProofError(f"{size} receipts are signed, but only {len(hashes)} are there")
        return hashes


def _encode(proof: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(item).decode() for item in proof]
