"""`chainring production`: a commit to the whole fleet, as one process."""

import asyncio
from typing import Annotated

import typer
from rich.markup import escape
from temporalio.client import WorkflowExecutionStatus

from models.build import BuildRequest
from models.production import (
    ProductionRequest,
    ProductionState,
    ProductionStatus,
    RolloutOptions,
)
from models.rollout import Decision
from workers.cli.build import workflow_prefix
from workers.cli.output import NEGATIVE, console, emit_json, emit_table
from workers.cli.rollout import overrides_of
from workers.cli.temporal import control_client, next_id, run
from workers.settings import load_control

app = typer.Typer(help="Build, verify and roll a commit out as one process.", no_args_is_help=True)

POLL_SECONDS = 0.5
_OVER = frozenset({ProductionState.COMPLETED, ProductionState.FAILED, ProductionState.GIVEN_UP})

IdArg = Annotated[str, typer.Argument(help="workflow id, such as production/web-1a2b3c4d5e6f/1")]
ActorOpt = Annotated[str, typer.Option(help="who decides; kept in the receipt")]
ReasonOpt = Annotated[str, typer.Option(help="why; kept in the receipt")]


@app.command()
def start(
    repository: Annotated[str, typer.Argument(help="absolute path, or URL: file, ssh, https")],
    commit: Annotated[str, typer.Argument(help="all 40 hex digits")],
    ref: Annotated[
        str | None, typer.Option(help="full name; the commit must be reachable from it")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the rollout, this time only")
    ] = None,
    actor: ActorOpt = "operator",
    reason: ReasonOpt = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="watch until it ends")] = True,
) -> None:
    """Take a commit to the fleet. Exit code 1 when it is not there at the end.

    Example: chainring production start /srv/git/web 1a2b... --ref refs/heads/main --actor ana
    """
    request = ProductionRequest(
        build=BuildRequest(
            repository=repository, commit=commit, ref=ref, actor=actor, reason=reason
        ),
        rollout=RolloutOptions(overrides=overrides_of(overrides or [])),
        actor=actor,
        reason=reason,
    )
    started = run(_start(request))
    console.print(f"started [bold]{started}[/bold]", highlight=False)
    if wait:
        watch(started)


@app.command()
def watch(production: IdArg) -> None:
    """Follow it until it ends or holds for a person."""
    status = run(_watch(production))
    _print(status)
    if status.state is not ProductionState.COMPLETED:
        raise typer.Exit(NEGATIVE)


@app.command()
def status(
    production: IdArg, as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False
) -> None:
    """Show which step it is at, and how the ones before it went."""
    found = run(_status(production))
    if as_json:
        emit_json(found.model_dump(mode="json"))
    else:
        _print(found)


@app.command()
def retry(production: IdArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Try the failed step again: what it needs has been mended."""
    _print(run(_decide(production, "retry", Decision(actor=actor, reason=reason))))


@app.command("give-up")
def give_up(production: IdArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """End it at the failed step."""
    _print(run(_decide(production, "give_up", Decision(actor=actor, reason=reason))))


def _print(status: ProductionStatus) -> None:
    title = f"{status.name} {status.version}".strip()
    console.print(f"[bold]{status.id}[/bold] {title}: {status.state}", highlight=False)
    if status.why:
        console.print(escape(status.why), highlight=False)
    rows = [
        (each.step, each.attempt, each.workflow or "-", each.outcome or "...")
        for each in status.steps
    ]
    emit_table(["step", "attempt", "by", "outcome"], rows)


async def _start(request: ProductionRequest) -> str:
    client = await control_client()
    prefix = workflow_prefix(request.build).replace("build/", "production/", 1)
    workflow_id = await next_id(client, "ReleaseToProduction", prefix)
    queue = load_control().temporal.task_queue
    await client.start_workflow("ReleaseToProduction", request, id=workflow_id, task_queue=queue)
    return workflow_id


async def _status(workflow_id: str) -> ProductionStatus:
    handle = (await control_client()).get_workflow_handle(workflow_id)
    found: ProductionStatus = await handle.query("status", result_type=ProductionStatus)
    return found


async def _watch(workflow_id: str) -> ProductionStatus:
    said = ""
    while True:
        status = await _status(workflow_id)
        line = f"{status.state}  {status.why}"
        if line != said:
            console.print(escape(line), highlight=False)
            said = line
        if status.state in _OVER or status.state is ProductionState.HOLDING:
            return status
        handle = (await control_client()).get_workflow_handle(workflow_id)
        if (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
            await handle.result()  # it failed or was terminated: this raises, and says why
        await asyncio.sleep(POLL_SECONDS)


async def _decide(workflow_id: str, update: str, decision: Decision) -> ProductionStatus:
    handle = (await control_client()).get_workflow_handle(workflow_id)
    status: ProductionStatus = await handle.execute_update(
        update, decision, result_type=ProductionStatus
    )
    return status
