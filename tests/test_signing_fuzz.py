"""No file of a stranger crashes a reader or makes it slow: refusals come out, nothing else."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signing_harness import DIGEST, NOW, STATEMENT, World

from models.bundle import read_bundle, write_bundle
from models.dsse import Envelope, Signature, decode_base64, encode_base64, pae
from models.signed_statement import SignatureRefused
from models.statement import read_statement, write_statement
from models.strict_json import EvidenceError, read_json
from models.timestamps import trusted_time
from models.trust import read_trust_root
from stores.bundle_verifier import verify_bundle

MANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WORLD = World()
GOOD = WORLD.bundle()
TRUST = WORLD.trust()
STAMP = WORLD.clock.timestamp(b"m")
MADE_AT = WORLD.clock.now

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def edited_bytes(draw, good):
    """Bytes with a few of them changed, cut out or put in."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 6))
        data[at : at + length] = draw(st.binary(max_size=6))
    return bytes(data)


def places(value, path=()):
    """The paths of all values inside a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


@st.composite
def edited_json(draw, good):
    """A JSON document with one of its values replaced, removed, or given under another name."""
    value = json.loads(good)
    path = draw(st.sampled_from([path for path in places(value) if path]))
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    what = draw(st.sampled_from(["replace", "remove", "add"]))
    if what == "remove":
        del parent[path[-1]]
    elif what == "add" and isinstance(parent, dict):
        parent[draw(st.text(max_size=12))] = draw(values)
    else:
        parent[path[-1]] = draw(values)
    return json.dumps(value).encode()


def quiet(read, data):
    """Read; a refusal is an answer, and anything else fails the test."""
    try:
        return read(data)
    except (EvidenceError, SignatureRefused):
        return None


def verify(data):
    return verify_bundle(data, TRUST, now=NOW)


READERS = [
    pytest.param(lambda data: read_json(data, what="x"), STATEMENT, id="json"),
    pytest.param(read_statement, STATEMENT, id="statement"),
    pytest.param(read_bundle, GOOD, id="bundle"),
    pytest.param(read_trust_root, TRUST.to_bytes(), id="trust"),
    pytest.param(verify, GOOD, id="verify"),
]


@pytest.mark.parametrize(("read", "good"), READERS)
@MANY
@given(data=st.data())
def test_readers_take_any_bytes(read, good, data):
    quiet(read, data.draw(st.binary(max_size=200) | edited_bytes(good)))


@pytest.mark.parametrize(("read", "good"), READERS)
@MANY
@given(data=st.data())
def test_readers_take_any_json(read, good, data):
    quiet(read, data.draw(edited_json(good) | values.map(lambda value: json.dumps(value).encode())))


@MANY
@given(data=edited_json(GOOD) | edited_bytes(GOOD))
def test_a_changed_bundle_says_what_was_signed_or_nothing(data):
    """What may change without harm is what no signature covers, as the order of keys."""
    signed = quiet(verify, data)
    if signed is not None:
        assert signed.statement == read_statement(STATEMENT)
        assert signed.signed_at == verify(GOOD).signed_at


@MANY
@given(data=edited_bytes(STAMP) | st.binary(max_size=100))
def test_a_changed_timestamp_says_its_time_or_nothing(data):
    at = quiet(lambda data: trusted_time([data], b"m", TRUST.timestamp_authorities), data)
    assert at is None or at == MADE_AT


def nested(depth):
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    "data",
    [
        nested(65),
        nested(1_000_000),
        b"[" * 10_000_000,
        b'{"a":' * 1_000_000,
        b"{" + b",".join(b'"%d":1' % n for n in range(300_000)) + b',"299999":1}',
        b"9" * 5_000_000,
        b"0." + b"1" * 5_000_000 + b"e999",
        b'"' + b"\\u0000" * 500_000,
        b'"\\ud800"',
        b'["\\uDC00\\uD800"]',
        b'{"\\uD800":1}',
        b"\xef\xbb\xbf{}",
        b"[NaN]",
        b"",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_hostile_json_is_refused_at_once(data):
    with pytest.raises(EvidenceError):
        read_json(data, what="x")


@pytest.mark.parametrize(("depth", "reads"), [(64, True), (65, False)])
def test_depth_is_counted_exactly(depth, reads):
    data = b"[" * depth + b"1" + b"]" * depth
    assert (quiet(lambda data: read_json(data, what="x"), data) is not None) == reads


@pytest.mark.parametrize(("size", "reads"), [(100, True), (101, False)])
def test_size_is_counted_exactly(size, reads):
    data = b'"' + b"x" * (size - 2) + b'"'
    found = quiet(lambda data: read_json(data, what="x", max_bytes=100), data)
    assert (found is not None) == reads


@given(st.binary(max_size=64))
def test_base64_round_trips(data):
    assert decode_base64(encode_base64(data)) == data


@given(st.text(max_size=12))
def test_base64_has_one_spelling(text):
    try:
        data = decode_base64(text)
    except ValueError:
        return
    assert encode_base64(data) == text


@given(*[st.tuples(st.text(max_size=12), st.binary(max_size=12))] * 2)
def test_the_signed_bytes_tell_type_and_payload_apart(one, other):
    assert (pae(*one) == pae(*other)) == (one == other)


@given(
    st.binary(max_size=50),
    st.binary(min_size=1, max_size=80),
    st.lists(st.binary(min_size=1, max_size=40), max_size=3),
)
def test_a_bundle_reads_as_it_was_written(payload, signature, stamps):
    envelope = Envelope(payload=payload, payload_type="t", signatures=[Signature(sig=signature)])
    bundle = read_bundle(write_bundle(envelope, hint="h", timestamps=stamps))
    assert bundle.envelope == envelope
    assert bundle.timestamps() == stamps


@given(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), values, max_size=3),
)
def test_a_statement_reads_as_it_was_written(name, predicate):
    try:
        data = write_statement([(name, DIGEST)], "urn:example:type", predicate)
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8
        return
    statement = read_statement(data)
    assert statement.subject[0].name == name
    assert statement.predicate == predicate
    assert statement.is_about(DIGEST)


def test_a_refusal_survives_a_trip_between_processes():
    import pickle

    refusal = pickle.loads(pickle.dumps(SignatureRefused("future", "to come")))
    assert (refusal.code, refusal.detail) == ("future", "to come")
