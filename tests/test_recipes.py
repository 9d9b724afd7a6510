"""The recipes of the build file, each from a commit to a release by the tools that it names."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest
from build_harness import Yard, server, start, statements
from temporalio.client import WorkflowFailureError

from models.canonical import canonical
from models.sbom import read_sbom
from models.sbom_compare import compare
from models.statement import PROVENANCE, SBOM, TESTS
from models.test_results import read_test_result
from stores.sbom_contents import read_contents
from workflows.regions import plain_words

WHEEL = """
name = "web"
version = "1.0.0"
recipe = "python-wheel"
distribution = "Web-App"

[release]
entrypoint = ["python3", "-m", "web_app"]
"""
PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "Web-App"
version = "1.0.0"

[tool.setuptools.packages.find]
where = ["src"]
"""
CHECKS = """
import unittest
import web_app

class Answers(unittest.TestCase):
    def test_it_is_the_installed_one(self):
        self.assertIn("dist", web_app.__file__)

    def test_it_answers(self):
        print("ok 7 - said by the program, not by the runner")
        self.assertEqual(web_app.answer(), 42)

    @unittest.skip("no disk")
    def test_it_is_left_out(self):
        pass
"""
CARGO = """
name = "web"
version = "1.0.0"
recipe = "cargo-make"

[release]
entrypoint = ["./web"]
"""


def wheel(**files: str) -> dict[str, str]:
    return {
        "chainring.build.toml": WHEEL,
        "pyproject.toml": PYPROJECT,
        "src/web_app/__init__.py": "def answer():\n    return 42\n",
        "tests/test_web.py": CHECKS,
    } | files


async def build(yard: Yard, files: dict[str, str], **fields: object):
    commit = yard.repository.commit(files)
    async with server() as client, yard.builder.worker(client):
        handle = await start(client, yard.request(commit, **fields))
        return await asyncio.wait_for(handle.result(), 120)


async def test_a_wheel_is_built_installed_tested_and_listed(tmp_path: Path) -> None:
    yard = Yard(tmp_path)

    result = await build(yard, wheel(), reproducible=True)

    assert result.reproducibility.identical, result.reproducibility.differences
    assert result.tests == "2 passed, 0 failed, 1 skipped"
    root = yard.builder.layout.unpack(result.release, tmp_path / "unpacked")
    assert (root / "web_app" / "__init__.py").read_text().startswith("def answer")
    found = statements(yard, result.release)
    assert found[PROVENANCE]["buildDefinition"]["externalParameters"]["recipe"] == "python-wheel"
    bill = read_sbom(canonical(found[SBOM]))
    compared = compare(bill, read_contents(root), digest=result.release)
    assert compared.covers and not compared.overstates, list(compared.reasons())
    [package] = [each for each in bill.packages if each.purl == "pkg:pypi/web-app@1.0.0"]
    assert package.hashes["SHA-256"]
    _, tests = read_test_result(found[TESTS])
    assert "test_web.Answers.test_it_answers" in tests.passed


async def test_a_wheel_that_was_tampered_with_is_not_what_its_bill_says(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    result = await build(yard, wheel())
    bill = read_sbom(canonical(statements(yard, result.release)[SBOM]))
    root = yard.builder.layout.unpack(result.release, tmp_path / "unpacked")
    (root / "web_app" / "extra.py").write_text("import os\n")
    assert not compare(bill, read_contents(root), digest=result.release).covers


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (
            {"tests/test_web.py": CHECKS.replace("answer(), 42", "answer(), 43")},
            "test_web.Answers.test_it_answers",
        ),
        ({"tests/test_web.py": "import nothing_like_it\n"}, "1 failed"),
        ({"tests/test_web.py": ""}, "no test was run"),
        ({"pyproject.toml": PYPROJECT.replace("setuptools.build_meta", "no_backend")}, "build:"),
        ({"chainring.build.toml": WHEEL.replace("Web-App", "other-app")}, "other-app"),
        (
            {"pyproject.toml": PYPROJECT + "\n[project.optional-dependencies]\nx = [1]\n"},
            "build:",
        ),
    ],
)
async def test_a_wheel_that_does_not_hold_is_no_release(
    tmp_path: Path, files: dict[str, str], why: str
) -> None:
    with pytest.raises(WorkflowFailureError) as caught:
        await build(Yard(tmp_path), wheel(**files))
    assert why in plain_words(caught.value)


def stand_in(directory: Path) -> Path:
    """A ``cargo`` that writes down how it is called, and does what the tasks would."""
    directory.mkdir()
    tool = directory / "cargo"
    tool.write_text(
        f"#!{sys.executable} -IS\n"
        "import os, sys\n"
        f"with open({str(directory / 'calls')!r}, 'a') as calls:\n"
        "    print(os.getcwd(), sys.argv[1:], sorted(os.environ), file=calls)\n"
        "if sys.argv[1:] == ['make', 'build']:\n"
        "    os.mkdir('dist')\n"
        "    open('dist/web', 'w').write('#!/bin/sh\\n')\n"
        "    os.chmod('dist/web', 0o755)\n"
        "if sys.argv[1:] == ['make', 'test']:\n"
        "    print('test answers ... ok')\n"
        "    print('test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured')\n"
    )
    tool.chmod(0o755)
    return directory


async def test_cargo_make_is_called_for_build_and_test_and_for_nothing_else(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    tools = stand_in(tmp_path / "tools")
    settings = yard.builder.activities._settings
    yard.builder.activities._settings = settings.model_copy(
        update={"path": f"{tools}:{settings.path}"}
    )

    result = await build(yard, {"chainring.build.toml": CARGO})

    assert result.tests == "1 passed, 0 failed"
    calls = (tools / "calls").read_text().splitlines()
    assert [line.split(" ", 1)[1].split("] ")[0] for line in calls] == [
        "['make', 'build'",
        "['make', 'test'",
    ]
    places = {Path(line.split()[0]) for line in calls}
    assert len(places) == 1 and places.pop().name == "tree"
    assert not any("SSH_AUTH_SOCK" in line or "CARGO_HOME" in line for line in calls)


MAKEFILE = """
[config]
skip_core_tasks = true

[tasks.build]
script = ["cargo build --release --offline", "mkdir dist", "cp target/release/web dist/web"]

[tasks.test]
command = "cargo"
args = ["test", "--offline"]
"""
MANIFEST = """
[package]
name = "web"
version = "1.0.0"
edition = "2021"
"""
PROGRAM = """
fn main() {}

#[cfg(test)]
mod tests {
    #[test]
    fn answers() {}
}
"""
TAKES_RUST = '\n[environment]\ntake = ["RUSTUP_HOME"]\n'


PLAIN_CARGO = """
name = "web"
version = "1.0.0"
output = "dist"
build = [
    ["cargo", "build", "--release", "--offline"],
    ["install", "-D", "target/release/web", "dist/web"],
]
test = [["cargo", "test", "--offline"]]

[tests]
format = "cargo"

[release]
entrypoint = ["./web"]
"""
LINKED = {tool: shutil.which(tool) for tool in ("cargo", "cargo-make", "cc")}


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(
            CARGO,
            marks=pytest.mark.skipif(not LINKED["cargo-make"], reason="cargo-make is missing"),
        ),
        pytest.param(
            PLAIN_CARGO,
            marks=pytest.mark.skipif(
                not (LINKED["cargo"] and LINKED["cc"]), reason="cargo or a linker is missing"
            ),
        ),
    ],
    ids=["cargo-make", "cargo"],
)
async def test_cargo_builds_a_real_program(tmp_path: Path, monkeypatch, recipe: str) -> None:
    monkeypatch.setenv("RUSTUP_HOME", str(Path.home() / ".rustup"))
    yard = Yard(tmp_path)
    settings = yard.builder.activities._settings
    tools = Path(LINKED["cargo"] or "").parent
    yard.builder.activities._settings = settings.model_copy(
        update={"environment": ["RUSTUP_HOME"], "path": f"{tools}:{settings.path}"}
    )
    files = {
        "chainring.build.toml": recipe + TAKES_RUST,
        "Makefile.toml": MAKEFILE,
        "Cargo.toml": MANIFEST,
        "Cargo.lock": 'version = 3\n\n[[package]]\nname = "web"\nversion = "1.0.0"\n',
        "src/main.rs": PROGRAM,
    }
    result = await build(yard, files)
    assert result.tests == "1 passed, 0 failed"
    root = yard.builder.layout.unpack(result.release, tmp_path / "unpacked")
    bill = read_sbom(canonical(statements(yard, result.release)[SBOM]))
    assert compare(bill, read_contents(root), digest=result.release).covers
    broken = PROGRAM.replace("fn answers() {}", 'fn answers() { panic!("no") }')
    with pytest.raises(WorkflowFailureError) as caught:
        await build(yard, files | {"src/main.rs": broken})
    assert "tests::answers" in plain_words(caught.value)
