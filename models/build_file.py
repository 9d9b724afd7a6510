"""The build file of a source tree, ``chainring.build.toml``: how its commit becomes a release.

It comes from the source, so nothing in it is trusted with more than the source itself: it names
commands and paths inside the checkout. What it may take from the builder's environment, and how
long it may run, is bounded by the builder.

>>> load_build_file('name = "web"\\nversion = 1').version
Traceback (most recent call last):
    ...
models.build_file.BuildFileError: chainring.build.toml: version: Input should be a valid string
"""

import tomllib
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from models.release import (
    Argument,
    EnvName,
    EnvValue,
    ReleaseFile,
    ReleaseName,
    ReleaseVersion,
    first_error,
)

BUILD_FILE = "chainring.build.toml"
MAX_BYTES = 64 * 1024

PYTHON = "{python}"
"""In a command: the Python interpreter of the builder."""

OUTPUT = "{output}"
"""In a command: the output directory."""


class BuildFileError(ValueError):
    """The build file does not hold; the message names the file and the field."""


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or value.startswith("-") or "\\" in value:
        raise ValueError(f"{value!r} must be a path inside the source tree")
    return value


RelativePath = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f]+$"),
    AfterValidator(_inside),
]
Command = Annotated[list[Argument], Field(min_length=1, max_length=256)]
Commands = Annotated[list[Command], Field(min_length=1, max_length=50)]
Seconds = Annotated[int, Field(ge=1, le=6 * 3600)]
Recipe = Literal["command", "cargo-make", "python-wheel"]
TestFormat = Literal["junit", "tap", "cargo"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tests(_Section):
    """Where the test results are found.

    ``junit``: XML reports; ``tap``: the Test Anything Protocol, in reports or else in the test
    commands' output; ``cargo``: the lines that Rust's test harness prints.
    """

    format: TestFormat = "tap"
    reports: list[RelativePath] = Field(
        default=[], max_length=100, description="paths or patterns, as reports/*.xml"
    )

    @model_validator(mode="after")
    def _junit_needs_files(self) -> "Tests":
        if self.format == "junit" and not self.reports:
            raise ValueError("reports: JUnit results are files; name them")
        return self


class Environment(_Section):
    """Beyond the little that every build gets."""

    take: list[EnvName] = Field(
        default=[], max_length=50, description="from the builder, as far as it allows them"
    )
    values: dict[EnvName, EnvValue] = Field(default={}, max_length=100, alias="set")


class Limits(_Section):
    """Time limits in seconds, each for all commands of its kind together."""

    build_seconds: Seconds = 1800
    test_seconds: Seconds = 1800


class BuildFile(_Section):
    """One program's build. Without commands of its own it takes those of its recipe."""

    name: ReleaseName
    version: ReleaseVersion
    recipe: Recipe = "command"
    build: Commands
    test: Commands
    output: RelativePath = Field(description="directory that becomes the release")
    release: ReleaseFile | None = Field(
        default=None, description="how it is run; else release.json in the output says so"
    )
    tests: Tests = Tests()
    environment: Environment = Environment()
    lock_files: list[RelativePath] = Field(
        default=[], max_length=100, description="for the SBOM; else those that are found"
    )
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _output_is_a_part(self) -> "BuildFile":
        if PurePosixPath(self.output) == PurePosixPath("."):
            raise ValueError("output: must be a directory of its own, not the source tree")
        return self


def load_build_file(text: str, *, path: str = BUILD_FILE) -> BuildFile:
    """The build that a TOML text describes, with its recipe's defaults.

    Raises:
        BuildFileError: not TOML, or a field is missing, unknown or wrong.
    """
    if len(text) > MAX_BYTES:
        raise BuildFileError(f"{path}: over {MAX_BYTES} characters")
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BuildFileError(f"{path}: not valid TOML: {error}") from None
    try:
        return BuildFile.model_validate(_with_recipe(tree))
    except ValidationError as error:
        raise BuildFileError(f"{path}: {first_error(error)}") from None


def _with_recipe(tree: dict[str, object]) -> dict[str, object]:
    recipe = tree.get("recipe", "command")
    if recipe == "cargo-make":
        return _CARGO_MAKE | tree
    if recipe == "python-wheel":
        distribution = tree.get("distribution", tree.get("name"))
        rest = {key: value for key, value in tree.items() if key != "distribution"}
        return _python_wheel(str(distribution)) | rest
    return tree


# unittest has no report that a program can read, so this runs it and writes the results as TAP, in
# a file because tests may print. What is tested is what was built: the output comes first.
_UNITTEST = """\
import sys, unittest
sys.path.insert(0, sys.argv[1])
seen = []
class Result(unittest.TextTestResult):
    def startTest(self, test):
        seen.append(test.id())
        super().startTest(test)
tests = unittest.defaultTestLoader.discover(sys.argv[2])
result = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(tests)
failed = [test.id() for test, _ in result.failures + result.errors]
failed += [test.id() for test in result.unexpectedSuccesses]
skipped = [test.id() for test, _ in result.skipped]
names = list(dict.fromkeys(seen + failed + skipped))
with open(sys.argv[3], "w") as report:
    print(f"1..{len(names)}", file=report)
    for number, name in enumerate(names, 1):
        said = "not ok" if name in failed else "ok"
        end = "# SKIP" if name in skipped and name not in failed else ""
        print(said, number, "-", name, end, file=report)
sys.exit(bool(failed))
"""

_CARGO_MAKE: dict[str, object] = {
    "build": [["cargo", "make", "build"]],
    "test": [["cargo", "make", "test"]],
    "output": "dist",
    "tests": {"format": "cargo"},
}


def _python_wheel(distribution: str) -> dict[str, object]:
    """Build the wheel without a network, and install it into the output as a release runs it.

    The tests are those that unittest finds below ``tests``.

    Installed by name out of a directory: a wheel installed by its path leaves that path in its
    ``direct_url.json``, and two builds in two directories would differ.
    """
    pip = [PYTHON, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-input"]
    offline = ["--no-deps", "--no-index"]
    wheels, report = "build/wheels", "unittest.tap"
    install = [*offline, "--no-compile", "--no-warn-script-location"]
    return {
        "build": [
            [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", wheels, "."],
            [*pip, "install", *install, "--find-links", wheels, "--target", OUTPUT, distribution],
        ],
        "test": [[PYTHON, "-c", _UNITTEST, OUTPUT, "tests", report]],
        "tests": {"format": "tap", "reports": [report]},
        "output": "dist",
    }
