"""Tera's filters, tests and functions, under Tera's names and with its keyword arguments.

They follow the manual of Tera 1, with one addition: ``join`` also takes its separator by position,
as the source document writes it. A filter that is not here is an error when the template is
compiled, so that no template comes to rely on something only Jinja has.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from jinja2 import Undefined

MAX_RANGE = 100_000
"""Longest range of a loop: a template that asks for more is a mistake, not a configuration."""


def show(value: Any) -> Any:
    """Write a value as Tera prints it: ``true``, whole numbers without a point, lists by element.

    What is text already, and what is undefined, passes through: the engine reports the latter.
    """
    if isinstance(value, Undefined | str):
        return value
    for kind, written in _SHOWN:
        if isinstance(value, kind):
            return written(value)
    return value


def _show_float(number: float) -> str:
    if number.is_integer():
        return str(int(number))
    return format(Decimal(repr(number)), "f")


_SHOWN: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (type(None), lambda _: ""),
    (bool, lambda value: "true" if value else "false"),
    (float, _show_float),
    (Mapping, lambda _: "[object]"),
    (Sequence, lambda items: "[" + ", ".join(str(show(item)) for item in items) + "]"),
)


def number(value: Any) -> int | float:
    """The value itself, when it is a number that arithmetic may use.

    Raises:
        TypeError: it is not; Tera, unlike Python, neither adds strings nor counts booleans.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"arithmetic needs numbers, got {json.dumps(value, default=str)}")
    return value


def _text(value: Any, filter_name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"filter `{filter_name}` needs a string, got {type(value).__name__}")
    return value


def _array(value: Any, filter_name: str) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"filter `{filter_name}` needs an array, got {type(value).__name__}")
    return value


def _default(given: Any, /, value: Any) -> Any:
    return value if isinstance(given, Undefined) else given


def _join(items: Any, sep: str = "") -> str:
    return sep.join(str(show(item)) for item in _array(items, "join"))


def _length(value: Any) -> int:
    if isinstance(value, str | Sequence | Mapping):
        return len(value)
    raise TypeError(f"filter `length` needs a string, an array or an object, got {value!r}")


def _replace(value: Any, **words: str) -> str:
    # `from` is a keyword of Python, so it cannot be a parameter's name.
    if set(words) != {"from", "to"}:
        raise TypeError("filter `replace` takes from= and to=")
    return _text(value, "replace").replace(words["from"], words["to"])


def _round(value: Any, method: str = "common", precision: int = 0) -> float:
    scale = float(10**precision)
    ways: dict[str, Callable[[float], float]] = {
        "common": lambda scaled: math.copysign(math.floor(abs(scaled) + 0.5), scaled),
        "ceil": math.ceil,
        "floor": math.floor,
    }
    if method not in ways:
        raise ValueError(f"filter `round` has no method {method!r}; use {', '.join(ways)}")
    rounded: float = ways[method](number(value) * scale)
    return rounded / scale


def _json_encode(value: Any, pretty: bool = False) -> str:
    indent, separators = (2, (",", ": ")) if pretty else (None, (",", ":"))
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators
    )


def _first(items: Any) -> Any:
    return next(iter(_array(items, "first")), "")


def _last(items: Any) -> Any:
    return next(reversed(_array(items, "last")), "")


def _nth(items: Any, n: int) -> Any:
    items = _array(items, "nth")
    return items[n] if 0 <= n < len(items) else ""


def _unique(items: Any) -> list[Any]:
    kept: list[Any] = []
    for item in _array(items, "unique"):
        if item not in kept:
            kept.append(item)
    return kept


def _map(items: Any, attribute: str) -> list[Any]:
    return [_get(item, attribute) for item in _array(items, "map")]


def _filter(items: Any, attribute: str, value: Any) -> list[Any]:
    return [item for item in _array(items, "filter") if item.get(attribute) == value]


def _get(item: Any, key: str, default: Any = None) -> Any:
    if isinstance(item, Mapping) and key in item:
        return item[key]
    if default is None:
        raise LookupError(f"there is no key {key!r}")
    return default


def _concat(items: Any, **arguments: Any) -> list[Any]:
    # `with` is a keyword of Python too.
    extra = arguments["with"]
    return [*_array(items, "concat"), *(extra if isinstance(extra, list) else [extra])]


def _range(*, end: int, start: int = 0, step_by: int = 1) -> list[int]:
    numbers = range(int(start), int(end), int(step_by))
    if len(numbers) > MAX_RANGE:
        raise ValueError(f"range of {len(numbers)} numbers is longer than {MAX_RANGE}")
    return list(numbers)


def _throw(*, message: str) -> str:
    raise ValueError(message)


def _with_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let an unset variable be reported by its name before a filter or test trips over it."""

    def checked(given: Any, /, *arguments: Any, **named: Any) -> Any:
        if isinstance(given, Undefined):
            str(given)  # raises, naming the variable
        return function(given, *arguments, **named)

    return checked


_FILTERS: dict[str, Callable[..., Any]] = {
    "abs": lambda value: abs(number(value)),
    "capitalize": lambda value: _text(value, "capitalize").capitalize(),
    "concat": _concat,
    "filter": _filter,
    "first": _first,
    "float": float,
    "get": _get,
    "int": int,
    "join": _join,
    "json_encode": _json_encode,
    "last": _last,
    "length": _length,
    "lower": lambda value: _text(value, "lower").lower(),
    "map": _map,
    "nth": _nth,
    "replace": _replace,
    "reverse": lambda items: items[::-1],
    "round": _round,
    "sort": lambda items: sorted(_array(items, "sort")),
    "split": lambda value, pat: _text(value, "split").split(pat),
    "trim": lambda value: _text(value, "trim").strip(),
    "unique": _unique,
    "upper": lambda value: _text(value, "upper").upper(),
}

_TESTS: dict[str, Callable[..., bool]] = {
    "containing": lambda value, part: part in value,
    "divisibleby": lambda value, divisor: number(value) % divisor == 0,
    "ending_with": lambda value, end: _text(value, "ending_with").endswith(end),
    "even": lambda value: number(value) % 2 == 0,
    "iterable": lambda value: isinstance(value, Sequence) and not isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, Mapping),
    "odd": lambda value: number(value) % 2 == 1,
    "starting_with": lambda value, start: _text(value, "starting_with").startswith(start),
    "string": lambda value: isinstance(value, str),
}

FILTERS = {name: _with_value(function) for name, function in _FILTERS.items()}
FILTERS["default"] = _default

TESTS = {name: _with_value(function) for name, function in _TESTS.items()}
TESTS["defined"] = lambda value: not isinstance(value, Undefined)
TESTS["undefined"] = lambda value: isinstance(value, Undefined)

FUNCTIONS: dict[str, Callable[..., Any]] = {"range": _range, "throw": _throw}
