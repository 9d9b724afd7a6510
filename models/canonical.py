"""Canonical JSON (RFC 8785, JCS): one value, one sequence of bytes.

What is hashed must have exactly one spelling, so both directions are strict. Refused are: NaN and
infinities, keys that are not strings, integers that a double cannot hold exactly (beyond 2^53 - 1),
lone surrogates, and, when reading, duplicate keys. `parse` takes everything that `canonical` gives.
"""

import json
import math
from collections import Counter
from typing import NoReturn

import rfc8785
from pydantic import JsonValue

MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 7493, section 2.2)."""

_FIRST_EXPONENT = 1e21  # from here on ECMAScript writes a number with an exponent


class CanonicalError(ValueError):
    """The value has no canonical form, or the bytes are not strict JSON; the message says why."""


def canonical(value: JsonValue) -> bytes:
    """The RFC 8785 form of a JSON value, as UTF-8.

    Raises:
        CanonicalError: see the module.
    """
    try:
        data = rfc8785.dumps(value)
        _refuse_large(value)
    except rfc8785.CanonicalizationError as error:
        raise CanonicalError(str(error)) from None
    except UnicodeEncodeError as error:  # of a key; of a value the library says so itself
        raise CanonicalError(f"a key is not Unicode text: {error.reason}") from None
    except RecursionError:
        raise CanonicalError("nested too deeply") from None
    return data


def parse(data: bytes) -> JsonValue:
    """Read strict JSON; it need not be in canonical form.

    Raises:
        CanonicalError: see the module.
    """
    try:
        value: JsonValue = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
        if b"\\ud" in data or b"\\uD" in data:  # an escape is the only way to write a surrogate
            json.dumps(value, ensure_ascii=False).encode()
    except CanonicalError:
        raise
    except UnicodeEncodeError:
        raise CanonicalError("text with half of a surrogate pair") from None
    except RecursionError:
        raise CanonicalError("nested too deeply") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise CanonicalError(f"not JSON: {error}") from None
    return value


def parse_canonical(data: bytes) -> JsonValue:
    """Read bytes that must be exactly the canonical form of what they say.

    Raises:
        CanonicalError: not strict JSON, or another spelling of it.
    """
    value = parse(data)
    if canonical(value) != data:
        raise CanonicalError("not in canonical form")
    return value


def _refuse_large(value: JsonValue) -> None:
    """Refuse floats that would be written as an integer beyond `MAX_INTEGER`."""
    if isinstance(value, float) and MAX_INTEGER < abs(value) < _FIRST_EXPONENT:
        raise CanonicalError(f"{value!r} would be written as an integer beyond 2^53 - 1")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_large(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_large(item)


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    value = dict(pairs)
    if len(value) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise CanonicalError(f"key {counts.most_common(1)[0][0]!r:.100} occurs twice")
    return value


def _integer(digits: str) -> int:
    if len(digits) > len(f"-{MAX_INTEGER}") or abs(int(digits)) > MAX_INTEGER:
        raise CanonicalError(f"integer {digits[:20]} is beyond 2^53 - 1")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise CanonicalError(f"number {digits[:20]} is out of range")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise CanonicalError(f"{name} is not JSON")
