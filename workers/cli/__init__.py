"""The `chainring` command.

Subcommands are imported when they are called: statistics and database layers take a second to
import, which `chainring status` must not pay.
"""

import contextlib
import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from workers.cli.output import UNREACHABLE, USAGE, report
from workers.settings import SettingsError


@dataclass(frozen=True)
class _Subcommand:
    """Where a subcommand lives: a Typer ``app``, or a plain function, of a module here."""

    module: str
    attribute: str
    summary: str


_SUBCOMMANDS = {
    "up": _Subcommand("stack", "up", "Start the embedded stack."),
    "status": _Subcommand("stack", "status", "What runs, where, and the web UI's address."),
    "down": _Subcommand("stack", "down", "Stop the stack; its state stays."),
    "setup": _Subcommand("stack", "setup", "Prepare a Temporal cluster for Chainring."),
    "config": _Subcommand("config", "app", "Render, check and show the configuration."),
    "fleet": _Subcommand("fleet", "app", "Seed the fleet; show shards and their releases."),
    "tenants": _Subcommand("tenants", "app", "Create, suspend, move and find tenants."),
    "releases": _Subcommand("releases", "app", "Keep and inspect releases."),
    "build": _Subcommand("build", "app", "Build and attest releases out of git."),
    "rollout": _Subcommand("rollout", "app", "Plan, start, watch and steer rollouts."),
    "breakglass": _Subcommand("breakglass", "app", "Let a refused release through, by two people."),
    "production": _Subcommand("production", "app", "A commit to the whole fleet, in one process."),
    "vulnerabilities": _Subcommand(
        "vulnerabilities", "app", "Vulnerability data: load it, ask it."
    ),
    "keys": _Subcommand("keys", "app", "The keys that sign releases."),
    "backup": _Subcommand("backup", "app", "What is kept of a region outside its store."),
    "failover": _Subcommand("failover", "app", "Keep a region writing while it is restored."),
    "restore": _Subcommand("restore", "app", "Bring a region's store back, with proof."),
    "schedules": _Subcommand("schedules", "app", "What Temporal starts by itself."),
    "incidents": _Subcommand("incidents", "app", "Running releases that stand no more."),
    "verify": _Subcommand("verify", "verify", "Judge a release by all of its evidence."),
    "verdict": _Subcommand("verdict", "app", "Show verdicts; give them again from the evidence."),
    "forensics": _Subcommand("forensics", "app", "What ran where and when, with proof."),
    "events": _Subcommand("events", "events", "What happened to the fleet, from its receipts."),
    "certificate": _Subcommand("certificate", "app", "What a restore reached, verified by files."),
    "recovery": _Subcommand("recovery", "app", "Who watches stores; recoveries and their SLAs."),
    "receipts": _Subcommand("receipts", "app", "List, verify, prove and export receipts."),
}


class _LazyGroup(TyperGroup):
    """Names and summaries are known here; the rest is imported on call.

    Contexts are typed ``Any``: Typer keeps its own copy of Click and does not export its types.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_SUBCOMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = _SUBCOMMANDS.get(cmd_name)
        if found is None:
            return None
        part = getattr(importlib.import_module(f"workers.cli.{found.module}"), found.attribute)
        if isinstance(part, typer.Typer):
            command = typer.main.get_command(part)
        else:
            single = typer.Typer(add_completion=False)
            single.command()(part)
            command = typer.main.get_command(single)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, found.summary) for name, found in _SUBCOMMANDS.items()])


app = typer.Typer(
    name="chainring",
    cls=_LazyGroup,
    help="Durable fleet operations: rollouts and receipts for multi-tenant fleets.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Durable fleet operations: rollouts and receipts for multi-tenant fleets."""


def main() -> NoReturn:
    """Run the command; a person gets one line about what went wrong, not a stack trace."""
    code = _run()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # Temporal's runtime threads may still call into an interpreter that is being torn down.
    os._exit(code)


def _run() -> int:
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE if end.code else 0
    except SettingsError as error:
        return report(str(error), UNREACHABLE)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return report(f"{field}: {first['msg']}", USAGE)
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # as a registry that does not answer
        return 141 if isinstance(error, BrokenPipeError) else report(str(error), UNREACHABLE)
    return 0
