"""The house keeps its order: imports point one way, models stay pure, modules stay readable."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What each package may import of the project; itself always.
MAY_IMPORT = {
    "models": set(),
    "stores": {"models"},
    "activities": {"models", "stores"},
    "gateway": {"models", "stores"},
    "workflows": {"models", "activities"},
    "workers": {"models", "stores", "activities", "gateway", "workflows"},
}
# Nobody but the workers knows Temporal, or a store could not be used without a server.
WITHOUT_TEMPORAL = ("models", "stores", "gateway")
MAX_LINES = 500
# One file by design: an outsider gets it alone and reads it through before trusting it.
MAY_BE_LONGER = ("models/verifier.py",)

IMPURE_MODULES = (
    *("os", "shutil", "tempfile", "glob", "fileinput", "io"),
    *("socket", "ssl", "http", "urllib.request", "selectors", "asyncio"),
    *("subprocess", "multiprocessing", "threading", "signal", "psutil"),
    *("random", "secrets", "time", "uuid"),
    *("requests", "httpx", "aiohttp", "google", "psycopg", "sqlite3", "jinja2"),
)
IMPURE_CALLS = (
    *("open", "input", "print", "eval", "exec"),
    *("datetime.now", "datetime.utcnow", "date.today", "datetime.today"),
    *("create_engine", "sqlalchemy.create_engine", "sqlmodel.create_engine"),
    *("numpy.random", "np.random"),
)
IMPURE_METHODS = (
    *("open", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "unlink", "touch"),
    *("rename", "rmdir", "iterdir", "rglob", "exists", "is_file", "is_dir", "stat"),
)
# What the verifier may use: whoever checks our receipts needs nothing of ours.
VERIFIER_MAY_IMPORT = {"cryptography"}


def modules(*packages):
    """Paths of all modules of packages, as pytest parameters with readable names."""
    found = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in found]


@cache
def tree_of(path):
    return ast.parse(path.read_text(), str(path))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree, here=""):
    """Names of all modules that a tree imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here.split(".")[: -node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def within(name, modules):
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def import_faults(path_name, tree):
    """Imports of a module that point the wrong way."""
    package = path_name.split(".")[0]
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[package] - {package}
    if package in WITHOUT_TEMPORAL:
        forbidden.add("temporalio")
    if package == "workflows":
        forbidden |= {"stores", "sqlmodel", "sqlalchemy"}
    for name in imports(tree, path_name):
        if within(name, forbidden):
            yield name
        if package == "workflows" and name.startswith("models.tables_"):
            yield name


def purity_faults(tree):
    """What a module does that a pure one may not."""
    yield from (name for name in imports(tree) if within(name, IMPURE_MODULES))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if within(name, IMPURE_CALLS) or (
                isinstance(node.func, ast.Attribute)
                and node.func.attr in IMPURE_METHODS
                and not name.startswith("self.")
            ):
                yield f"line {node.lineno}: {name}()"


def undocumented(tree):
    """The module and its public functions and classes that have no docstring."""
    if not ast.get_docstring(tree):
        yield "the module"
    for node in tree.body:
        named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if named and not node.name.startswith("_") and not ast.get_docstring(node):
            yield f"line {node.lineno}: {node.name}"


@pytest.mark.parametrize("path", modules(*MAY_IMPORT))
def test_imports_point_one_way(path):
    assert sorted(set(import_faults(module_name(path), tree_of(path)))) == []


@pytest.mark.parametrize("path", modules("models"))
def test_models_are_pure(path):
    if path.name == "verifier.py":
        pytest.skip("a program of its own: it stands alone and reads the files it is given")
    faults = list(purity_faults(tree_of(path)))
    if not path.name.startswith("tables_"):
        faults += [
            name for name in imports(tree_of(path)) if within(name, ("sqlmodel", "sqlalchemy"))
        ]
    assert sorted(set(faults)) == []


def test_the_verifier_stands_alone():
    names = imports(tree_of(ROOT / "models" / "verifier.py"), "models.verifier")
    roots = {name.split(".")[0] for name in names}
    assert roots <= set(sys.stdlib_module_names) | VERIFIER_MAY_IMPORT


def reachable(start):
    """Every module of the project that importing ``start`` imports, at its top level or later."""
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        waiting += imports(tree_of(path), name)
    return seen


@pytest.mark.parametrize("path", modules("workflows"))
def test_no_workflow_reaches_a_table_on_any_path(path):
    reached = reachable(module_name(path))
    assert not [name for name in sorted(reached) if name.startswith("models.tables_")]


@pytest.mark.parametrize("path", modules(*MAY_IMPORT, "scripts", "deploy", "tests"))
def test_modules_stay_readable(path):
    lines = path.read_text().count("\n")
    if str(path.relative_to(ROOT)) in MAY_BE_LONGER:
        pytest.skip("it must stay one module")
    assert lines <= MAX_LINES, f"{lines} lines: split it"


@pytest.mark.parametrize("path", modules(*MAY_IMPORT))
def test_what_is_public_has_a_docstring(path):
    assert list(undocumented(tree_of(path))) == []


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("models.x", "import stores.sql", "stores.sql"),
        ("models.x", "def f():\n    from workers import settings", "workers"),
        ("stores.x", "from temporalio import activity", "temporalio"),
        ("gateway.x", "from activities.region import x", "activities.region"),
        ("activities.x", "from gateway.publisher import x", "gateway.publisher"),
        ("workflows.x", "from models import tables_fleet", "models.tables_fleet"),
        ("workflows.x", "from models.tables_fleet import T", "models.tables_fleet"),
        ("workflows.x", "import sqlmodel", "sqlmodel"),
        ("workflows.x", "from stores.ledger import Ledger", "stores.ledger"),
        ("stores.x", "from ..workers import settings", "workers"),
    ],
)
def test_a_wrong_import_is_found(name, source, fault):
    assert fault in list(import_faults(name, ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "from os import path",
        "import time\ntime.sleep(1)",
        "from urllib.request import urlopen",
        "open('x')",
        "path.read_text()",
        "datetime.now(UTC)",
        "np.random.default_rng()",
        "create_engine(url)",
    ],
)
def test_impurity_is_found(source):
    assert list(purity_faults(ast.parse(source)))


def test_a_missing_docstring_is_found():
    source = '"""M."""\nclass A: pass\ndef _b(): pass\ndef c(): pass\n'
    assert list(undocumented(ast.parse(source))) == ["line 2: A", "line 4: c"]
