"""``chainring config``: render the templates, check a configuration, show what is in effect."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from models.config import Config, ConfigError, load_config
from models.config_check import ENFORCED, NOT_ENFORCED, check_config
from stores.templates import TemplateError, render
from workers.cli.output import NEGATIVE, OK, console, emit_json, emit_table, errors, fail
from workers.settings import SettingsError, load_control

app = typer.Typer(help="Render, check and show the fleet's configuration.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("render")
def render_command(
    templates: Annotated[list[Path], typer.Argument(help="Tera templates, joined in this order.")],
    values: Annotated[
        Path | None, typer.Option(help="Values of the variables, JSON or TOML.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One value; JSON, else text. Repeatable."),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Refuse a result that is no valid configuration.")
    ] = True,
) -> None:
    """Render templates to one TOML text on standard output.

    Example: chainring config render deploy/config/*.tera --values values.json --set shards=50
    """
    variables = _read_values(values) if values else {}
    for assignment in assignments or []:
        _assign(variables, assignment)
    try:
        parts = [render(_read(path), variables, name=str(path)) for path in templates]
    except TemplateError as error:
        fail(str(error))
    text = "\n".join(part.strip("\n") + "\n" for part in parts)
    if check:
        _load(text, "the rendered text")
    typer.echo(text, nl=False)


@app.command("check")
def check_command(
    file: Annotated[Path, typer.Argument(help="The configuration, TOML.")],
    strict: Annotated[
        bool, typer.Option(help="Exit with 1 also for keys that are not enforced yet.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Check a configuration: errors, oddities, and keys that are not enforced yet.

    Exits with 1 when it does not hold. Example: chainring config check fleet.toml
    """
    try:
        findings = check_config(load_config(_read(file)))
        problems = []
    except ConfigError as error:
        findings, problems = [], error.problems
    if as_json:
        rows = [{"level": "error", "key": p.key, "text": p.reason} for p in problems]
        rows += [{"level": f.level, "key": f.key, "text": f.text} for f in findings]
        emit_json({"file": str(file), "valid": not problems, "findings": rows})
    else:
        for problem in problems:
            errors.print(f"[red]error[/red] {problem}", highlight=False, soft_wrap=True)
        if not problems:
            remarks = [(f.key, f.level, f.text) for f in findings]
            emit_table(("key", "level", "remark"), remarks, title=f"{file} holds")
    unenforced = any(finding.level == "not enforced" for finding in findings)
    raise typer.Exit(NEGATIVE if problems or (strict and unenforced) else OK)


@app.command("show")
def show_command(
    file: Annotated[
        Path | None, typer.Argument(help="The configuration; the running stack's when left out.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Show the configuration in effect, defaults included, and what acts on each key.

    Example: chainring config show --json
    """
    try:
        path = file or load_control().config
    except SettingsError as error:
        fail(str(error))
    config = _load(_read(path), str(path))
    effective = config.model_copy(update={"gates": config.gate_policy()})
    tree = effective.model_dump(mode="json", by_alias=True)
    if as_json:
        emit_json({"file": str(path), "digest": config.digest(), "config": tree})
        return
    rows = [(key, json.dumps(value, ensure_ascii=False), _state(key)) for key, value in _flat(tree)]
    emit_table(("key", "value", "acted on"), rows, title=str(path))
    console.print(f"digest {config.digest()}", highlight=False)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path}: {getattr(error, 'strerror', None) or error}")


def _read_values(path: Path) -> dict[str, Any]:
    text = _read(path)
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError as error:
        fail(f"{path}: {error}")
    if not isinstance(values, dict):
        fail(f"{path}: the values must be one object")
    return values


def _assign(variables: dict[str, Any], assignment: str) -> None:
    """Set one variable; a dotted key reaches into objects."""
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        fail(f"--set {assignment}: write KEY=VALUE")
    *path, last = key.split(".")
    for part in path:
        variables = variables.setdefault(part, {})
        if not isinstance(variables, dict):
            fail(f"--set {assignment}: {part} is not an object")
    try:
        variables[last] = json.loads(text)
    except ValueError:
        variables[last] = text


def _load(text: str, what: str) -> Config:
    try:
        return load_config(text)
    except ConfigError as error:
        fail(f"{what} is not a valid configuration:\n{error}")


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and their values, tables opened and lists left whole."""
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        rows += _flat(value, f"{name}.") if isinstance(value, dict) and value else [(name, value)]
    return rows


def _state(key: str) -> str:
    section, _, rest = key.partition(".")
    pattern = f"regions.*.{rest.partition('.')[2]}" if section == "regions" else key
    if pattern in NOT_ENFORCED:
        return f"not enforced: {NOT_ENFORCED[pattern]}"
    return "yes" if pattern in ENFORCED or section in ENFORCED else "no"
