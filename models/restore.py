"""What a restore is asked for, what it plans to do, and what it found."""

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from models.ids import RegionCode


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Goal(_Model):
    """Which state to restore: the head, or that after one change, at a time, or at a receipt."""

    seq: int | None = Field(default=None, ge=0, description="after this change")
    at: AwareDatetime | None = Field(default=None, description="after the last change until then")
    receipt: int | None = Field(
        default=None, ge=0, description="right after this receipt of the region's ledger"
    )

    @model_validator(mode="after")
    def _one(self) -> "Goal":
        given = [name for name in ("seq", "at", "receipt") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: name one of them, or none for the head")
        return self

    @property
    def is_head(self) -> bool:
        """Whether everything that was ever signed is wanted."""
        return self.seq is None and self.at is None and self.receipt is None


class Finding(_Model):
    """Something in the backup that is not as it should be, and what was done about it."""

    where: str
    what: str


class Gap(_Model):
    """Changes that were signed and are not to be had."""

    first: int
    last: int
    why: str

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class Upcast(_Model):
    """Documents of older schema versions, and what they are in this one.

    Attributes:
        versions: those that there were documents of.
        documents: how many images were changed, those of later changes among them.
        state_root: of the restored store; that of the report is of the documents as they were.
    """

    versions: tuple[int, ...] = Field(min_length=1)
    documents: int = Field(ge=0)
    state_root: str = Field(pattern=r"^[0-9a-f]{64}$")


class LedgerFault(_Model):
    """What is wrong with the receipts of a state that is signed as a whole.

    Attributes:
        code, why: of `models.verifier.Refused`.
        last_valid: the last receipt that agrees with all checkpoints; -1: there is none.
    """

    code: str
    why: str
    last_valid: int = Field(ge=-1)


class Phase(_Model):
    """One step of a restore: how long it took, and how much it went through."""

    name: str
    seconds: float = Field(ge=0)
    amount: int = Field(ge=0, description="documents, changes or receipts")


class RestoreReport(_Model):
    """What a restore did, and what it can show for it.

    Attributes:
        base_seq: the snapshot's last change; `segments` lead on from there.
        expected_seq, expected_root, expected_chain: the signed head from outside the backup.
        state_root: of the backup's digests and of what was read back from the database; these
            are the same, or the restore has failed. See `Upcast` for older documents.
        root_signed: whether the state root was signed for exactly this change; else it follows
            from signed ones by the chain.
        root_note: the signed head for exactly this change, as it stands in the backup; empty when
            there is none.
        receipts_expected: of the newest signed checkpoint of the region's ledger, where the head
            was to be restored.
        erased: documents whose tenant's key was destroyed; they are named by digest only.
        ledger_fault: the store's receipts contradict what was signed of them, as in the lost store:
            they were forked or forged before. The restored ledger needs a repair.
    """

    region: RegionCode
    source_store: str
    restored_store: str
    epoch: int
    goal: Goal
    target_seq: int
    reached_seq: int
    expected_seq: int
    expected_chain: str
    base_seq: int
    base_manifest: str
    segments: tuple[str, ...]
    state_root: str
    root_signed: bool
    root_note: str = ""
    chain: str
    documents: int
    changes_applied: int
    erased: int
    receipts: int
    receipts_expected: int
    last_change_at: AwareDatetime | None
    gap: Gap | None
    ledger_fault: LedgerFault | None = None
    findings: tuple[Finding, ...]
    phases: tuple[Phase, ...]
    upcast: Upcast | None = None
    schema_version: int

    @property
    def complete(self) -> bool:
        """Whether nothing that was signed is missing from what was asked for, or contradicts it."""
        whole = self.gap is None and self.ledger_fault is None
        return whole and self.receipts >= self.receipts_expected
