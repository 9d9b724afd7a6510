"""Rendering of Tera templates: the dialect of the configuration's templates.

There is no Tera for Python, so Jinja, its model, does the work and is held to Tera's rules where
the two differ (`docs/adr/0001-tera-templates-by-jinja2.md`): filters and their keyword arguments,
arithmetic on numbers alone, how values are printed, loops over the entries of an object. What only
Jinja knows is refused, so that a template keeps to what every Tera engine renders alike.
"""

import math
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

from models.config_sections import default_regions
from stores.tera_filters import FILTERS, FUNCTIONS, TESTS, number, show

TEMPLATES = Path(__file__).resolve().parent.parent / "deploy" / "config"
"""The templates that come with Chainring."""

POLICY_TEMPLATE = TEMPLATES.parent / "verification" / "policy.toml.tera"
"""The template of the verification policy."""

_ENTRIES = "entries of an object"  # no name that a template could use
_SHOWN = "as printed"
_ARITHMETIC = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.Mod, nodes.Concat)

_ONLY_IN_JINJA: dict[type[nodes.Node], str] = {
    nodes.CondExpr: "a conditional expression; use {% if %}",
    nodes.Slice: "a slice",
    nodes.Pow: "the operator **",
    nodes.FloorDiv: "the operator //",
    nodes.Dict: "an object literal",
    nodes.Macro: "a macro",
    nodes.CallBlock: "a call block",
    nodes.Include: "an include; a template stands alone",
    nodes.Import: "an import; a template stands alone",
    nodes.FromImport: "an import; a template stands alone",
    nodes.Extends: "an extends; a template stands alone",
    nodes.AssignBlock: "a {% set %} block",
    nodes.With: "a {% with %} block",
}


class TemplateError(Exception):
    """A template cannot be rendered.

    Attributes:
        name: the template; line: where, from 1 on; reason: why, with the variable if it is one.
    """

    def __init__(self, name: str, line: int, reason: str) -> None:
        self.name, self.line, self.reason = name, line, reason
        super().__init__(f"{name}, line {line}: {reason}")


class _Unset(jinja2.StrictUndefined):
    """A variable without a value: only ``default`` and ``is defined`` may meet it.

    Unlike Jinja's, it remembers the whole path, so that `region.zone.name` is reported in full and
    may have a default even where ``region`` itself is unset.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unset(name=f"{self._undefined_name}.{name}")

    def __getitem__(self, key: object) -> Any:
        return _Unset(name=f"{self._undefined_name}.{key}")

    @property
    def _undefined_message(self) -> str:
        message = f"variable `{self._undefined_name}` is not set"
        if isinstance(self._undefined_obj, Mapping):
            message += f"; its object has {', '.join(map(str, self._undefined_obj)) or 'nothing'}"
        return message


class _TeraEnvironment(SandboxedEnvironment):
    """Jinja's sandbox with Tera's vocabulary and arithmetic."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=_Unset, keep_trailing_newline=True, finalize=show)
        self.filters = {**FILTERS, _ENTRIES: _entries, _SHOWN: show}
        self.tests = dict(TESTS)
        self.globals = dict(FUNCTIONS)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        for operand in (left, right):
            if isinstance(operand, jinja2.Undefined):
                str(operand)  # raises, naming the variable
        a, b = number(left), number(right)
        if operator in "/%" and b == 0:
            raise ZeroDivisionError(f"{show(a)} {operator} 0: division by zero")
        if operator == "%":
            # The remainder takes the sign of the dividend in Rust, of the divisor in Python.
            return math.fmod(a, b)
        return super().call_binop(context, operator, a, b)


def render(source: str, values: Mapping[str, Any], *, name: str = "template") -> str:
    """Render a Tera template.

    Args:
        source: the template's text.
        values: its variables: strings, numbers, booleans, lists and mappings, as from JSON.
        name: what messages call the template.

    Raises:
        TemplateError: a syntax error, a variable without a value, an unknown filter, arithmetic on
            something other than numbers, or a construct that Tera does not have.
    """
    environment = _TeraEnvironment()
    try:
        tree = environment.parse(source, name=name)
        _refuse_jinja(tree, name)
        _adapt(tree, environment)
        code = environment.compile(tree, name=name, filename=name)
        template = jinja2.Template.from_code(environment, code, environment.make_globals(None))
        return template.render(values)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(name, error.lineno, error.message or "syntax error") from None
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise TemplateError(name, _line_of(error, name), str(error)) from None


def render_policy(**values: Any) -> str:
    """The verification policy of a new home: the template with these values.

    Raises:
        TemplateError: the template is missing or does not render.
    """
    return render(_template(POLICY_TEMPLATE), values, name=POLICY_TEMPLATE.name)


def render_default_config() -> str:
    """The configuration of a new home: the templates of `TEMPLATES` with their own defaults.

    Raises:
        TemplateError: a template is missing or does not render.
    """
    regions = [
        {
            "code": code,
            "name": region.name,
            "compliance": region.compliance,
            "shard_id": region.catalog_shard,
            "partition_id": region.receipt_partition,
        }
        for code, region in default_regions().items()
    ]
    texts = [
        render(_template(path), {"regions": regions}, name=path.name)
        for path in (
            TEMPLATES / name
            for name in ("fleet.toml.tera", "regions.toml.tera", "recovery.toml.tera")
        )
    ]
    return "".join(texts)


def _template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TemplateError(str(path), 1, error.strerror or str(error)) from None


def _refuse_jinja(tree: nodes.Template, name: str) -> None:
    for node in tree.find_all(nodes.Node):
        what = _ONLY_IN_JINJA.get(type(node)) or _foreign(node)
        if what:
            raise TemplateError(name, node.lineno, f"Tera does not have {what}")


def _foreign(node: nodes.Node) -> str | None:
    """What a node of a kind that both languages have does that only Jinja can."""
    if isinstance(node, nodes.Call):
        known = isinstance(node.node, nodes.Name) and node.node.name in FUNCTIONS
        return None if known else f"this call; its functions are {', '.join(FUNCTIONS)}"
    if isinstance(node, _ARITHMETIC) and any(
        isinstance(operand, nodes.Filter) for operand in node.iter_child_nodes()
    ):
        # In Tera `a / b | round` rounds the quotient, in Jinja it rounds b.
        return "a filter inside arithmetic; name the value first, with {% set %}"
    if isinstance(node, nodes.Filter) and node.args and node.name != "join":
        return f"positional arguments; name those of `{node.name}`"
    return None


def _adapt(tree: nodes.Template, environment: jinja2.Environment) -> None:
    """Give a tree Tera's meaning where Jinja reads the same text otherwise."""
    # `{% for key, value in object %}` runs over entries in Tera, over keys in Jinja.
    for loop in tree.find_all(nodes.For):
        if isinstance(loop.target, nodes.Tuple):
            loop.iter = _filtered(loop.iter, _ENTRIES, environment)
    # What `~` joins is printed as everything else is.
    for joined in list(tree.find_all(nodes.Concat)):
        joined.nodes = [_filtered(part, _SHOWN, environment) for part in joined.nodes]


def _filtered(node: Any, name: str, environment: jinja2.Environment) -> nodes.Filter:
    wrapped = nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
    wrapped.set_environment(environment)
    return wrapped


def _entries(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, jinja2.Undefined):
        str(value)
    if not isinstance(value, Mapping):
        raise TypeError("a loop over key and value needs an object")
    return list(value.items())


def _line_of(error: Exception, name: str) -> int:
    """The template's line: Jinja writes it into the traceback, under the template's name."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno or 1 for frame in reversed(frames) if frame.filename == name), 1)
