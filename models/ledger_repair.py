"""The repair of a ledger that was forked or damaged: what is planned, and the receipt of it.

A ledger is never rewritten. Its repair is one more receipt, which names the branch that was left,
what was signed on it, and the receipts whose content is lost; see `models.verifier` for what it
excuses, and ADR 15 for why that is all.
"""

import base64
from collections.abc import Sequence
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from models.canonical import canonical
from models.checkpoint import public_key
from models.receipts import Draft
from models.verifier import REPAIR_KIND, Checkpoint, repair_text

EVIDENCE_TYPE = "urn:chainring:repair-evidence:v1"
_HEX = r"^[0-9a-f]{64}$"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class End(_Part):
    """Where a branch ends: so many receipts, and the last one's hash."""

    size: int = Field(ge=0)
    hash: str = Field(pattern=_HEX)


class Head(_Part):
    """A signed head that is not on the ledger as it is."""

    size: int = Field(ge=0)
    root: str = Field(pattern=_HEX)
    head: str = Field(pattern=_HEX)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Head":
        """The head that a checkpoint signs."""
        return cls(size=checkpoint.size, root=checkpoint.root.hex(), head=checkpoint.head)


class DamagedReceipt(_Part):
    """A receipt that is missing, or is not what it was; ``hash`` is what the chain has of it."""

    seq: int = Field(ge=0)
    hash: str = Field(pattern=_HEX)


class RepairPlan(_Part):
    """What a repair would say.

    Attributes:
        common: the end of what both branches share, as far as that can be shown.
        abandoned: the end of the branch that is not the ledger's; None: there is no fork.
        heads: what was signed on that branch.
        damaged: in the ledger as it is.
        branch_known: the receipts of that branch are at hand; else only what was signed of it.
        unsigned: receipts that call themselves repairs, which nobody signed; they excuse nothing.
    """

    ledger: str
    common: End
    abandoned: End | None
    heads: tuple[Head, ...]
    damaged: tuple[DamagedReceipt, ...]
    branch_known: bool
    unsigned: tuple[int, ...] = ()

    @property
    def needed(self) -> bool:
        """Whether there is anything to repair."""
        return bool(self.abandoned or self.heads or self.damaged)

    @property
    def last_valid(self) -> int:
        """The last receipt before fork and damage; -1: there is none."""
        first = min((each.seq for each in self.damaged), default=self.common.size)
        return min(first, self.common.size) - 1

    @property
    def digest(self) -> str:
        """Names the plan: whoever carries it out says which one was seen."""
        return sha256(canonical(self.model_dump(mode="json"))).hexdigest()


def repair_receipt(
    plan: RepairPlan,
    *,
    kept: End,
    evidence: str,
    objects: Sequence[str],
    actor: str,
    reason: str,
    key: Ed25519PrivateKey,
) -> Draft:
    """The receipt, signed over the place where it must stand: right after ``kept``.

    Args:
        evidence: SHA-256 of the evidence's index.
        objects: names under which the evidence is in the object store.
    """
    body: dict[str, JsonValue] = {
        **plan.model_dump(mode="json", include={"common", "abandoned", "heads", "damaged"}),
        "kept": kept.model_dump(mode="json"),
        "branch_known": plan.branch_known,
        "evidence": evidence,
        "objects": list(objects),
        "plan": plan.digest,
        "reason": reason,
    }
    text = repair_text(plan.ledger, kept.size, kept.hash, body)
    body["signature"] = _signature(text, plan.ledger, key)
    return Draft(
        kind=REPAIR_KIND,
        actor=actor,
        subject=plan.ledger,
        idempotency_key=repair_key(plan.digest),
        body=body,
    )


def repair_key(digest: str) -> str:
    """The idempotency key of a plan's receipt."""
    return f"repair/{digest}"


def _signature(text: str, ledger: str, key: Ed25519PrivateKey) -> str:
    public = public_key(key, ledger)
    signature = base64.b64encode(public.key_id + key.sign(text.encode())).decode()
    return f"\u2014 {public.name} {signature}\n"
