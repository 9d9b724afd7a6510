"""Test results: from the forms that test runners print, to an in-toto test-result predicate.

What cannot be read is an error and never "no failures"; no results at all are a failure too.
Source: in-toto attestation, predicate ``test-result`` v0.1; JUnit XML as its runners write it;
the Test Anything Protocol, version 13; Rust's libtest.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from models.build_file import TestFormat
from models.provenance import Material
from models.strict_json import EvidenceError, read_as

MAX_REPORT = 16 * 1024**2
MAX_TESTS = 50_000
MAX_NAME = 1000

Outcome = Literal["passed", "failed", "skipped"]
Summary = Literal["PASSED", "WARNED", "FAILED"]

_WORST: Sequence[Outcome] = ("failed", "skipped", "passed")
_TAP = re.compile(r"^(not )?ok\b[ \t]*(\d+)?[ \t]*(?:-[ \t]*)?(.*)$")
_TAP_PLAN = re.compile(r"^1\.\.(\d+)\b")
_TAP_DIRECTIVE = re.compile(r"(?:^|[ \t])#[ \t]*(skip|todo)\b", re.IGNORECASE)
_CARGO = re.compile(r"^test (\S.*?) \.\.\. (ok|FAILED|ignored)\b")
_CARGO_SUM = re.compile(r"^test result: \S+\. (\d+) passed; (\d+) failed; (\d+) ignored;")
_CARGO_OUTCOMES: Mapping[str, Outcome] = {"ok": "passed", "FAILED": "failed", "ignored": "skipped"}


class TestResults(BaseModel):
    """The names of tests by how they ended, each list sorted."""

    __test__ = False  # no test case, whatever its name says

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: list[str] = Field(default=[], max_length=MAX_TESTS)
    failed: list[str] = Field(default=[], max_length=MAX_TESTS)
    skipped: list[str] = Field(default=[], max_length=MAX_TESTS)

    @property
    def result(self) -> Summary:
        """Failed unless something passed and nothing failed; what was skipped is a warning."""
        if self.failed or not self.passed:
            return "FAILED"
        return "WARNED" if self.skipped else "PASSED"

    def words(self) -> str:
        """One line for a person."""
        counts = f"{len(self.passed)} passed, {len(self.failed)} failed"
        return f"{counts}, {len(self.skipped)} skipped" if self.skipped else counts


class _Configuration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = ""
    digest: dict[str, str] = {}


class _Predicate(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    result: Summary
    configuration: list[_Configuration]
    passed: list[str] = Field(default=[], alias="passedTests", max_length=MAX_TESTS)
    warned: list[str] = Field(default=[], alias="warnedTests", max_length=MAX_TESTS)
    failed: list[str] = Field(default=[], alias="failedTests", max_length=MAX_TESTS)
    skipped: list[str] = Field(default=[], alias="skippedTests", max_length=MAX_TESTS)


def write_test_result(
    results: TestResults, configuration: Iterable[Material]
) -> dict[str, JsonValue]:
    """The predicate; ``skippedTests`` is an addition of ours that other readers pass over.

    Args:
        configuration: what decides which tests run: the commit, the build file.
    """
    return {
        "result": results.result,
        "configuration": [
            each.model_dump(mode="json", exclude_defaults=True) for each in configuration
        ],
        "passedTests": list(results.passed),
        "failedTests": list(results.failed),
        "skippedTests": list(results.skipped),
    }


def read_test_result(predicate: Mapping[str, JsonValue]) -> tuple[Summary, TestResults]:
    """What a test-result predicate says; tests that passed with a warning count as passed.

    Raises:
        EvidenceError: a field is missing or wrong, or the result does not fit its own lists.
    """
    read = read_as(_Predicate, dict(predicate), what="test result")
    results = _named(
        [
            *((name, "passed") for name in [*read.passed, *read.warned]),
            *((name, "failed") for name in read.failed),
            *((name, "skipped") for name in read.skipped),
        ],
        what="test result",
    )
    if (read.result == "FAILED") != (results.result == "FAILED"):
        raise EvidenceError(f"test result: says {read.result} of {results.words()}")
    return read.result, results


def read_results(form: TestFormat, reports: Iterable[tuple[str, bytes]]) -> TestResults:
    """The results of all reports together; a test that one of them calls failed has failed.

    Args:
        reports: name and content of each.

    Raises:
        EvidenceError: a report cannot be read, or there are no results in them at all.
    """
    found: list[tuple[str, Outcome]] = []
    for name, data in reports:
        if len(data) > MAX_REPORT:
            raise EvidenceError(f"{name}: {len(data)} bytes, the limit is {MAX_REPORT}")
        found += _READERS[form](data, name)
    results = _named(found, what="test results")
    if not found:
        raise EvidenceError("test results: no test was run")
    return results


def _named(found: Iterable[tuple[str, Outcome]], *, what: str) -> TestResults:
    ended: dict[str, Outcome] = {}
    for name, outcome in found:
        short = name[:MAX_NAME]
        ended[short] = min(outcome, ended.get(short, outcome), key=_WORST.index)
    if len(ended) > MAX_TESTS:
        raise EvidenceError(f"{what}: more than {MAX_TESTS} tests")
    by: dict[Outcome, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for name in sorted(ended):
        by[ended[name]].append(name)
    return TestResults(**by)


def _junit(data: bytes, what: str) -> list[tuple[str, Outcome]]:
    try:
        root = fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise EvidenceError(f"{what}: not a JUnit report: {str(error)[:200]}") from None
    if root.tag not in ("testsuite", "testsuites"):
        raise EvidenceError(f"{what}: not a JUnit report: it is a <{root.tag[:50]}>")
    found = [_junit_case(case) for case in root.iter("testcase")]
    _same_counts(root, found, what)
    return found


def _junit_case(case: Element) -> tuple[str, Outcome]:
    name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
    children = {child.tag for child in case}
    if children & {"failure", "error"}:
        return name, "failed"
    return name, "skipped" if "skipped" in children else "passed"


def _same_counts(root: Element, found: Sequence[tuple[str, Outcome]], what: str) -> None:
    """A suite that counts a failure without naming a case for it has failed all the same."""
    suites = [root] if root.tag == "testsuite" else list(root)
    told = sum(_count(each, "failures", what) + _count(each, "errors", what) for each in suites)
    failed = sum(outcome == "failed" for _, outcome in found)
    if told > failed:
        raise EvidenceError(f"{what}: counts {told} failures but names {failed}")


def _count(suite: Element, attribute: str, what: str) -> int:
    text = suite.get(attribute, "0")
    if re.fullmatch(r"[0-9]{1,9}", text) is None:
        raise EvidenceError(f"{what}: {attribute}={text[:50]!r} is no count")
    return int(text)


def _tap(data: bytes, what: str) -> list[tuple[str, Outcome]]:
    found: list[tuple[str, Outcome]] = []
    planned: int | None = None
    for line in data.decode(errors="replace").splitlines():
        if line.startswith("Bail out!"):
            raise EvidenceError(f"{what}: {line[:200]}")
        plan = _TAP_PLAN.match(line)
        if plan is not None:
            planned = int(plan[1][:9])
        match = _TAP.match(line)
        if match is not None:
            found.append(_tap_line(match, len(found) + 1))
    if planned is None:
        raise EvidenceError(f"{what}: no plan (as 1..3): the tests may have ended early")
    if planned != len(found):
        raise EvidenceError(f"{what}: {planned} tests planned, {len(found)} reported")
    return found


def _tap_line(match: "re.Match[str]", number: int) -> tuple[str, Outcome]:
    directive = _TAP_DIRECTIVE.search(match[3])
    name = (match[3][: directive.start()] if directive else match[3]).strip() or f"test {number}"
    if directive is not None:
        return name, "skipped"
    return name, "failed" if match[1] else "passed"


def _cargo(data: bytes, what: str) -> list[tuple[str, Outcome]]:
    """Each test binary prints its tests and then their sum; several binaries may have one name."""
    found: list[tuple[str, Outcome]] = []
    told = 0
    for line in data.decode(errors="replace").splitlines():
        match = _CARGO.match(line)
        if match is not None:
            found.append((match[1], _CARGO_OUTCOMES[match[2]]))
        total = _CARGO_SUM.match(line)
        if total is not None:
            told += sum(int(number[:9]) for number in total.groups())
    if told != len(found):
        raise EvidenceError(f"{what}: {len(found)} tests reported, their sums say {told}")
    return found


_READERS = {"junit": _junit, "tap": _tap, "cargo": _cargo}
