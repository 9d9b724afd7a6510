"""`chainring breakglass`: let a refused release through, with two people and an end."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from models.break_glass import BreakGlassRequest, BreakGlassStatus
from models.ids import CONTROL_LEDGER, short
from models.rollout import Decision
from stores.ledger import Ledger
from stores.oci import ReleaseError
from stores.overrides import OverrideStore
from stores.sql import open_engine
from workers.cli.output import USAGE, console, emit_json, emit_table, fail
from workers.cli.temporal import control_client, next_id, run
from workers.release_store import open_releases
from workers.settings import load_control

app = typer.Typer(
    help="Let a release through that verification refuses: two people, a reason, an end.",
    no_args_is_help=True,
)

IdArg = Annotated[str, typer.Argument(help="workflow id, such as breakglass/37242a59eb91/1")]
ActorOpt = Annotated[str, typer.Option(help="who decides; kept in the receipt")]
ReasonOpt = Annotated[str, typer.Option(help="why; kept in the receipt")]


@app.command("open")
def open_(
    release: Annotated[str, typer.Argument(help="name:version or sha256:... digest")],
    actor: ActorOpt,
    reason: ReasonOpt,
    minutes: Annotated[int, typer.Option(help="how long it is in force, from approval on")] = 60,
) -> None:
    """Ask for an override; nothing is let through until another person approves.

    Example: chainring breakglass open catalog:1.4.0 --actor ana --reason "fix for incident 12"
    """
    addresses = load_control()
    try:
        digest = open_releases(addresses).resolve(release)
    except ReleaseError as error:
        fail(str(error), USAGE)
    request = BreakGlassRequest(release=digest, actor=actor, reason=reason, minutes=minutes)
    opened = run(_open(request))
    console.print(f"opened {opened}; now another person says:", highlight=False)
    console.print(f"  chainring breakglass approve {opened} --actor ... --reason ...")


@app.command()
def approve(break_glass: IdArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """The second person's word: in force from now on, and over by itself."""
    _say(run(_decide(break_glass, "approve", Decision(actor=actor, reason=reason))))


@app.command()
def revoke(break_glass: IdArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """End it at once; one person is enough."""
    _say(run(_decide(break_glass, "revoke", Decision(actor=actor, reason=reason))))


@app.command("list")
def list_in_force(
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """List the overrides that are in force now."""
    engine = open_engine(load_control().database)
    store = OverrideStore(engine, Ledger(engine, CONTROL_LEDGER))
    found = store.in_force(datetime.now(UTC))
    if as_json:
        emit_json([override.model_dump(mode="json") for override in found])
        return
    rows = [
        (
            each.id,
            short(each.release),
            f"{each.expires:%Y-%m-%d %H:%M:%SZ}",
            each.opened_by,
            each.approved_by,
            each.reason,
        )
        for each in found
    ]
    emit_table(["id", "release", "until", "opened by", "approved by", "reason"], rows)


async def _open(request: BreakGlassRequest) -> str:
    client = await control_client()
    workflow_id = await next_id(client, "BreakGlass", f"breakglass/{short(request.release)}")
    queue = load_control().temporal.task_queue
    await client.start_workflow("BreakGlass", request, id=workflow_id, task_queue=queue)
    return workflow_id


async def _decide(workflow_id: str, update: str, decision: Decision) -> BreakGlassStatus:
    handle = (await control_client()).get_workflow_handle(workflow_id)
    status: BreakGlassStatus = await handle.execute_update(
        update, decision, result_type=BreakGlassStatus
    )
    return status


def _say(status: BreakGlassStatus) -> None:
    until = "" if status.deadline is None else f" until {status.deadline:%Y-%m-%d %H:%M:%SZ}"
    console.print(f"{status.id}: {status.state}{until}", highlight=False)
