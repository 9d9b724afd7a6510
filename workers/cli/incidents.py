"""`chainring incidents`: running releases that do not stand any more."""

from typing import Annotated

import typer
from rich.markup import escape

from models.incident import IncidentStatus, RejudgeReport, RejudgeRequest
from models.rollout import Decision
from workers.cli.output import NEGATIVE, console, emit_json, emit_table
from workers.cli.temporal import control_client, next_id, run
from workers.settings import load_control

app = typer.Typer(
    help="Judge what runs by what is known today; see and decide incidents.", no_args_is_help=True
)

IdArg = Annotated[str, typer.Argument(help="workflow id, such as incident/37242a59eb91/0b1c2d3e")]
ActorOpt = Annotated[str, typer.Option(help="who decides; kept in the receipt")]
ReasonOpt = Annotated[str, typer.Option(help="why; kept in the receipt")]
JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]


@app.command()
def rejudge(
    actor: ActorOpt = "operator", reason: ReasonOpt = "by hand", as_json: JsonOpt = False
) -> None:
    """Judge every deployed release again. Exit code 1 when one of them does not stand."""
    report = run(_rejudge(RejudgeRequest(actor=actor, reason=reason)))
    if as_json:
        emit_json(report.model_dump(mode="json"))
    else:
        console.print(f"{report.standing} of {report.judged} deployed releases stand")
        for line in (*report.incidents, *report.overridden):
            console.print(f"  {escape(line)}", highlight=False)
        for region in report.unseen:
            console.print(f"  {region} did not answer: judged by its last known catalog")
    if report.incidents:
        raise typer.Exit(NEGATIVE)


@app.command("list")
def list_incidents(as_json: JsonOpt = False) -> None:
    """List the incidents that nobody has closed."""
    found = run(_open())
    if as_json:
        emit_json([status.model_dump(mode="json") for status in found])
        return
    rows = [
        (
            status.id,
            status.state,
            f"{status.request.deployed.name} {status.request.deployed.version}",
            sum(status.request.deployed.shards.values()),
            status.request.why,
        )
        for status in found
    ]
    emit_table(["incident", "state", "release", "shards", "why"], rows)


@app.command()
def acknowledge(incident: IdArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Say that you are looking at it."""
    _decide(incident, "acknowledge", Decision(actor=actor, reason=reason))


@app.command("accept-rollback")
def accept_rollback(incident: IdArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Roll the proposed earlier release out."""
    _decide(incident, "accept_rollback", Decision(actor=actor, reason=reason))


@app.command()
def close(incident: IdArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Close it by your own responsibility; the same cause opens no second one."""
    _decide(incident, "close", Decision(actor=actor, reason=reason))


async def _rejudge(request: RejudgeRequest) -> RejudgeReport:
    client = await control_client()
    workflow_id = await next_id(client, "RejudgeDeployments", "rejudge/by-hand")
    report: RejudgeReport = await client.execute_workflow(
        "RejudgeDeployments",
        request,
        id=workflow_id,
        task_queue=load_control().temporal.task_queue,
        result_type=RejudgeReport,
    )
    return report


async def _open() -> list[IncidentStatus]:
    client = await control_client()
    query = 'WorkflowType = "Incident" AND ExecutionStatus = "Running"'
    return [
        await client.get_workflow_handle(found.id).query("status", result_type=IncidentStatus)
        async for found in client.list_workflows(query)
    ]


def _decide(incident: str, update: str, decision: Decision) -> None:
    status = run(_update(incident, update, decision))
    tail = f", by {status.rollback}" if status.rollback else ""
    console.print(f"{incident}: {status.state}{tail}", highlight=False)


async def _update(incident: str, update: str, decision: Decision) -> IncidentStatus:
    handle = (await control_client()).get_workflow_handle(incident)
    status: IncidentStatus = await handle.execute_update(
        update, decision, result_type=IncidentStatus
    )
    return status
