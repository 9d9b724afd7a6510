"""`chainring recovery watch` and what goes with it: who looks after a region's primary."""

from typing import Annotated

import typer
from temporalio.client import Client

from models.probe import Probe
from models.watch import Decision, WatchStatus
from workers.cli.output import NEGATIVE, OK, console, emit_json, emit_table
from workers.cli.temporal import region_client, run
from workers.settings import SettingsError, load_region
from workers.watch import ensure_watch, watch_id

JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]
RegionArg = Annotated[str, typer.Argument(help="the region's code, such as eu")]
ActorOpt = Annotated[str, typer.Option(help="who decides")]
ReasonOpt = Annotated[str, typer.Option(help="why")]


def watch(region: RegionArg) -> None:
    """Have the region's primary watched from now on; does nothing where that is so.

    Example: chainring recovery watch eu
    """
    started = run(_watch(region))
    console.print(f"{watch_id(region)} {'was started' if started else 'runs already'}")


def watched(region: RegionArg, as_json: JsonOpt = False) -> None:
    """What the watch of a region has found. Exit code 1 unless it watches and nothing stands."""
    status, newest = run(_watched(region))
    last = newest or status.last
    if as_json:
        emit_json({**status.model_dump(mode="json"), "last": last and last.model_dump(mode="json")})
    else:
        rows = [["state", status.state], ["since", f"{status.since:%Y-%m-%d %H:%M:%S}Z"]]
        rows += [["why", status.why or "-"], ["newest failover", status.failover or "-"]]
        if last is not None:
            said = f"{last.at:%H:%M:%S} {last.outcome}, read in {last.seconds:.3f} s {last.why}"
            rows.append(["last probe", said])
        emit_table(["what", "value"], rows)
    raise typer.Exit(OK if status.state == "watching" and status.verdict is None else NEGATIVE)


def pause(region: RegionArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Stop watching, as for work on the store: nothing fails over by itself until `resume`.

    Example: chainring recovery pause eu --actor ana --reason "moving the disk"
    """
    run(_decide(region, "pause", Decision(actor=actor, reason=reason)))


def resume(region: RegionArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Watch again."""
    run(_decide(region, "resume", Decision(actor=actor, reason=reason)))


async def _watch(region: str) -> bool:
    if load_region(region).recovery is None:
        raise SettingsError(f"region {region}: its addresses name no `recovery` directory")
    return await ensure_watch(await region_client(region), region)


async def _watched(region: str) -> tuple[WatchStatus, Probe | None]:
    client = await region_client(region)
    handle = client.get_workflow_handle(watch_id(region))
    status: WatchStatus = await handle.query("status", result_type=WatchStatus)
    return status, await _newest_probe(client, region)


async def _newest_probe(client: Client, region: str) -> Probe | None:
    """The heartbeat of the activity that probes."""
    described = await client.get_workflow_handle(watch_id(region)).describe()
    for pending in described.raw_description.pending_activities:
        payloads = pending.heartbeat_details.payloads
        if pending.activity_type.name == "watch_store" and payloads:
            (found,) = await client.data_converter.decode(payloads)
            return None if found is None else Probe.model_validate(found)
    return None


async def _decide(region: str, update: str, decision: Decision) -> None:
    client = await region_client(region)
    await client.get_workflow_handle(watch_id(region)).execute_update(update, decision)
