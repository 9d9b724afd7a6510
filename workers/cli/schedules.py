"""`chainring schedules`: what Temporal starts by itself."""

from typing import Annotated

import typer
from temporalio.client import Client

from models.config import load_config
from workers.cli.output import emit_json, emit_table
from workers.cli.temporal import control_client, region_client, run
from workers.planned import Planned
from workers.schedules import apply, calendar, region_calendar
from workers.settings import known_regions, load_region

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
    rows = []
    for namespace, client, lines in await _calendars():
        rows += [
            {
                "namespace": namespace,
                "schedule": planned.id,
                "every": planned.rhythm,
                "workflow": planned.workflow,
                "now": await apply(client, planned),
            }
            for planned in lines
        ]
    return rows


async def _list() -> list[dict[str, str]]:
    rows = []
    for namespace, client, _ in await _calendars():
        async for found in await client.list_schedules():
            info, state = found.info, found.schedule.state if found.schedule else None
            following = info.next_action_times if info else []
            rows.append(
                {
                    "namespace": namespace,
                    "schedule": found.id,
                    "state": "paused" if state and state.paused else "active",
                    "next": f"{following[0]:%Y-%m-%d %H:%M:%SZ}" if following else "-",
                    "note": (state.note or "") if state else "",
                }
            )
    return rows


async def _calendars() -> list[tuple[str, Client, list[Planned]]]:
    """The control plane's calendar, and that of each region that is set up in this home."""
    found = [("default", await control_client(), calendar())]
    for region in known_regions():
        addresses = load_region(region)
        if addresses.backup is not None:
            config = load_config(addresses.config.read_text())
            client = await region_client(region)
            found.append((region, client, region_calendar(region, config)))
    return found
