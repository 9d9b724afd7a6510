"""`chainring schedules`: what Temporal starts by itself."""

from typing import Annotated

import typer

from workers.cli.output import emit_json, emit_table
from workers.cli.temporal import control_client, run
from workers.schedules import apply, calendar

app = typer.Typer(
    help="The operations calendar: what Temporal starts by itself, and how often.",
    no_args_is_help=True,
)

JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]


@app.command("apply")
def apply_all(as_json: JsonOpt = False) -> None:
    """Create or update every schedule; one that a person paused stays paused.

    Example: chainring schedules apply
    """
    _print(run(_apply()), as_json)


@app.command("list")
def list_schedules(as_json: JsonOpt = False) -> None:
    """List the schedules there are, with their next start."""
    _print(run(_list()), as_json)


def _print(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        emit_json(rows)
    elif rows:
        emit_table(list(rows[0]), [list(row.values()) for row in rows])


async def _apply() -> list[dict[str, str]]:
    client = await control_client()
    return [
        {
            "schedule": planned.id,
            "every": str(planned.every),
            "workflow": planned.workflow,
            "now": await apply(client, planned),
        }
        for planned in calendar()
    ]


async def _list() -> list[dict[str, str]]:
    client = await control_client()
    rows = []
    async for found in await client.list_schedules():
        info, state = found.info, found.schedule.state if found.schedule else None
        following = info.next_action_times if info else []
        rows.append(
            {
                "schedule": found.id,
                "state": "paused" if state and state.paused else "active",
                "next": f"{following[0]:%Y-%m-%d %H:%M:%SZ}" if following else "-",
                "note": (state.note or "") if state else "",
            }
        )
    return rows
