"""Each field of a restore certificate, signed by the region and wrong, is refused by its name."""

import json
from typing import Any

import pytest
from certificate_harness import (
    EU,
    SHORT,
    SOURCE,
    TIMES,
    WHOLE,
    forged,
    later,
    manifest,
    payload_of,
    refused,
    segment,
    verify,
)
from hypothesis import given
from hypothesis import strategies as st

from models.verifier import Refused


def _times(**changed: Any) -> dict[str, Any]:
    return TIMES.model_dump(mode="json") | {
        name: None if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}" for name, at in changed.items()
    }


def _goal(**goal: Any) -> dict[str, Any]:
    return {"seq": None, "at": None, "receipt": None} | goal


_GAP = {"first": 71, "last": 100, "why": "a segment is missing"}
_NONE_EXPECTED = {"receipts_expected": 0, "receipts_checkpoint": None}
_ONE = {"actor": "alice", "reason": "because"}


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"restored_store": "c" * 32}, "wrong-subject", "subject.name"),
        ({"restored_store": SOURCE}, "wrong-subject", "subject.name"),
        ({"state_root_found": "9" * 64}, "wrong-subject", "subject.digest"),
        ({"source_store": "c" * 32}, "wrong-ledger", "expected_head"),
        ({"region": "us"}, "unknown-key", "region"),
        ({"expected_head": EU.head(120).decode()}, "wrong-goal", "target_seq"),
        ({"expected_head": EU.head(90).decode()}, "wrong-goal", "target_seq"),
        ({"expected_head": EU.head(100, root=bytes(32)).decode()}, "wrong-root", None),
        ({"expected_head": EU.head(100, chain="9" * 64).decode()}, "wrong-chain", "chain"),
        ({"expected_head": EU.checkpoint(100).decode()}, "wrong-ledger", "expected_head"),
        ({"expected_head": "100"}, "bad-checkpoint", "expected_head"),
        ({"reached_head": None}, "wrong-root", "root_signed"),
        ({"reached_head": EU.head(90).decode()}, "wrong-sequence", "reached_head"),
        ({"reached_head": EU.head(100, root=bytes(32)).decode()}, "wrong-root", None),
        ({"reached_seq": 99}, "wrong-sequence", "reached_head"),
        ({"target_seq": 99}, "wrong-goal", "target_seq"),
        ({"goal": _goal(seq=99), **_NONE_EXPECTED}, "wrong-goal", "goal.seq"),
        ({"goal": _goal(receipt=10), **_NONE_EXPECTED}, "wrong-goal", "goal.receipt"),
        ({"goal": _goal(at="2026-11-01T11:59:56Z"), **_NONE_EXPECTED}, "wrong-goal", "goal.at"),
        ({"goal": _goal(seq=100)}, "wrong-receipts", "receipts_checkpoint"),
        (
            {"reached_head": None, "root_signed": False, "state_root_expected": None},
            "wrong-root",
            "reached_head",
        ),
        ({"state_root_expected": None}, "wrong-root", "state_root_expected"),
        ({"state_root_expected": "9" * 64}, "wrong-root", "state_root_expected"),
        ({"root_signed": False}, "wrong-root", "root_signed"),
        ({"chain": "9" * 64}, "wrong-chain", "chain"),
        ({"base_manifest": manifest(39)}, "wrong-evidence", "segments.0"),
        ({"base_manifest": manifest(40, "c" * 32)}, "wrong-evidence", "base_manifest"),
        ({"base_manifest": "eu"}, "wrong-evidence", "base_manifest"),
        ({"segments": [segment(41, 100, "9" * 32)]}, "wrong-evidence", "segments.0"),
        ({"segments": [segment(41, 70), segment(72, 100)]}, "wrong-evidence", "segments.1"),
        ({"segments": [segment(41, 70), segment(70, 100)]}, "wrong-evidence", "segments.1"),
        ({"segments": [segment(41, 40), segment(41, 100)]}, "wrong-evidence", "segments.0"),
        ({"segments": [segment(41, 99)]}, "wrong-evidence", "reached_seq"),
        ({"segments": [segment(41, 100), segment(101, 110)]}, "wrong-evidence", "reached_seq"),
        ({"segments": [segment(41, 100, store="c" * 32)]}, "wrong-evidence", "segments.0"),
        ({"segments": ["eu"]}, "wrong-evidence", "segments.0"),
        ({"gap": {**_GAP, "first": 101}}, "wrong-gap", "gap"),
        ({"missing": 1}, "wrong-gap", "missing"),
        ({"acceptance": _ONE}, "wrong-acceptance", "acceptance"),
        ({"receipts": 9}, "wrong-verdict", "verdict"),
        ({"receipts": 51}, "wrong-receipts", "receipts"),
        ({"receipts_expected": 0}, "wrong-receipts", "receipts_expected"),
        ({"receipts_expected": 11}, "wrong-receipts", "receipts_expected"),
        ({"receipts_checkpoint": None}, "wrong-receipts", "receipts_expected"),
        (
            {"receipts_checkpoint": EU.checkpoint(9).decode()},
            "wrong-receipts",
            "receipts_expected",
        ),
        ({"receipts_checkpoint": EU.head(10).decode()}, "unknown-key", "receipts_checkpoint"),
        ({"receipts_checkpoint": "10"}, "bad-checkpoint", "receipts_checkpoint"),
        ({"documents": 9}, "wrong-receipts", "receipts"),
        ({"verdict": "incomplete, accepted"}, "wrong-verdict", "verdict"),
        ({"rpo_seconds": 2}, "wrong-times", "rpo_seconds"),
        ({"rpo_seconds": None}, "wrong-times", "rpo_seconds"),
        ({"rto_seconds": 300}, "wrong-times", "rto_seconds"),
        ({"last_change_at": "2026-11-01T12:00:00Z"}, "wrong-times", "rpo_seconds"),
        ({"last_change_at": None}, "wrong-times", "rpo_seconds"),
        ({"times": _times(started_at=later(10))}, "wrong-times", "times.started_at"),
        ({"times": _times(finished_at=later(80))}, "wrong-times", "times.finished_at"),
        ({"times": _times(failed_over_at=later(10))}, "wrong-times", "times.failed_over_at"),
        ({"times": _times(failed_over_at=later(400))}, "wrong-times", "times.finished_at"),
        ({"times": _times(last_acknowledged_at=later(400))}, "wrong-times", "times.finished_at"),
        ({"times": _times(detected_at=None)}, "wrong-times", "times.failed_over_at"),
        ({"times": _times(finished_at=later(391))}, "wrong-times", "rto_seconds"),
        ({"times": _times(last_acknowledged_at=later(1))}, "wrong-times", "rpo_seconds"),
        (
            {"phases": [{"name": "healing check", "seconds": 302, "amount": 1}]},
            "wrong-times",
            "phases",
        ),
        ({"phases": []}, "wrong-times", "phases"),
    ],
)
def test_a_field_that_contradicts_the_rest_is_refused(
    changed: dict[str, Any], code: str, field: str | None
) -> None:
    with pytest.raises(Refused) as caught:
        verify(forged(WHOLE, **changed))
    assert caught.value.code == code
    if field is not None:
        assert caught.value.detail.startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"gap": None}, "wrong-gap", "gap"),
        ({"gap": {**_GAP, "first": 72}, "missing": 29}, "wrong-gap", "gap.first"),
        ({"gap": {**_GAP, "last": 99}, "missing": 29}, "wrong-gap", "gap.last"),
        ({"gap": {**_GAP, "why": " "}}, "wrong-gap", "gap.why"),
        ({"missing": 29}, "wrong-gap", "missing"),
        ({"missing": 0}, "wrong-gap", "missing"),
        ({"acceptance": None}, "wrong-acceptance", "acceptance"),
        ({"verdict": "complete"}, "wrong-verdict", "verdict"),
        ({"reached_seq": 71}, "wrong-sequence", "reached_head"),
        ({"target_seq": 70, "gap": None, "missing": 0}, "wrong-goal", "target_seq"),
        ({"expected_head": EU.head(70).decode()}, "wrong-goal", "target_seq"),
    ],
)
def test_a_gap_that_does_not_add_up_is_refused(
    changed: dict[str, Any], code: str, field: str
) -> None:
    with refused(code, field):
        verify(forged(SHORT, **changed))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"kind": "rehearsal"}, "predicate.kind"),
        ({"epoch": 0}, "predicate.epoch"),
        ({"erased": -1}, "predicate.erased"),
        ({"erased": "1"}, ""),
        ({"code_version": ""}, "predicate.code_version"),
        ({"schema_version": 0}, "predicate.schema_version"),
        ({"findings": [{"where": "x"}]}, "predicate.findings.0.what"),
        ({"phases": [{"name": "x", "seconds": -1, "amount": 0}]}, "predicate.phases.0.seconds"),
        ({"surprise": 1}, "predicate.surprise"),
    ],
)
def test_a_field_that_is_not_of_its_form_is_malformed(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused, match=f"statement: {field}") as caught:
        verify(forged(WHOLE, **changed))
    assert caught.value.code == "malformed"


def test_every_field_must_be_there() -> None:
    for name in json.loads(payload_of(WHOLE))["predicate"]:
        with pytest.raises(Refused):
            verify(EU.forge(WHOLE, lambda said, name=name: said["predicate"].pop(name)))


@pytest.mark.parametrize(
    ("part", "value", "code", "field"),
    [
        ("_type", "https://in-toto.io/Statement/v0.1", "wrong-type", "_type"),
        ("predicateType", "urn:chainring:deployment:v1", "wrong-type", "predicateType"),
        ("subject", [], "malformed", "statement"),
    ],
)
def test_another_statement_is_refused(part: str, value: Any, code: str, field: str) -> None:
    with refused(code, field):
        verify(EU.forge(WHOLE, lambda said: said.update({part: value})))


def test_a_store_restored_over_itself_is_refused() -> None:
    def swap(said: dict[str, Any]) -> None:
        said["predicate"]["restored_store"] = SOURCE
        said["subject"][0]["name"] = f"eu/{SOURCE}"

    with refused("wrong-subject", "restored_store"):
        verify(EU.forge(WHOLE, swap))


def test_a_subject_of_another_digest_is_refused() -> None:
    def swap(said: dict[str, Any]) -> None:
        said["subject"][0]["digest"]["sha256"] = "9" * 64

    with refused("wrong-subject", "subject.digest"):
        verify(EU.forge(WHOLE, swap))


# Nothing that an outsider can have shows these; each is the region's word.
WORD = {"kind", "epoch", "documents", "erased", "findings", "code_version", "schema_version"}
CERTIFICATES = st.sampled_from([WHOLE, SHORT])


@given(CERTIFICATES, st.data())
def test_no_field_that_can_be_computed_is_believed(data: bytes, draw: st.DataObject) -> None:
    said = json.loads(payload_of(data))["predicate"]
    numbers = [name for name, value in said.items() if isinstance(value, int | float)]
    name = draw.draw(st.sampled_from(sorted({*numbers} - WORD - {"receipts"})))
    wrong = draw.draw(st.integers(0, 2**53 - 1).filter(lambda each: each != said[name]))
    with pytest.raises(Refused):
        verify(forged(data, **{name: wrong}))


@given(CERTIFICATES, st.data())
def test_no_digest_or_name_may_be_swapped(data: bytes, draw: st.DataObject) -> None:
    said = json.loads(payload_of(data))["predicate"]
    names = ["region", "source_store", "restored_store", "state_root_expected", "state_root_found"]
    name = draw.draw(st.sampled_from([*names, "chain", "expected_head", "reached_head"]))
    text = said[name]
    index = draw.draw(st.integers(0, len(text) - 1))
    other = draw.draw(st.sampled_from("0123456789abcdefZ+/ \n").filter(lambda c: c != text[index]))
    with pytest.raises(Refused):
        verify(forged(data, **{name: text[:index] + other + text[index + 1 :]}))
