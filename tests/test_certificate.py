"""A restore certificate is believed only where it can be shown, and refused by name."""

import json
from datetime import UTC, datetime

import pytest
from certificate_harness import (
    ACCEPTED,
    CHAIN,
    EU,
    OTHER,
    ROOT,
    SHORT,
    WHOLE,
    envelope,
    forged,
    later,
    manifest,
    payload_of,
    refused,
    segment,
    signature_of,
    verify,
)
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement as ForeignStatement
from pydantic import ValidationError
from recovery_harness import REGION, Backup
from securesystemslib.dsse import Envelope as ForeignEnvelope
from securesystemslib.signer import SSlibKey
from sqlalchemy import Engine

from models.recovery import GapDecision
from models.region_statement import key_id
from models.restore import Gap, Goal, Phase
from models.restore_certificate import Times
from models.restore_certificate_check import verify_certificate
from models.verifier import Refused
from stores.certifying import certify

pytest_plugins = ["databases", "recovery_fixtures"]

# --- what stands ---


def test_a_complete_restore_is_certified() -> None:
    found = verify(WHOLE, EU.head(100), EU.head(60), EU.checkpoint(10))
    said = found.predicate
    assert (said.verdict, said.missing, said.root_signed) == ("complete", 0, True)
    assert (said.rpo_seconds, said.rto_seconds) == (3.0, 370.0)
    assert (found.expected.size, found.heads, found.key) == (100, 3, key_id(EU.public))
    statement = json.loads(payload_of(WHOLE))
    assert statement["predicateType"] == "urn:chainring:restore:v1"
    assert statement["subject"] == [{"name": f"eu/{'b' * 32}", "digest": {"sha256": ROOT.hex()}}]


def test_a_gap_is_certified_when_it_was_accepted() -> None:
    said = verify(SHORT, EU.head(100)).predicate
    assert (said.verdict, said.missing) == ("incomplete, accepted", 30)
    assert said.gap == Gap(first=71, last=100, why="a segment is missing")
    assert said.acceptance == ACCEPTED


def test_an_older_state_is_certified() -> None:
    report = EU.report(
        goal=Goal(seq=68),
        target_seq=67,
        reached_seq=67,
        segments=(segment(41, 70),),
        root_signed=False,
        root_note="",
        chain="5" * 64,
        receipts_expected=0,
    )
    said = verify(EU.certificate(report), EU.head(100), EU.checkpoint(99)).predicate
    assert (said.verdict, said.rpo_seconds, said.state_root_expected) == ("complete", None, None)


def test_a_backup_that_goes_on_after_the_expected_head_is_certified() -> None:
    data = EU.certificate(EU.report(target_seq=90), head=EU.head(90))
    assert verify(data, EU.head(100)).predicate.reached_seq == 100


def test_a_snapshot_alone_is_certified() -> None:
    report = EU.report(base_seq=100, base_manifest=manifest(100), segments=(), last_change_at=None)
    assert verify(EU.certificate(report)).predicate.rpo_seconds is None


@pytest.mark.parametrize(
    ("times", "rpo", "rto"),
    [
        (Times(started_at=later(0), finished_at=later(200)), 0.0, 200.0),
        (Times(detected_at=later(2), started_at=later(9), finished_at=later(200)), 5.0, 198.0),
        (
            Times(last_acknowledged_at=later(-9), started_at=later(0), finished_at=later(200)),
            0.0,
            200.0,
        ),
    ],
)
def test_rpo_and_rto_follow_from_the_times(times: Times, rpo: float, rto: float) -> None:
    said = verify(EU.certificate(times=times)).predicate
    assert (said.rpo_seconds, said.rto_seconds) == (rpo, rto)


def test_a_real_restore_is_certified(backup: Backup, target: Engine) -> None:
    backup.work(10)
    backup.snapshot()
    backup.work(10)
    backup.ship()
    data = Restored(backup, target).certify()
    keys = [backup.key.public(REGION)]
    said = verify_certificate(data, keys, [backup.head()]).predicate
    assert (said.verdict, said.missing) == ("complete", 0)
    backup.work(3)
    backup.ship()
    with refused("newer-head", "expected_head"):
        verify_certificate(data, keys, [backup.head()])


def test_a_real_restore_to_a_change_is_certified(backup: Backup, target: Engine) -> None:
    backup.work(5)
    backup.snapshot()
    backup.work(20)
    backup.ship()
    wanted = backup.seq() - 10
    data = Restored(backup, target, Goal(seq=wanted)).certify()
    said = verify_certificate(data, [backup.key.public(REGION)], [backup.head()]).predicate
    assert said.verdict == "complete" and said.reached_seq <= wanted


def test_a_real_gap_is_certified(backup: Backup, target: Engine) -> None:
    backup.work(5)
    backup.snapshot()
    backup.work(5)
    backup.ship()
    reached = backup.seq()
    backup.work(5)
    backup.ship()
    found = [each for each in backup.objects.list(f"{REGION}/") if "/changelog/" in each.name]
    last = max(found, key=lambda each: each.name)
    backup.objects.delete(last.name, if_generation=last.generation)
    restored = Restored(backup, target)
    with refused("wrong-acceptance", "acceptance"):
        restored.certify()
    data = restored.certify(ACCEPTED)
    said = verify_certificate(data, [backup.key.public(REGION)], [backup.head()]).predicate
    assert (said.reached_seq, said.missing) == (reached, backup.seq() - reached)
    assert said.root_signed


class Restored:
    """A restore of a real store, with its times."""

    def __init__(self, backup: Backup, target: Engine, goal: Goal | None = None) -> None:
        self._key, self._head, started = backup.key, backup.head(), datetime.now(UTC)
        self._report = backup.restore(target, goal)
        self._times = Times(started_at=started, finished_at=datetime.now(UTC))

    def certify(self, acceptance: GapDecision | None = None) -> bytes:
        return certify(
            self._report,
            self._key,
            kind="drill",
            expected_head=self._head,
            times=self._times,
            code_version="0.1.0",
            acceptance=acceptance,
        )


def test_other_readers_of_dsse_and_in_toto_take_it() -> None:
    theirs = ForeignEnvelope.from_dict(json.loads(WHOLE))
    key = SSlibKey.from_crypto(EU.private.public_key(), keyid=key_id(EU.public))
    assert set(theirs.verify([key], threshold=1)) == {key_id(EU.public)}
    foreign = ParseDict(json.loads(theirs.payload), statement_pb2.Statement())
    ForeignStatement.copy_from_pb(foreign).validate()


# --- whom to believe ---


def test_without_a_key_nothing_is_believed() -> None:
    with refused("unknown-key", "keyid"):
        verify_certificate(WHOLE, [], [])


def test_another_regions_key_signs_no_certificate() -> None:
    forged = OTHER.called("us").sign(payload_of(WHOLE))
    with refused("unknown-key", "region"):
        verify(forged)


def test_a_foreign_key_under_the_regions_name_is_unknown() -> None:
    with refused("unknown-key", "keyid"):
        verify(OTHER.sign(payload_of(WHOLE)))


def test_a_foreign_signature_under_the_regions_key_id_is_refused() -> None:
    stolen = envelope(payload_of(WHOLE), signature_of(OTHER.sign(b"x")), key_id(EU.public))
    with refused("bad-signature", "signatures"):
        verify(stolen)


def test_a_head_that_another_region_signed_is_refused() -> None:
    note = OTHER.head(100).decode()
    with refused("unknown-key", "expected_head"):
        verify(forged(WHOLE, expected_head=note))
    with refused("unknown-key", "reached_head"):
        verify(forged(WHOLE, reached_head=note))
    with refused("unknown-key", "head 1"):
        verify(WHOLE, note.encode())


def test_a_signature_over_another_type_is_refused() -> None:
    with refused("wrong-type", "payloadType"):
        verify(EU.sign(payload_of(WHOLE), "text/plain"))


def test_a_second_signature_is_refused() -> None:
    twice = json.loads(WHOLE)
    twice["signatures"] *= 2
    with refused("malformed", "envelope"):
        verify(json.dumps(twice).encode())


@given(st.data())
def test_any_changed_byte_of_the_payload_is_refused(data: st.DataObject) -> None:
    payload = bytearray(payload_of(WHOLE))
    index = data.draw(st.integers(0, len(payload) - 1))
    payload[index] ^= data.draw(st.integers(1, 255))
    with refused("bad-signature", "signatures"):
        verify(envelope(bytes(payload), signature_of(WHOLE), key_id(EU.public)))


@given(st.data())
def test_any_changed_byte_of_the_signature_is_refused(data: st.DataObject) -> None:
    signature = bytearray(signature_of(WHOLE))
    signature[data.draw(st.integers(0, 63))] ^= data.draw(st.integers(1, 255))
    with refused("bad-signature", "signatures"):
        verify(envelope(payload_of(WHOLE), bytes(signature), key_id(EU.public)))


@given(st.binary(max_size=400))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        verify(data)
    assert caught.value.code == "malformed"


@given(st.integers(0, len(WHOLE) - 3))
def test_a_part_of_a_certificate_is_refused(length: int) -> None:
    with pytest.raises(Refused):
        verify(WHOLE[:length])


def test_another_spelling_of_the_statement_is_refused() -> None:
    spaced = json.dumps(json.loads(payload_of(WHOLE)), indent=1).encode()
    with refused("malformed", "statement"):
        verify(EU.sign(spaced))


# --- heads that an outsider has ---


def test_a_newer_head_is_told() -> None:
    with pytest.raises(Refused, match="an outsider knows head 101, the certificate is about 100"):
        verify(WHOLE, EU.head(100), EU.head(101))


def test_a_newer_checkpoint_of_the_receipts_is_told() -> None:
    with pytest.raises(Refused, match="knows 11 receipts, the certificate expects 10"):
        verify(WHOLE, EU.checkpoint(11))


def test_another_head_of_the_same_size_is_a_fork() -> None:
    with refused("forked", "head 1"):
        verify(WHOLE, EU.head(100, root=b"\x09" * 32))
    with refused("forked", "head 1"):
        verify(WHOLE, EU.head(100, chain="9" * 64))


def test_a_signed_head_shows_an_unsigned_state_to_be_wrong() -> None:
    report = EU.report(
        goal=Goal(seq=70),
        target_seq=70,
        reached_seq=70,
        segments=(segment(41, 70),),
        root_signed=False,
        root_note="",
        receipts_expected=0,
    )
    data = EU.certificate(report)
    verify(data, EU.head(70))
    with refused("wrong-root", "state_root_found"):
        verify(data, EU.head(70, root=b"\x09" * 32))
    with refused("wrong-chain", "chain"):
        verify(data, EU.head(70, chain="9" * 64))


def test_a_head_shows_a_segment_to_be_another_one() -> None:
    verify(WHOLE, EU.head(70, chain="3" * 64))
    with refused("wrong-evidence", "segments.0"):
        verify(WHOLE, EU.head(70))


def test_another_checkpoint_of_the_same_receipts_is_a_fork() -> None:
    with refused("forked", "head 1"):
        verify(WHOLE, EU.checkpoint(10, chain="9" * 64))


def test_a_checkpoint_that_another_key_signed_is_refused() -> None:
    with refused("unknown-key", "head 1"):
        verify(WHOLE, OTHER.checkpoint(10))


def test_a_head_of_another_store_is_refused() -> None:
    with refused("wrong-ledger", "head 2"):
        verify(WHOLE, EU.head(100), EU.head(100, store="c" * 32))


def test_what_is_no_head_is_refused() -> None:
    with refused("bad-checkpoint", "head 1"):
        verify(WHOLE, b"hello\n")


# --- what is not issued ---


def test_a_gap_that_nobody_accepted_is_not_certified() -> None:
    with refused("wrong-acceptance", "acceptance"):
        EU.certificate(EU.short_report())


def test_missing_receipts_are_a_matter_of_acceptance_too() -> None:
    report = EU.report(receipts=8)
    with refused("wrong-acceptance", "acceptance"):
        EU.certificate(report)
    said = verify(EU.certificate(report, acceptance=ACCEPTED)).predicate
    assert (said.verdict, said.missing) == ("incomplete, accepted", 0)


def test_a_report_of_another_expected_head_is_not_certified() -> None:
    with refused("wrong-goal", "target_seq"):
        EU.certificate(head=EU.head(120))


def test_a_state_past_every_signed_head_is_not_certified() -> None:
    older = {"receipts_expected": 0, "root_signed": False, "root_note": ""}
    report = EU.report(goal=Goal(at=later(0)), target_seq=99, reached_seq=99, **older)
    assert verify(EU.certificate(report)).predicate.reached_seq == 99
    with refused("wrong-goal", "target_seq"):
        EU.certificate(report, head=EU.head(90))
    with refused("wrong-sequence", "reached_seq"):
        EU.certificate(EU.report(goal=Goal(at=later(0)), target_seq=90, reached_seq=99, **older))


def test_a_signed_root_without_its_note_is_not_certified() -> None:
    with refused("wrong-root", "root_signed"):
        EU.certificate(EU.report(root_note=""))


def test_a_report_with_an_unreadable_store_is_not_certified() -> None:
    with pytest.raises(ValidationError, match="source_store"):
        EU.certificate(EU.report(source_store="x"))


def test_phases_may_exceed_the_wall_clock_by_a_little() -> None:
    phase = Phase(name="healing check", seconds=300.9, amount=1)
    assert verify(EU.certificate(EU.report(phases=(phase,)))).predicate.chain == CHAIN
