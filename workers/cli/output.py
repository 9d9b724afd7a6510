"""How the command speaks: tables and colour to a person, JSON to a script, exit codes to both."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

OK = 0
NEGATIVE = 1  # the answer is no: a chain that does not verify, a plan that is refused
USAGE = 2  # bad input; nothing was changed
UNREACHABLE = 3  # something that should be running does not answer

# Piped output has no width of its own; a narrow guess would cut digests short.
console = Console(width=None if sys.stdout.isatty() else 160)
errors = Console(stderr=True)


def emit_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print rows to a person; the first column keeps its width."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def report(message: str, code: int) -> int:
    """Say on standard error what is wrong; returns ``code``."""
    errors.print(f"[red]chainring:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    return code


def fail(message: str, code: int = USAGE) -> NoReturn:
    """End the command with a message on standard error."""
    raise SystemExit(report(message, code))
