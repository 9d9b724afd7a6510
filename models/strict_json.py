"""Reading JSON that a stranger wrote: one meaning or none, and bounded in size and depth.

Readers differ on repeated keys, NaN and numbers that no double holds, so evidence that has any of
them is refused instead of being read one way here and another way elsewhere.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from models.canonical import CanonicalError, parse

MAX_BYTES = 16 * 1024**2
MAX_DEPTH = 64

_Model = TypeVar("_Model", bound=BaseModel)


class EvidenceError(ValueError):
    """Evidence that cannot be read; the message names what and where."""


def read_json(
    data: bytes, *, what: str, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH
) -> JsonValue:
    """Parse strict JSON.

    Args:
        what: what is being read, for the message: ``provenance``.
        max_bytes, max_depth: bounds; depth counts objects and arrays.

    Raises:
        EvidenceError: too large, nested too deeply, or not strict JSON (`models.canonical`).
    """
    if len(data) > max_bytes:
        raise EvidenceError(f"{what}: {len(data)} bytes, the limit is {max_bytes}")
    try:
        value = parse(data)
    except CanonicalError as error:
        raise EvidenceError(f"{what}: {error}") from None
    if _is_deeper(value, max_depth):
        raise EvidenceError(f"{what}: nested deeper than {max_depth}")
    return value


def read_object(data: bytes, *, what: str, **bounds: int) -> dict[str, JsonValue]:
    """Parse a strict JSON object; raises `EvidenceError`."""
    value = read_json(data, what=what, **bounds)
    if not isinstance(value, dict):
        raise EvidenceError(f"{what}: not a JSON object")
    return value


def read_as(model: type[_Model], value: Any, *, what: str) -> _Model:
    """Read parsed JSON as a model; raises `EvidenceError` that names the first wrong field."""
    try:
        # JSON's own names alone: a field that could be given in two spellings has two meanings.
        return model.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise EvidenceError(f"{what}: {field}: {first['msg']}") from None


def _is_deeper(value: JsonValue, limit: int) -> bool:
    level = _containers([value])
    for _ in range(limit):
        level = [inner for one in level for inner in _containers(_items(one))]
        if not level:
            return False
    return bool(level)


def _containers(values: Iterable[JsonValue]) -> list[JsonValue]:
    return [value for value in values if isinstance(value, dict | list)]


def _items(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
