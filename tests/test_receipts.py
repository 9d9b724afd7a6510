"""Receipts: what a caller may say, and the bytes that come of it."""

import json
import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models import verifier
from models.receipts import (
    GENESIS,
    MAX_BODY_BYTES,
    Draft,
    ReceiptError,
    parse_receipt,
    receipt_hash,
    seal,
    timestamp,
)

AT = "2026-11-23T08:00:00.000001Z"
SAID = {
    "kind": "shard.activated",
    "actor": "region/eu",
    "subject": "eu-001",
    "body": {"to": "sha256:ab", "count": 3},
    "workflow_id": "rollout/web/1",
    "run_id": "r-1",
    "idempotency_key": "rollout/web/1/eu-001",
}
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(c) for c in [*range(32), 127]])
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def sealed(draft: Draft, seq: int = 0, prev: str = GENESIS) -> bytes:
    return seal(draft, ledger="eu", seq=seq, prev=prev, at=AT)


@given(
    NAMES.filter(bool), NAMES, st.dictionaries(NAMES, JSON, max_size=4), st.integers(0, 2**53 - 1)
)
def test_a_sealed_receipt_is_the_canonical_form_of_what_it_says(name, other, body, seq):
    draft = Draft(
        kind="a.b",
        actor=name,
        subject=name,
        body=body,
        workflow_id=other,
        run_id=other,
        idempotency_key=name,
    )
    data = sealed(draft, seq)
    assert rfc8785.dumps(json.loads(data)) == data
    receipt = parse_receipt(data)
    assert receipt.says(draft)
    assert (receipt.seq, receipt.prev, receipt.ledger, receipt.at) == (seq, GENESIS, "eu", AT)
    assert (receipt.workflow_id, receipt.run_id) == (other, other)
    assert verifier.read_receipt(data) == receipt.model_dump()


def test_the_bytes_are_these():
    data = sealed(Draft.model_validate(SAID), 5, "0a" * 32)
    assert data.decode() == (
        '{"actor":"region/eu","at":"2026-11-23T08:00:00.000001Z","body":{"count":3,'
        '"to":"sha256:ab"},"idempotency_key":"rollout/web/1/eu-001","kind":"shard.activated",'
        f'"ledger":"eu","prev":"{"0a" * 32}","run_id":"r-1","seq":5,"subject":"eu-001",'
        '"workflow_id":"rollout/web/1"}'
    )
    # by sha256sum, of the text above
    assert receipt_hash(data) == "a75bdef5622fea40335367d266570b9ace8f0e47faa2f1754cef30d19ede1cac"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "Shard Activated"),
        ("kind", "a\n"),
        ("kind", ""),
        ("kind", "a..b"),
        ("actor", ""),
        ("actor", "a\x00b"),
        ("subject", "x" * 513),
        ("subject", "two\nlines"),
        ("idempotency_key", ""),
        ("idempotency_key", "\ud800"),
        ("workflow_id", "\x7f"),
        ("run_id", None),
        ("body", []),
        ("body", {"x": object()}),
        ("body", {"x": float("nan")}),
        ("body", {"x": 2**53}),
        ("body", {1: 2}),
        ("body", {"x": "y" * MAX_BODY_BYTES}),
        ("colour", "red"),
    ],
)
def test_a_bad_draft_is_refused_and_the_field_is_named(field, value):
    with pytest.raises(ValidationError, match=field):
        Draft.model_validate({**SAID, field: value})


def test_a_draft_keeps_the_body_it_was_made_with():
    body = {"n": 1}
    draft = Draft.model_validate({**SAID, "body": body})
    body["n"] = 2
    draft.body["n"] = 3
    assert draft.canonical_body == b'{"n":1}'
    assert pickle.loads(pickle.dumps(draft)).canonical_body == b'{"n":1}'


def test_a_draft_survives_json():
    draft = Draft.model_validate(SAID)
    assert Draft.model_validate_json(draft.model_dump_json()) == draft


def test_time_is_utc_with_microseconds():
    east = timezone(timedelta(hours=2))
    assert timestamp(datetime(2026, 11, 23, 10, 0, 0, 1, east)) == AT
    assert timestamp(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000000Z"
    with pytest.raises(ValueError, match="time zone"):
        timestamp(datetime(2026, 1, 1))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seq": -1}, "seq"),
        ({"seq": "1"}, "seq"),
        ({"seq": 1.0}, "seq"),
        ({"prev": "0" * 63}, "prev"),
        ({"prev": "A" * 64}, "prev"),
        ({"at": "2026-11-23T08:00:00Z"}, "at"),
        ({"ledger": "EU"}, "ledger"),
        ({"extra": 1}, "extra"),
        ({"body": "x"}, "body"),
    ],
)
def test_what_is_no_receipt_is_refused_alike_by_both_readers(change, why):
    good = json.loads(sealed(Draft.model_validate(SAID)))
    data = rfc8785.dumps({**good, **change})
    if change != {"seq": 1.0}:  # the canonical form of 1.0 is 1
        with pytest.raises(ReceiptError, match=why):
            parse_receipt(data)
        with pytest.raises(ValueError):
            verifier.read_receipt(data)


@pytest.mark.parametrize("field", [*SAID, "seq", "prev", "ledger", "at"])
def test_a_missing_field_is_named(field):
    good = json.loads(sealed(Draft.model_validate(SAID)))
    del good[field]
    with pytest.raises(ReceiptError, match=field):
        parse_receipt(rfc8785.dumps(good))
    with pytest.raises(ValueError):
        verifier.read_receipt(rfc8785.dumps(good))
