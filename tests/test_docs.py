"""What the documents tell a reader to type exists: commands, options, inputs, files, links."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError
from temporalio import workflow

from models.break_glass import BreakGlassState
from models.build import BuildRequest, BuildState
from models.incident import IncidentState
from models.production import ProductionRequest, ProductionState
from models.recovery import RestoreRequest
from models.rollout import AbortDecision, Decision, RolloutRequest, RolloutState
from workers.__main__ import USAGE
from workers.cli import app
from workers.temporal_setup import CONTROL_QUEUE, RECOVERY_QUEUE, SEARCH_ATTRIBUTES
from workflows.restore_region import RestoreRegion
from workflows.rollout import FleetRollout

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "deploy" / "README.md", *ROOT.glob("docs/**/*.md")])
DIGEST = "sha256:" + "a" * 64
PROMPTS = ("$RELEASE",)  # shell variables that hold a digest
UPDATES = {"abort": AbortDecision}  # the others take a Decision
REQUESTS = {
    "BuildRelease": BuildRequest,
    "FleetRollout": RolloutRequest,
    "ReleaseToProduction": ProductionRequest,
    "RestoreRegion": RestoreRequest,
}
STATES = (RolloutState, IncidentState, BreakGlassState, BuildState, ProductionState)
BUILT_IN = {"WorkflowType", "WorkflowId", "ExecutionStatus"}
TEMPORAL = shutil.which("temporal", path=str(Path(sys.executable).parent))

Command = list[str]


def blocks(text: str) -> list[str]:
    """The fenced shell blocks of a document."""
    return re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def logical_lines(block: str) -> Iterator[str]:
    """Lines as a shell sees them: joined where a backslash or an open quote says so."""
    whole = ""
    for line in block.splitlines():
        whole += line.removesuffix("\\") + " "
        if not line.endswith("\\") and not _open_quote(whole):
            yield whole
            whole = ""
    assert not whole.strip(), f"never ends: {whole}"


def _open_quote(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def commands(block: str) -> Iterator[Command]:
    """The simple commands of a block: pipes, lists, redirections and substitutions taken apart."""
    for line in logical_lines(block):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        found: Command = []
        for token in lexer:
            if set(token) <= set("();<>|&"):
                yield from [found] if found else []
                found = []
            else:
                found.append(token)
        yield from [found] if found else []


def documented(*starts: str) -> list[Any]:
    """Every command of the documents that begins so, as parameters; each once a document."""
    found: dict[tuple[str, str], Command] = {}
    for path in DOCUMENTS:
        name = str(path.relative_to(ROOT))
        for block in blocks(path.read_text()):
            for command in commands(block):
                if tuple(command[: len(starts)]) == starts:
                    found[name, shlex.join(command)] = command
    return [pytest.param(command, id=f"{name}: {text}") for (name, text), command in found.items()]


def option(command: Command, *names: str) -> str | None:
    """The value of an option in a command line."""
    for name, value in pairwise(command):
        if name in names:
            return value
    return None


def given_input(command: Command) -> Any:
    text = option(command, "--input", "-i")
    assert text is not None, "no --input"
    for prompt in PROMPTS:
        text = text.replace(prompt, DIGEST)
    return json.loads(text)


def chainring_faults(command: Command) -> list[str]:
    """What is wrong with a ``chainring`` command line, without running it."""
    part: Any = typer.main.get_command(app)
    context = part.context_class(part)
    rest = command[1:]
    while hasattr(part, "get_command"):
        if not rest:
            return ["names no subcommand"]
        found = part.get_command(context, rest[0])
        if found is None:
            return [f"no command {rest[0]!r}"]
        part, rest = found, rest[1:]
        context = part.context_class(part)
    try:
        values, left, _ = part.make_parser(context).parse_args(args=list(rest))
    except Exception as error:
        return [str(error)]
    missing = [each.name for each in part.params if each.required and not values.get(each.name)]
    unasked = "--help" in rest or not missing
    return [] if unasked and not left else [f"missing {missing}, too much {left}"]


@cache
def temporal_help(*words: str) -> str:
    assert TEMPORAL is not None
    done = subprocess.run(
        [TEMPORAL, *words, "--help"], capture_output=True, text=True, check=True, timeout=20
    )
    everywhere = subprocess.run(
        [TEMPORAL, "options"], capture_output=True, text=True, check=False, timeout=20
    )
    return done.stdout + everywhere.stdout


def test_the_documents_are_there():
    assert len(DOCUMENTS) >= 5
    assert documented("chainring") and documented("temporal", "workflow", "start")


@pytest.mark.parametrize("command", documented("chainring"))
def test_a_chainring_command_exists(command: Command):
    assert chainring_faults(command) == []


@pytest.mark.parametrize(
    "line",
    [
        "chainring",
        "chainring fly",
        "chainring rollout fly",
        "chainring rollout watch",
        "chainring rollout watch one two",
        "chainring rollout start x:1 --wings 2",
        "chainring receipts export eu",
    ],
)
def test_a_wrong_chainring_command_is_found(line: str):
    assert chainring_faults(line.split())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_chainring_command_within_a_sentence_exists(path: Path):
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for quoted in re.findall(r"`(chainring [a-z][^`]*)`", prose):
        words = [word for word in shlex.split(quoted)[1:] if re.fullmatch(r"[a-z-]+", word)]
        assert _is_path_of_commands(words), quoted


def _is_path_of_commands(words: list[str]) -> bool:
    part: Any = typer.main.get_command(app)
    for word in words:
        if not hasattr(part, "get_command"):
            break
        part = part.get_command(part.context_class(part), word)
        if part is None:
            return False
    return True


@pytest.mark.parametrize(
    "command",
    documented("temporal", "workflow", "start") + documented("temporal", "workflow", "execute"),
)
def test_the_input_of_a_start_is_a_request(command: Command):
    recovers = option(command, "--type") in ("RestoreRegion", "SnapshotRegion")
    assert option(command, "--task-queue") == (RECOVERY_QUEUE if recovers else CONTROL_QUEUE)
    assert (option(command, "--namespace") is not None) == recovers
    request = REQUESTS[str(option(command, "--type"))].model_validate(given_input(command))
    assert getattr(request, "release", DIGEST) == DIGEST


@pytest.mark.parametrize("command", documented("temporal", "workflow", "update", "execute"))
def test_the_input_of_an_update_is_a_decision(command: Command):
    name = option(command, "--name")
    assert name in workflow._Definition.must_from_class(FleetRollout).updates
    UPDATES.get(str(name), Decision).model_validate(given_input(command))


def test_a_wrong_input_is_found():
    [wrong] = commands("""temporal workflow start --input '{"releas": "'$RELEASE'"}'""")
    with pytest.raises(ValidationError, match="releas"):
        RolloutRequest.model_validate(given_input(wrong))


@pytest.mark.parametrize("command", documented("temporal", "workflow", "query"))
def test_a_query_exists(command: Command):
    asked = RestoreRegion if "restore/" in str(option(command, "--workflow-id")) else FleetRollout
    assert option(command, "--name") in workflow._Definition.must_from_class(asked).queries


@pytest.mark.parametrize("command", documented("temporal", "workflow", "list"))
def test_a_list_asks_for_attributes_and_states_that_exist(command: Command):
    query = option(command, "--query", "-q") or ""
    attributes = set(re.findall(r"([A-Z]\w+)\s*(?:=|>|<|!=|STARTS_WITH)", query))
    assert attributes <= BUILT_IN | set(SEARCH_ATTRIBUTES)
    states = re.findall(r'ChainringState\s*=\s*"([^"]*)"', query)
    assert set(states) <= {state.value for kind in STATES for state in kind}


@pytest.mark.parametrize("command", documented("temporal"))
def test_temporal_knows_the_options(command: Command):
    words = []
    for word in command[1:]:
        if word.startswith("-"):
            break
        words.append(word)
    known = temporal_help(*words)
    flags = {word.partition("=")[0] for word in command if re.match(r"--[a-z]", word)}
    assert [flag for flag in sorted(flags) if not re.search(rf"{flag}\b", known)] == []


def test_every_state_is_in_the_operators_table():
    text = (ROOT / "docs" / "operations.md").read_text()
    assert [state.value for state in RolloutState if f"`{state.value}`" not in text] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path):
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_processes_and_scripts_exist(path: Path):
    text = path.read_text()
    known = set(re.findall(r"^  ([a-z]+) ", USAGE, re.MULTILINE))
    assert set(re.findall(r"python -m workers ([a-z]+)", text)) <= known
    named = re.findall(
        r"(?<![\w/])(?:scripts|deploy|models|stores|gateway|activities)/[\w./-]+", text
    )
    beside = (ROOT, ROOT / "deploy")
    lost = [
        name
        for name in (each.rstrip(".") for each in named)
        if not any((base / name).exists() for base in beside) and "deploy/home" not in name
    ]
    assert lost == []


def test_a_decision_of_every_number_is_there_once():
    numbers = [path.name[:4] for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == [f"{number:04d}" for number in range(1, len(numbers) + 1)]
