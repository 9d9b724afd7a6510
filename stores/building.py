"""The parts of a build that leave files: running it, packing it, testing it, comparing two."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from models.build_file import OUTPUT, PYTHON, BuildFile, BuildFileError, Commands, load_build_file
from models.builder import BuilderSettings
from models.test_results import MAX_REPORT, TestResults, read_results
from stores.build_runner import Beat, BuildFailed, Outcome, build_environment, run_commands
from stores.oci import DESCRIPTION, ImageLayout
from stores.workspace import Workspace

MAX_REPORTS = 1000
_TAIL = 2000


@dataclass(frozen=True)
class Bench:
    """One build at work: its directories, its builder, and how to say that it is alive."""

    workspace: Workspace
    settings: BuilderSettings
    python: str
    beat: Beat
    clock: Callable[[], datetime]


def read_build_file(source: Path, name: str) -> BuildFile:
    """The build file of a source tree.

    Raises:
        BuildFileError: there is none, or it does not hold.
    """
    path = source / name
    if path.is_symlink() or not path.is_file():
        raise BuildFileError(f"{name}: there is no such file in the source tree")
    try:
        return load_build_file(path.read_text(encoding="utf-8"), path=name)
    except UnicodeDecodeError:
        raise BuildFileError(f"{name}: not UTF-8") from None


def build_once(
    bench: Bench, build: BuildFile, commit_time: int, place: str
) -> tuple[Outcome, str, Path]:
    """Build in a clean working copy below ``place``, and pack what came out.

    Returns:
        How it went, the digest of the packed release, and the layout that holds it.

    Raises:
        BuildFailed: a command failed or took too long, or there is no output.
        ReleaseError: the output is no release.
    """
    tree = bench.workspace.copy_source(place)
    outcome = _run(bench, build, build.build, tree, commit_time, "build")
    output = tree / build.output
    if not output.resolve().is_relative_to(tree.resolve()) or not output.is_dir():
        raise BuildFailed(f"output: the build made no directory {build.output}")
    _describe_release(build, output)
    layout = ImageLayout(bench.workspace.fresh(f"{place}-layout"))
    bench.beat()
    digest = layout.put_release(build.name, build.version, output)
    return outcome, digest, bench.workspace.path / f"{place}-layout"


def run_tests(
    bench: Bench, build: BuildFile, commit_time: int, place: str
) -> tuple[Outcome, TestResults]:
    """Run the tests where `build_once` built.

    Raises:
        BuildFailed: a test failed, none was run, or there are no results.
        EvidenceError: the results cannot be read.
    """
    tree = bench.workspace.need(bench.workspace.path / place / "tree")
    for stale in _reports(build, tree):
        stale.unlink()  # results that came with the source say nothing about this run
    outcome = _run(bench, build, build.test, tree, commit_time, "test")
    log = bench.workspace.path / place / "test.log"
    results = read_results(build.tests.format, _contents(build, tree, log))
    if results.result == "FAILED":
        names = ", ".join(results.failed[:10]) or "none passed"
        raise BuildFailed(f"tests: {results.words()}: {names}")
    if outcome.code:
        raise BuildFailed(f"tests: exit status {outcome.code} although {results.words()}")
    return outcome, results


def _run(
    bench: Bench,
    build: BuildFile,
    commands: Commands,
    tree: Path,
    commit_time: int,
    what: Literal["build", "test"],
) -> Outcome:
    """Run all commands of a kind; a test's exit status is judged together with its results."""
    limits = build.limits
    log = tree.parent / f"{what}.log"
    places = {PYTHON: bench.python, OUTPUT: build.output}
    outcome = run_commands(
        [[places.get(part, part) for part in command] for command in commands],
        directory=tree,
        environment=_environment(bench, build, tree.parent, commit_time),
        log=log,
        seconds=limits.build_seconds if what == "build" else limits.test_seconds,
        beat=bench.beat,
        clock=bench.clock,
    )
    bench.workspace.keep_log(log, outcome.log)
    if outcome.code and what == "build":
        said = log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
        raise BuildFailed(f"{what}: exit status {outcome.code}; it said last: {said}")
    return outcome


def _environment(bench: Bench, build: BuildFile, work: Path, commit_time: int) -> dict[str, str]:
    allowed = bench.settings.environment
    for name in build.environment.take:
        if name not in allowed:
            raise BuildFileError(f"environment.take: this builder does not hand out {name}")
    return build_environment(
        work,
        commit_time=commit_time,
        path=bench.settings.path,
        taken={n: os.environ[n] for n in build.environment.take if n in os.environ},
        values=build.environment.values,
    )


def _describe_release(build: BuildFile, output: Path) -> None:
    """Write ``release.json`` where the build file has it; a build that wrote its own is refused."""
    if build.release is None:
        return
    path = output / DESCRIPTION
    if path.exists():
        raise BuildFailed(f"release: in the build file and in the output's {DESCRIPTION} too")
    path.write_text(build.release.model_dump_json(indent=2) + "\n")


def _reports(build: BuildFile, tree: Path) -> list[Path]:
    root = tree.resolve()
    found = [
        path
        for pattern in build.tests.reports
        for path in sorted(tree.glob(pattern))
        if path.resolve().is_relative_to(root) and path.is_file() and not path.is_symlink()
    ]
    if len(found) > MAX_REPORTS:
        raise BuildFailed(f"tests.reports: more than {MAX_REPORTS} files")
    return found


def _contents(build: BuildFile, tree: Path, log: Path) -> Iterable[tuple[str, bytes]]:
    """What the tests reported; of every pattern something must be there."""
    if not build.tests.reports:
        return [("the tests' output", log.read_bytes())]
    found = _reports(build, tree)
    for pattern in build.tests.reports:
        if not any(path in found for path in tree.glob(pattern)):
            raise BuildFailed(f"tests.reports: the tests wrote no {pattern}")
    return [(path.relative_to(tree).as_posix(), _bounded(path)) for path in found]


def _bounded(path: Path) -> bytes:
    if path.stat().st_size > MAX_REPORT:
        raise BuildFailed(f"tests.reports: {path.name} is over {MAX_REPORT} bytes")
    return path.read_bytes()
