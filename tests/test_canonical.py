"""Canonical JSON: one spelling of a value, and nothing accepted that has another."""

import json
import math
import struct

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from models import verifier
from models.canonical import CanonicalError, canonical, parse, parse_canonical

INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda x: not 2**53 - 1 < abs(x) < 1e21
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_reads_back_and_has_one_form(value):
    data = canonical(value)
    assert parse(data) == value
    assert parse_canonical(data) == value


@given(VALUES)
def test_the_stand_alone_verifier_writes_the_same_form(value):
    assert verifier.canonical(value).encode() == canonical(value)


@given(st.binary(min_size=8, max_size=8))
def test_any_double_is_written_alike_by_library_and_verifier(bits):
    number = struct.unpack(">d", bits)[0]
    if math.isfinite(number):
        assert verifier.canonical(number).encode() == rfc8785.dumps(number)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (1e21, "1e+21"),
        (0.000001, "0.000001"),
        (1e-7, "1e-7"),
        (333333333.33333329, "333333333.3333333"),
        (9007199254740991.0, "9007199254740991"),
        (-1.5, "-1.5"),
    ],
)
def test_numbers_as_rfc_8785_appendix_b_has_them(number, text):
    assert canonical(number) == text.encode()
    assert verifier.canonical(number) == text


def test_keys_are_sorted_by_utf_16_units():
    value = {"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3, "1": 4, "\r": 5}
    keys = list(json.loads(canonical(value)))
    assert keys == ["\r", "1", "\u20ac", "\U0001f600", "\ufb33"]
    assert verifier.canonical(value).encode() == canonical(value)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        {"deep": [-math.inf]},
        2**53,
        -(2**53),
        1e16,
        {"x": [9007199254740993.0]},
        {1: "a"},
        {None: "a"},
        "\ud800",
        {"\udfff": 1},
        {"set": {1}},
    ],
)
def test_what_has_no_form_is_refused(value):
    with pytest.raises(CanonicalError):
        canonical(value)


def test_nesting_without_end_is_refused():
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(CanonicalError, match="deep"):
        canonical(value)
    with pytest.raises(CanonicalError, match="deep"):
        parse(b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a":1,"a":2}', "'a' occurs twice"),
        (b'{"x":{"b":1,"b":1}}', "'b' occurs twice"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"-Infinity", "Infinity"),
        (b"9007199254740992", "beyond"),
        (b"1" * 5000, "beyond"),
        (b"1e999", "out of range"),
        (b"\xff", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_what_is_not_strict_json_is_refused(data, why):
    with pytest.raises(CanonicalError, match=why):
        parse(data)


@pytest.mark.parametrize(
    "data", [b'{"b":1,"a":2}', b'{"a": 1}', b"1.0", b"1e16", b'"\\u0041"', b'{"a":1}\n', b"-0"]
)
def test_another_spelling_is_not_canonical(data):
    with pytest.raises(CanonicalError):
        parse_canonical(data)
