"""`chainring failover`: keep a region's tenants writing while its store is brought back."""

from typing import Annotated

import typer
from temporalio.client import WorkflowHandle

from activities.watching import start_failover
from models.recovery import FailOverRequest, FailOverStatus
from workers.cli.output import NEGATIVE, OK, emit_json, emit_table, errors
from workers.cli.recovery_runs import Run, ended, standing
from workers.cli.temporal import region_client, run
from workers.temporal_setup import RECOVERY_QUEUE

app = typer.Typer(help="Fail a region's store over, and back.", no_args_is_help=True)

JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]
RegionArg = Annotated[str, typer.Argument(help="the region's code, such as eu")]


@app.command()
def start(
    region: RegionArg,
    actor: Annotated[str, typer.Option(help="who decides; kept in the receipt")],
    reason: Annotated[str, typer.Option(help="why; kept in the receipt")],
    wait: Annotated[bool, typer.Option(help="wait for the end")] = True,
    as_json: JsonOpt = False,
) -> None:
    """Buffer the tenants' writes, restore the store, drain the buffer into it, go on.

    Exit code 1 when the region stays in buffered mode. A gap waits for a person as in a restore.
    Example: chainring failover start eu --actor ana --reason "disk lost"
    """
    request = FailOverRequest(actor=actor, reason=reason)
    _show(run(_start(region, request, wait)), as_json)


@app.command()
def status(
    region: RegionArg,
    workflow: Annotated[str, typer.Argument(help="workflow id, such as failover/eu/1")],
    as_json: JsonOpt = False,
) -> None:
    """How far a failover is."""
    _show(run(standing(region, workflow, FailOverStatus)), as_json)


async def _start(region: str, request: FailOverRequest, wait: bool) -> Run[FailOverStatus]:
    client = await region_client(region)
    started = await start_failover(client, RECOVERY_QUEUE, request)
    if started.found:
        errors.print(f"{started.workflow} runs already: it is followed", highlight=False)
    handle: WorkflowHandle[object, FailOverStatus] = client.get_workflow_handle(
        started.workflow, result_type=FailOverStatus
    )
    if wait:
        return await ended(region, handle, FailOverStatus)
    return await standing(region, handle.id, FailOverStatus)


def _show(found: Run[FailOverStatus], as_json: bool) -> None:
    workflow, status = found
    if as_json:
        emit_json({"workflow": workflow, **status.model_dump(mode="json")})
    else:
        rows = [["workflow", workflow], ["state", status.state], ["why", status.why or "-"]]
        if status.restore is not None:
            rows += [["restore", status.restore.state], ["certificate", status.restore.certificate]]
        if (drained := status.drained) is not None:
            rows += [
                ["acknowledged meanwhile", str(drained.acknowledged)],
                ["applied", str(drained.applied)],
                ["conflicts", str(drained.conflicts)],
                ["pending", str(drained.pending)],
            ]
        if status.incident:
            rows.append(["incident", status.incident])
        emit_table(["what", "value"], rows)
    raise typer.Exit(OK if status.state == "normal" else NEGATIVE)
