"""The restore certificate: an in-toto statement of what a restore reached, signed by its region.

The subject is the restored store by its state root. Everything in the predicate that follows from
something else in it is there for a reader only: `models.restore_certificate_check` computes it
anew, by the functions here, and believes none of it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from models.canonical import canonical
from models.ids import RegionCode
from models.recovery import GapDecision
from models.region_statement import sign_payload
from models.restore import Finding, Gap, Goal, LedgerFault, Phase, RestoreReport, Upcast
from models.statement import RESTORE, STATEMENT_TYPE

COMPLETE: Final = "complete"
ACCEPTED: Final = "incomplete, accepted"

Kind = Literal["restore", "drill"]
Verdict = Literal["complete", "incomplete, accepted"]
Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
StoreId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Note = Annotated[str, StringConstraints(max_length=4096)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Times(_Part):
    """When what happened; a drill has neither outage nor failover.

    Attributes:
        last_acknowledged_at: the last write that a client was told is kept.
        detected_at: the outage was noticed.
        failed_over_at: the region went on in buffered mode.
    """

    last_acknowledged_at: AwareDatetime | None = None
    detected_at: AwareDatetime | None = None
    failed_over_at: AwareDatetime | None = None
    started_at: AwareDatetime
    finished_at: AwareDatetime

    @property
    def restore_seconds(self) -> float:
        """From the restore's start to its end."""
        return _seconds(self.started_at, self.finished_at)

    @property
    def rto_seconds(self) -> float:
        """From the detection, or else the start, to the end."""
        return _seconds(self.detected_at or self.started_at, self.finished_at)

    @property
    def detection_seconds(self) -> float | None:
        """From the last acknowledged write to the detection: the outage began in between."""
        if self.last_acknowledged_at is None or self.detected_at is None:
            return None
        return max(0.0, _seconds(self.last_acknowledged_at, self.detected_at))

    @property
    def failover_seconds(self) -> float | None:
        """From the detection to buffered mode."""
        if self.detected_at is None or self.failed_over_at is None:
            return None
        return _seconds(self.detected_at, self.failed_over_at)


class RestorePredicate(_Part):
    """What a restore was asked for, reached and found.

    Attributes:
        expected_head: the signed head from outside the backup, the note itself.
        target_seq: the change where the goal lies, by what was signed.
        reached_head: the note that signs the reached state; None when none does, and the state
            follows from signed ones by the chain.
        base_manifest, segments: the backup's objects, whose digests are in their names.
        receipts_checkpoint: the newest note that the restore knew of the region's ledger, whose
            receipts are expected; None where an older state was asked for, or none was known.
        erased: documents whose tenant's key is destroyed; the state root covers their digests.
        acceptance: who took the store although something is missing, and why.
        ledger_fault: the restored receipts contradict what was signed of them.
        missing: changes that were signed and are not in the store.
        rpo_seconds: of the writes that may be lost; None when that cannot be told, or when an
            older state was asked for. See `rpo_seconds`.
    """

    kind: Kind
    region: RegionCode
    source_store: StoreId
    restored_store: StoreId
    epoch: int = Field(ge=1)
    goal: Goal
    expected_head: Note
    target_seq: Count
    reached_seq: Count
    reached_head: Note | None
    state_root_expected: Sha256Hex | None
    state_root_found: Sha256Hex
    root_signed: bool
    chain: Sha256Hex
    base_manifest: str = Field(max_length=512)
    segments: tuple[Annotated[str, StringConstraints(max_length=512)], ...]
    documents: Count
    erased: Count
    receipts: Count
    receipts_expected: Count
    receipts_checkpoint: Note | None
    last_change_at: AwareDatetime | None
    gap: Gap | None
    ledger_fault: LedgerFault | None = None
    missing: Count
    acceptance: GapDecision | None
    findings: tuple[Finding, ...]
    phases: tuple[Phase, ...]
    times: Times
    rpo_seconds: float | None
    rto_seconds: float
    code_version: str = Field(pattern=r"^[!-~]{1,128}$")
    upcast: Upcast | None = None
    schema_version: int = Field(ge=1)
    verdict: Verdict

    @property
    def restored_root(self) -> str:
        """The state root of the restored store: another than the signed one after an upcast."""
        return self.state_root_found if self.upcast is None else self.upcast.state_root

    def phase_seconds(self, name: str) -> float | None:
        """How long the phases of a name took; None when there is none."""
        found = [phase.seconds for phase in self.phases if phase.name == name]
        return sum(found) if found else None


class _Digest(_Part):
    sha256: Sha256Hex


class RestoredStore(_Part):
    """The subject: a store, and its state root."""

    name: str
    digest: _Digest


class RestoreStatement(_Part):
    """The in-toto statement of a certificate."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[RestoredStore]
    predicate_type: Literal["urn:chainring:restore:v1"] = Field(alias="predicateType")
    predicate: RestorePredicate

    def encoded(self) -> bytes:
        """The canonical bytes, which are what is signed."""
        return canonical(self.model_dump(mode="json", by_alias=True))


def restore_statement(
    report: RestoreReport,
    *,
    kind: Kind,
    expected_head: bytes,
    state_root_expected: str | None,
    times: Times,
    code_version: str,
    checkpoint: bytes | None = None,
    acceptance: GapDecision | None = None,
) -> RestoreStatement:
    """The statement of what a restore reached.

    Args:
        expected_head: the note that the restore was given.
        state_root_expected: what is signed for the reached change, if anything is.
        checkpoint: the newest note of the region's ledger that the restore was given.

    Raises:
        pydantic.ValidationError: a field is not of its form; names it.
    """
    complete, missing = report.complete, 0 if report.gap is None else report.gap.count
    predicate = RestorePredicate(
        kind=kind,
        region=report.region,
        source_store=report.source_store,
        restored_store=report.restored_store,
        epoch=report.epoch,
        goal=report.goal,
        expected_head=expected_head.decode(),
        target_seq=report.target_seq,
        reached_seq=report.reached_seq,
        reached_head=report.root_note or None,
        state_root_expected=state_root_expected,
        state_root_found=report.state_root,
        root_signed=report.root_signed,
        chain=report.chain,
        base_manifest=report.base_manifest,
        segments=report.segments,
        documents=report.documents,
        erased=report.erased,
        receipts=report.receipts,
        receipts_expected=report.receipts_expected,
        receipts_checkpoint=None if checkpoint is None else checkpoint.decode(),
        last_change_at=report.last_change_at,
        gap=report.gap,
        ledger_fault=report.ledger_fault,
        missing=missing,
        acceptance=acceptance,
        findings=report.findings,
        phases=report.phases,
        times=times,
        rpo_seconds=rpo_seconds(report.goal, report.last_change_at, times, complete=complete),
        rto_seconds=times.rto_seconds,
        code_version=code_version,
        upcast=report.upcast,
        schema_version=report.schema_version,
        verdict=COMPLETE if complete else ACCEPTED,
    )
    name = subject_name(report.region, report.restored_store)
    root = report.state_root if report.upcast is None else report.upcast.state_root
    store = RestoredStore(name=name, digest=_Digest(sha256=root))
    return RestoreStatement(
        type=STATEMENT_TYPE, subject=(store,), predicate_type=RESTORE, predicate=predicate
    )


def subject_name(region: str, store: str) -> str:
    """How the statement names a restored store."""
    return f"{region}/{store}"


def rpo_seconds(
    goal: Goal, last_change_at: datetime | None, times: Times, *, complete: bool
) -> float | None:
    """How long before the failure the last restored change was made: what may be lost at most.

    The failure is the last acknowledged write or, where that is not known, the detection, which is
    an upper bound: a store that nobody wrote to has lost nothing. With neither, nothing that was
    signed is missing (0) or it cannot be told.
    """
    failure = times.last_acknowledged_at or times.detected_at
    if not goal.is_head:
        return None
    if failure is None:
        return 0.0 if complete else None
    return None if last_change_at is None else max(0.0, _seconds(last_change_at, failure))


def sign_certificate(statement: RestoreStatement, key: Ed25519PrivateKey) -> bytes:
    """The certificate's file: a DSSE envelope signed by the region's ledger key, one line."""
    return sign_payload(statement.encoded(), statement.predicate.region, key)


def total_seconds(phases: Sequence[Phase]) -> float:
    """Of all phases together."""
    return sum(phase.seconds for phase in phases)


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()
