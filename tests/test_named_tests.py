"""A test that a document names is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
REFUSALS = TESTS.parent / "docs" / "refusals.md"
NAMED = sorted(set(re.findall(r"`(test_\w+)::(test_\w+)`", REFUSALS.read_text())))


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((TESTS / f"{file}.py").read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {each.name for each in tree.body if isinstance(each, kinds)}


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_what_is_refused_is_shown_by_tests_that_are_there(file: str) -> None:
    named = {name for each, name in NAMED if each == file}
    assert named - functions(file) == set()


def test_every_line_of_the_tables_names_a_test() -> None:
    lines = [line for line in REFUSALS.read_text().splitlines() if line.startswith("| ")]
    rows = [line for line in lines if not line.endswith("| shown by |")]
    assert len(rows) > 50
    assert [row for row in rows if not re.search(r"`test_\w+::test_\w+`", row)] == []
