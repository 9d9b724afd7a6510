"""Build files, test results, provenance: what is read is right, and what is wrong is named."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.build_file import PYTHON, BuildFileError, load_build_file
from models.builder import BuilderError, load_builder
from models.provenance import (
    BUILD_TYPE,
    CommitSignature,
    Material,
    Provenance,
    Reproducibility,
    read_provenance,
    write_provenance,
)
from models.strict_json import EvidenceError
from models.test_results import TestResults, read_results, read_test_result, write_test_result
from stores.git import SourceRefused
from stores.materials import check_specification

PLAIN = 'name = "web"\nversion = "1"\n'
COMMANDS = PLAIN + 'build = [["make"]]\ntest = [["make", "test"]]\noutput = "dist"\n'


def test_recipes_bring_their_commands():
    cargo = load_build_file(PLAIN + 'recipe = "cargo-make"')
    assert cargo.build == [["cargo", "make", "build"]] and cargo.tests.format == "cargo"
    wheel = load_build_file(PLAIN + 'recipe = "python-wheel"\ndistribution = "web-app"')
    assert wheel.build[0][:3] == [PYTHON, "-m", "pip"] and wheel.build[1][-1] == "web-app"
    assert all("--no-index" in command for command in wheel.build)
    own = load_build_file(PLAIN + 'recipe = "cargo-make"\noutput = "target/release"')
    assert own.output == "target/release"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (PLAIN, "build: Field required"),
        ("name = [", "not valid TOML"),
        (COMMANDS.replace('"dist"', '"../dist"'), "output"),
        (COMMANDS.replace('"dist"', '"/dist"'), "output"),
        (COMMANDS.replace('"dist"', '"."'), "output"),
        (COMMANDS.replace('[["make"]]', '"make"'), "build"),
        (COMMANDS.replace('[["make"]]', "[[]]"), "build.0"),
        (COMMANDS + 'recipe = "zig"', "recipe"),
        (COMMANDS + 'extra = "x"', "extra"),
        (COMMANDS + '[tests]\nformat = "junit"', "tests"),
        (COMMANDS + "[limits]\nbuild_seconds = 0", "limits.build_seconds"),
        (COMMANDS + '[environment]\ntake = ["A B"]', "environment.take.0"),
        (COMMANDS.replace('"web"', '"We b"'), "name"),
    ],
)
def test_a_wrong_build_file_names_the_field(text, field):
    with pytest.raises(BuildFileError, match=r"chainring\.build\.toml: .*") as caught:
        load_build_file(text)
    assert field in str(caught.value)


def test_a_builder_allows_nobody_unless_told():
    assert load_builder("").signatures == "required" and load_builder("").environment == []
    with pytest.raises(BuilderError, match="signatures"):
        load_builder('signatures = "maybe"')


JUNIT = b"""<testsuites><testsuite name="s" tests="4" failures="1" errors="0" skipped="1">
<testcase classname="a" name="one"/><testcase classname="a" name="two"><failure/></testcase>
<testcase name="three"><skipped/></testcase><testcase name="four"><system-out/></testcase>
</testsuite></testsuites>"""
CARGO = b"""running 3 tests
test it::works ... ok
test it::fails ... FAILED
test it::rests ... ignored
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out
"""
TAP = b"ok 1 - one\nnot ok 2 - two\nok 3 - three # SKIP no disk\nok\n1..4\n"


def test_results_are_read_from_each_form():
    junit = read_results("junit", [("r", JUNIT)])
    assert junit == TestResults(passed=["a::one", "four"], failed=["a::two"], skipped=["three"])
    cargo = read_results("cargo", [("r", CARGO)])
    assert cargo == TestResults(passed=["it::works"], failed=["it::fails"], skipped=["it::rests"])
    tap = read_results("tap", [("r", TAP)])
    assert tap == TestResults(passed=["one", "test 4"], failed=["two"], skipped=["three"])
    assert {each.result for each in (junit, cargo, tap)} == {"FAILED"}


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("junit", b"<html/>"),
        ("junit", b"<testsuite"),
        ("junit", b""),
        ("junit", b"<testsuite failures='2'><testcase name='a'/></testsuite>"),
        ("junit", b"<testsuite failures='x'><testcase name='a'/></testsuite>"),
        ("junit", b"<testsuite/>"),
        ("junit", b"<!DOCTYPE a [<!ENTITY b 'c'>]><testsuite><testcase name='&b;'/></testsuite>"),
        ("tap", b"ok 1\n"),
        ("tap", b"1..2\nok 1\n"),
        ("tap", b"1..0\n"),
        ("tap", b"1..1\nok 1\nBail out! no disk\n"),
        ("cargo", b"test a ... ok\n"),
        ("cargo", b"test result: ok. 2 passed; 0 failed; 0 ignored;\ntest a ... ok\n"),
        ("cargo", b""),
    ],
)
def test_results_that_cannot_be_believed_are_an_error(form, data):
    with pytest.raises(EvidenceError):
        read_results(form, [("report", data)])


def test_a_test_that_failed_once_has_failed():
    two = [("a", b"1..1\nok 1 - x\n"), ("b", b"1..1\nnot ok 1 - x\n")]
    assert read_results("tap", two) == TestResults(failed=["x"])


@given(st.sampled_from(["junit", "tap", "cargo"]), st.binary(max_size=400))
def test_no_report_crashes_the_reader(form, data):
    with contextlib.suppress(EvidenceError):
        read_results(form, [("report", data)])


def test_the_predicate_says_what_was_read():
    results = TestResults(passed=["a"], skipped=["b"])
    material = Material(name="chainring.build.toml", digest={"sha256": "ab" * 32})
    predicate = write_test_result(results, [material])
    assert predicate["configuration"] == [
        {"name": "chainring.build.toml", "digest": {"sha256": "ab" * 32}}
    ]
    assert read_test_result(predicate) == ("WARNED", results)
    for change in ({"result": "FAILED"}, {"passedTests": []}, {"failedTests": ["c"]}):
        with pytest.raises(EvidenceError):
            read_test_result(predicate | change)


START = datetime(2026, 1, 1, tzinfo=UTC)
COMMIT = Material(uri="git+/srv/web", digest={"gitCommit": "a" * 40})


def provenance(**changes):
    said = {
        "build_type": BUILD_TYPE,
        "builder_id": "urn:b",
        "repository": "/srv/web",
        "commit": "a" * 40,
        "ref": "refs/heads/main",
        "recipe": "command",
        "materials": [COMMIT, Material(name="Cargo.lock", digest={"sha256": "cd" * 32})],
        "commit_signature": CommitSignature(kind="ssh", principal="ana", fingerprint="SHA256:x"),
        "invocation_id": "build/web/1",
        "started_on": START,
        "finished_on": START + timedelta(minutes=1),
        "byproducts": [Material(name="log", digest={"sha256": "ef" * 32})],
        "reproducibility": Reproducibility(identical=True, first="d", second="d"),
    }
    return Provenance.model_validate(said | changes)


@pytest.mark.parametrize("changes", [{}, {"commit_signature": None, "reproducibility": None}])
def test_provenance_is_read_back_as_it_was_written(changes):
    assert read_provenance(write_provenance(provenance(**changes))) == provenance(**changes)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("buildDefinition.externalParameters.commit", "main"),
        ("buildDefinition.externalParameters.commit", "b" * 40),
        ("buildDefinition.externalParameters.repository", ""),
        ("buildDefinition.resolvedDependencies", []),
        ("buildDefinition.buildType", None),
        ("runDetails.builder", {}),
        ("runDetails.metadata.finishedOn", "2020-01-01T00:00:00Z"),
        ("runDetails.metadata.startedOn", "2026-01-01T00:00:00"),
        ("runDetails.metadata.chainring_reproducibility.identical", False),
    ],
)
def test_provenance_that_does_not_hold_is_refused(path, value):
    predicate = write_provenance(provenance())
    place = predicate
    *parents, last = path.split(".")
    for name in parents:
        place = place[name]
    place[last] = value
    with pytest.raises(EvidenceError, match="provenance"):
        read_provenance(predicate)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@given(st.sampled_from(["buildDefinition", "runDetails"]), _JSON)
def test_no_provenance_crashes_the_reader(part, value):
    with pytest.raises(EvidenceError):
        read_provenance(write_provenance(provenance()) | {part: value})


def test_a_specification_names_its_broken_line():
    check_specification(b"@prefix a: <urn:a#> .\na:x a:y a:z .\n", "s.ttl")
    with pytest.raises(SourceRefused, match=r"^s\.ttl: line 3: "):
        check_specification(b"@prefix a: <urn:a#> .\na:x a:y a:z .\na:x a:y .\n", "s.ttl")
    with pytest.raises(SourceRefused, match="line 2: not UTF-8"):
        check_specification(b"# fine\n# \xff\n", "s.ttl")


@given(st.binary(max_size=200))
def test_no_specification_crashes_the_reader(data):
    try:
        check_specification(data, "s.ttl")
    except SourceRefused as error:
        assert str(error).startswith("s.ttl: ")
