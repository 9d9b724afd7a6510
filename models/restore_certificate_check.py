"""Verifying a restore certificate with nothing but its file, public keys and signed heads.

What the region signed is not believed for that: the notes in it must be signed heads of the store,
and what follows from them, from the names of the backup's objects and from the times is computed
anew. What cannot be: the number of documents and receipts, the times and the findings are the
region's word, bounded by the rest.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, NoReturn

from models.checkpoint import Checkpoint, PublicKey, open_checkpoint, origin
from models.region_statement import key_id, open_envelope, signer_of
from models.restore_certificate import (
    ACCEPTED,
    COMPLETE,
    RestorePredicate,
    RestoreStatement,
    rpo_seconds,
    subject_name,
    total_seconds,
)
from models.state_head import open_head, state_ledger
from models.statement import RESTORE, STATEMENT_TYPE
from models.strict_json import EvidenceError, read_as, read_object
from models.verifier import Refused

HEALING = "healing check"
"""The phase in which every document was read back."""

_CLOCKS = 1.0  # seconds by which phases (a steady clock) may exceed the times (the wall's)
_MANIFEST = re.compile(r"(.+)/snapshots/([0-9]{16})-[0-9a-f]{32}\.json")
_SEGMENT = re.compile(r"(.+)/changelog/([0-9]{16})-([0-9]{16})-([0-9a-f]{32})\.seg")


class _Segment(NamedTuple):
    """A changelog segment by its name; ``chain`` is the beginning of the hash after ``last``."""

    first: int
    last: int
    chain: str


@dataclass(frozen=True)
class Certificate:
    """A certificate that stands.

    Attributes:
        expected: the head that the restore had to reach.
        key: the id of the key that signed it.
        digest: ``sha256:...`` of the file.
        heads: how many heads from outside it was held against.
    """

    statement: RestoreStatement
    expected: Checkpoint
    key: str
    digest: str
    heads: int

    @property
    def predicate(self) -> RestorePredicate:
        """What the restore reached."""
        return self.statement.predicate


def verify_certificate(
    data: bytes, keys: Sequence[PublicKey], heads: Sequence[bytes]
) -> Certificate:
    """Verify a certificate.

    Args:
        data: the file.
        keys: of the regions' ledgers; a certificate is signed by its own region's, and so are the
            notes in it.
        heads: what the caller knows otherwise: signed heads of the restored store's source, and
            checkpoints of the region's ledger. Without any, a certificate about an older head
            than the newest one cannot be told.

    Raises:
        models.verifier.Refused: it does not stand; the detail begins with the field. Codes:
            ``malformed``, ``wrong-type``, ``unknown-key``, ``bad-signature``, ``retired-key``,
            ``bad-checkpoint``, ``wrong-ledger`` (a note of another store or region),
            ``newer-head``, ``forked`` (two signed heads of one size), ``wrong-subject``,
            ``wrong-root``, ``wrong-chain``, ``wrong-sequence``, ``wrong-goal``,
            ``wrong-evidence``, ``wrong-gap``, ``wrong-receipts``, ``wrong-times``,
            ``wrong-acceptance``, ``wrong-verdict``.
    """
    envelope = open_envelope(data, what="certificate")
    key = signer_of(envelope, keys)
    statement = _statement(envelope.payload)
    said = statement.predicate
    if key.name != origin(said.region):
        _refuse("unknown-key", "region", f"{said.region}, but {key.name} has signed")
    own = [each for each in keys if each.name == key.name]
    expected = _head(said, said.expected_head.encode(), own, "expected_head")
    reached = None
    if said.reached_head is not None:
        reached = _head(said, said.reached_head.encode(), own, "reached_head")
    if not key.vouches(expected.origin, expected.size):
        _refuse("retired-key", "expected_head", f"{key.vkey()} was retired before {expected.size}")
    _check_subject(statement)
    _check_state(said, expected, reached)
    receipts = _check_receipts(said, own)
    known = _check_outside(said, expected, reached, receipts, own, heads)
    _check_goal(said, expected, reached)
    _check_evidence(said, [expected, *known])
    _check_gap(said)
    _check_times(said)
    _check_verdict(said)
    digest = "sha256:" + sha256(data).hexdigest()
    return Certificate(statement, expected, key_id(key), digest, len(heads))


def _refuse(code: str, field: str, detail: str) -> NoReturn:
    raise Refused(code, f"{field}: {detail}")


def _same(code: str, field: str, said: object, must: object) -> None:
    if said != must:
        _refuse(code, field, f"says {_shown(said)}, must be {_shown(must)}")


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)


# --- Signature and form ---
def read_certificate(data: bytes) -> RestoreStatement:
    """What a certificate says, whoever wrote it; raises `Refused` when it is none."""
    return _statement(open_envelope(data, what="certificate").payload)


def _statement(payload: bytes) -> RestoreStatement:
    try:
        read = read_object(payload, what="statement")
        _same("wrong-type", "_type", read.get("_type"), STATEMENT_TYPE)
        _same("wrong-type", "predicateType", read.get("predicateType"), RESTORE)
        statement = read_as(RestoreStatement, read, what="statement")
    except EvidenceError as error:
        raise Refused("malformed", str(error)) from None
    if statement.encoded() != payload:
        _refuse("malformed", "statement", "is not in the one spelling of what it says")
    return statement


def _head(said: RestorePredicate, note: bytes, keys: Sequence[PublicKey], field: str) -> Checkpoint:
    try:
        head = open_head(note, keys)
    except Refused as refusal:
        raise Refused(refusal.code, f"{field}: {refusal.detail}") from None
    _same("wrong-ledger", field, head.ledger, state_ledger(said.region, said.source_store))
    return head


# --- State ---
def _check_subject(statement: RestoreStatement) -> None:
    said, subject = statement.predicate, statement.subject[0]
    name = subject_name(said.region, said.restored_store)
    _same("wrong-subject", "subject.name", subject.name, name)
    _same("wrong-subject", "subject.digest", subject.digest.sha256, said.restored_root)
    versions = () if said.upcast is None else said.upcast.versions
    if list(versions) != sorted(set(versions)) or any(v >= said.schema_version for v in versions):
        _refuse("wrong-subject", "upcast.versions", f"are not all before {said.schema_version}")
    if said.upcast is not None and not said.upcast.documents:
        _same("wrong-root", "upcast.state_root", said.upcast.state_root, said.state_root_found)
    if said.restored_store == said.source_store:
        _refuse("wrong-subject", "restored_store", "is the source itself")


def _check_state(said: RestorePredicate, expected: Checkpoint, reached: Checkpoint | None) -> None:
    """The reached state is the signed one wherever one is signed for it."""
    if reached is not None:
        _same("wrong-sequence", "reached_head", reached.size, said.reached_seq)
    _same("wrong-root", "root_signed", said.root_signed, reached is not None)
    must = None if reached is None else reached.root.hex()
    _same("wrong-root", "state_root_expected", said.state_root_expected, must)
    if expected.size == said.reached_seq and reached is None:
        _refuse("wrong-root", "reached_head", "none, but the expected head is of that size")
    for head in (reached, expected):
        if head is not None:
            _check_against(said, head)


def _check_against(said: RestorePredicate, head: Checkpoint) -> None:
    if head.size == said.reached_seq:
        _same("wrong-root", "state_root_found", said.state_root_found, head.root.hex())
        _same("wrong-chain", "chain", said.chain, head.head)


def _check_outside(
    said: RestorePredicate,
    expected: Checkpoint,
    reached: Checkpoint | None,
    receipts: Checkpoint | None,
    keys: Sequence[PublicKey],
    heads: Sequence[bytes],
) -> list[Checkpoint]:
    """The region could sign a certificate about an old head; who knows a newer one, tells.

    Returns those of the source store.
    """
    found = []
    newest = max(head.size for head in (expected, reached) if head is not None)
    for number, note in enumerate(heads, 1):
        field = f"head {number}"
        if note.startswith(f"{origin(said.region)}\n".encode()):
            _check_ledger(said, _ledger(note, keys, field), receipts, field)
            continue
        head = _head(said, note, keys, field)
        if head.size > newest:
            _refuse(
                "newer-head",
                "expected_head",
                f"an outsider knows head {head.size}, the certificate is about {newest}",
            )
        for known in (expected, reached):
            _check_fork(head, known, field)
        _check_against(said, head)
        found.append(head)
    return found


def _check_receipts(said: RestorePredicate, keys: Sequence[PublicKey]) -> Checkpoint | None:
    """The checkpoint in the certificate, which says how many receipts there must be."""
    signed = None
    if said.receipts_checkpoint is not None:
        field = "receipts_checkpoint"
        signed = _ledger(said.receipts_checkpoint.encode(), keys, field)
        if not said.goal.is_head:
            _refuse("wrong-receipts", field, "is there for an older state")
    must = 0 if signed is None else signed.size
    _same("wrong-receipts", "receipts_expected", said.receipts_expected, must)
    if said.receipts > said.documents:
        _refuse("wrong-receipts", "receipts", f"{said.receipts} in {said.documents} documents")
    return signed


def _check_ledger(
    said: RestorePredicate, head: Checkpoint, known: Checkpoint | None, field: str
) -> None:
    """What an outsider knows of the region's ledger; an older state owes it nothing."""
    if said.goal.is_head and head.size > said.receipts_expected:
        _refuse(
            "newer-head",
            "receipts_expected",
            f"an outsider knows {head.size} receipts, the certificate expects "
            f"{said.receipts_expected}",
        )
    _check_fork(head, known, field)


def _check_fork(head: Checkpoint, known: Checkpoint | None, field: str) -> None:
    if known is not None and known.size == head.size and known != head:
        _refuse("forked", field, f"another head of size {head.size} than the certificate's")


def _ledger(note: bytes, keys: Sequence[PublicKey], field: str) -> Checkpoint:
    """A checkpoint of the region's ledger: the keys' own name is the only one they sign under."""
    try:
        return open_checkpoint(note, keys)
    except Refused as refusal:
        raise Refused(refusal.code, f"{field}: {refusal.detail}") from None


# --- Goal and way ---
def _check_goal(said: RestorePredicate, expected: Checkpoint, reached: Checkpoint | None) -> None:
    goal, last = said.goal, said.last_change_at
    if goal.is_head:
        _same("wrong-goal", "target_seq", said.target_seq, expected.size)
    if said.target_seq > expected.size:
        _refuse("wrong-goal", "target_seq", f"{said.target_seq} is past head {expected.size}")
    if goal.seq is not None and max(said.target_seq, said.reached_seq) > goal.seq:
        _refuse("wrong-goal", "goal.seq", f"{goal.seq} was passed")
    if goal.at is not None and last is not None and last > goal.at:
        _refuse("wrong-goal", "goal.at", f"the last change is of {last}, after it")
    if goal.receipt is not None and said.gap is None and said.receipts <= goal.receipt:
        _refuse("wrong-goal", "goal.receipt", f"{goal.receipt} is not among {said.receipts}")
    # The backup may go on after the head that was expected; then the end of it is signed itself.
    if said.reached_seq > said.target_seq and (goal.seq is not None or reached is None):
        _refuse("wrong-sequence", "reached_seq", f"{said.reached_seq} is past {said.target_seq}")


def _check_evidence(said: RestorePredicate, heads: Sequence[Checkpoint]) -> None:
    """The named objects lead from the snapshot to the reached change without a hole.

    A segment's name holds half of the chain hash after it, which signed heads name too.
    """
    signed = {head.size: head.head[:32] for head in heads}
    place = f"{said.region}/{said.source_store}"
    base = _MANIFEST.fullmatch(said.base_manifest)
    if base is None or base[1] != place:
        _refuse("wrong-evidence", "base_manifest", f"is no snapshot of {place}")
    first = last = int(base[2])
    segments = list(_segments(said, place))
    for number, segment in enumerate(segments):
        field = f"segments.{number}"
        _same("wrong-evidence", field, f"begins at {segment.first}", f"begins at {last + 1}")
        if segment.last < segment.first:
            _refuse("wrong-evidence", field, f"ends at {segment.last}, before it begins")
        first, last = segment.first, segment.last
        _same("wrong-evidence", field, segment.chain, signed.get(last, segment.chain))
    if not first <= said.reached_seq <= last:
        where = f"{first} to {last}, of the last object"
        _refuse("wrong-evidence", "reached_seq", f"{said.reached_seq} is not within {where}")
    if segments and said.reached_seq == last:
        _same("wrong-chain", "chain", said.chain[:32], segments[-1].chain)


def _segments(said: RestorePredicate, place: str) -> Iterator[_Segment]:
    for number, name in enumerate(said.segments):
        match = _SEGMENT.fullmatch(name)
        if match is None or match[1] != place:
            _refuse("wrong-evidence", f"segments.{number}", f"is no segment of {place}")
        yield _Segment(int(match[2]), int(match[3]), match[4])


def _check_gap(said: RestorePredicate) -> None:
    gap, lacks = said.gap, said.reached_seq < said.target_seq
    if gap is None:
        if lacks:
            must = f"{said.reached_seq + 1} to {said.target_seq}"
            _refuse("wrong-gap", "gap", f"says nothing, must be {must}")
        _same("wrong-gap", "missing", said.missing, 0)
        return
    if not lacks:
        _refuse("wrong-gap", "gap", f"is there, but {said.reached_seq} was reached")
    _same("wrong-gap", "gap.first", gap.first, said.reached_seq + 1)
    _same("wrong-gap", "gap.last", gap.last, said.target_seq)
    _same("wrong-gap", "missing", said.missing, gap.last - gap.first + 1)
    if not gap.why.strip():
        _refuse("wrong-gap", "gap.why", "is empty")


# --- Times and verdict ---
def _check_times(said: RestorePredicate) -> None:
    times = said.times
    if times.failed_over_at is not None and times.detected_at is None:
        _refuse("wrong-times", "times.failed_over_at", "is there without detected_at")
    detected = times.detected_at or times.started_at
    order = (
        ("detected_at", detected, "started_at", times.started_at),
        ("started_at", times.started_at, "finished_at", times.finished_at),
        ("detected_at", detected, "failed_over_at", times.failed_over_at),
        ("failed_over_at", times.failed_over_at, "finished_at", times.finished_at),
        ("last_acknowledged_at", times.last_acknowledged_at, "finished_at", times.finished_at),
    )
    for earlier, start, later, end in order:
        if start is not None and end is not None and start > end:
            _refuse("wrong-times", f"times.{later}", f"{end} is before {earlier}, {start}")
    _same("wrong-times", "rto_seconds", said.rto_seconds, times.rto_seconds)
    complete = _is_complete(said)
    rpo = rpo_seconds(said.goal, said.last_change_at, times, complete=complete)
    _same("wrong-times", "rpo_seconds", said.rpo_seconds, rpo)
    spent = total_seconds(said.phases)
    if spent > times.restore_seconds + _CLOCKS:
        _refuse(
            "wrong-times", "phases", f"{spent:.1f} s do not fit into {times.restore_seconds:.1f} s"
        )
    if said.phase_seconds(HEALING) is None:
        _refuse("wrong-times", "phases", f"there is no {HEALING}")


def _is_complete(said: RestorePredicate) -> bool:
    whole = said.gap is None and said.ledger_fault is None
    return whole and said.receipts >= said.receipts_expected


def _check_verdict(said: RestorePredicate) -> None:
    complete = _is_complete(said)
    _same("wrong-verdict", "verdict", said.verdict, COMPLETE if complete else ACCEPTED)
    if complete and said.acceptance is not None:
        _refuse("wrong-acceptance", "acceptance", "is there, but nothing is missing")
    if not complete and said.acceptance is None:
        _refuse("wrong-acceptance", "acceptance", "nobody has accepted what is missing")
