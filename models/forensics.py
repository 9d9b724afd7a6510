"""Answers to what ran where and when: each with the receipts that show it, and what is not shown.

A reference is ``ledger/seq``. Times are receipts' times (UTC); within a ledger the order of the
receipts decides, and between ledgers times are evidence only.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cited(_Part):
    """A receipt that an answer rests on.

    ``proof`` is an inclusion proof as `models.verifier` reads it (receipt, signed checkpoint, audit
    path), checked before it was given; without one ``unproven`` says why.
    """

    ledger: str
    seq: int
    hash: str = Field(description="SHA-256 of the receipt's bytes, hex")
    kind: str
    at: str
    subject: str
    proof: dict[str, Any] | None = None
    unproven: str = ""

    @property
    def reference(self) -> str:
        """``ledger/seq``."""
        return f"{self.ledger}/{self.seq}"


class Stay(_Part):
    """A shard ran a release for a while; ``until`` is empty while it still does."""

    region: str
    shard: str
    release: str
    since: str
    until: str = ""
    receipt: str = Field(description="of the activation")
    ended_by: str = Field(default="", description="the activation of what came after it")
    rollout: str = ""
    source: str = Field(default="", description="repository@commit, as the verdict names it")
    verdict: str = Field(default="", description="digest of the verdict it was let in by")
    outcome: str = Field(default="", description="of that verdict")
    judged: str = Field(default="", description="the verdict's receipt")
    components: list[str] = Field(default=[], description="package URLs that were asked for")


class ReleaseEvent(_Part):
    """A receipt that names a release."""

    at: str
    kind: str
    receipt: str
    outcome: str = ""
    source: str = ""
    builder: str = ""


class EvidenceItem(_Part):
    """A piece of a release's evidence: what it says, and the verdict that weighed it, if any."""

    bundle: str = Field(description="digest")
    predicate_type: str
    says: dict[str, Any] = {}
    judged: str = Field(default="", description="receipt of a verdict that has it among its inputs")


class Position(_Part):
    """How far a ledger was read for the answer, and how much of that is signed."""

    size: int
    head: str
    signed: int = 0


class Answer(_Part):
    """An answer. ``total`` counts all stays, of which ``stays`` may hold only the first."""

    question: str
    stays: list[Stay] = []
    total: int = 0
    running: int = Field(default=0, description="stays that have not ended")
    events: list[ReleaseEvent] = []
    evidence: list[EvidenceItem] = []
    receipts: list[Cited] = []
    unproven: list[str] = Field(default=[], description="what the answer could not show, and why")
    as_of: dict[str, Position] = {}
