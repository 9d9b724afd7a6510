"""Commands of `chainring recovery` that talk to a region: rehearse, and decide about incidents."""

from typing import Annotated, Literal

import typer

from models.drill import DrillRequest, DrillStatus
from models.incident import IncidentState
from models.recovery_incident import RecoveryIncidentStatus
from models.rollout import Decision
from workers.cli.output import NEGATIVE, OK, console, emit_json, emit_table
from workers.cli.recovery_runs import Run, begin, ended
from workers.cli.temporal import region_client, run

RegionArg = Annotated[str, typer.Argument(help="the region's code, such as eu")]
IdArg = Annotated[
    str, typer.Argument(help="workflow id, such as incident/eu/drill-failed/0b1c2d3e")
]
ActorOpt = Annotated[str, typer.Option(help="who decides; kept in the receipt")]
ReasonOpt = Annotated[str, typer.Option(help="why; kept in the receipt")]
JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]


def drill(
    region: RegionArg,
    actor: ActorOpt,
    reason: ReasonOpt,
    kind: Annotated[
        Literal["weekly", "monthly", "yearly"],
        typer.Option(help="newest snapshot, oldest snapshot, or from the backup alone"),
    ] = "weekly",
    as_json: JsonOpt = False,
) -> None:
    """Restore a region's backup on the side, certify it, and throw it away.

    Exit code 1 when it did not get there, or took longer than the SLAs allow.
    Example: chainring recovery drill eu --actor ana --reason "new disks" --kind monthly
    """
    request = DrillRequest(kind=kind, actor=actor, reason=reason)
    workflow, status = run(_drill(region, request))
    if as_json:
        emit_json({"workflow": workflow, **status.model_dump(mode="json")})
    else:
        emit_table(["what", "value"], _rows(workflow, status))
    kept = status.state == "proved" and not (status.result and status.result.misses)
    raise typer.Exit(OK if kept else NEGATIVE)


def list_incidents(region: RegionArg, as_json: JsonOpt = False) -> None:
    """List the incidents of a region's recovery that nobody has resolved. Exit code 1: some."""
    found = run(_open(region))
    if as_json:
        emit_json([status.model_dump(mode="json") for status in found])
    else:
        rows = [
            (each.id, each.state, each.request.kind, each.seen, each.request.why) for each in found
        ]
        emit_table(["incident", "state", "kind", "seen", "why"], rows)
    if found:
        raise typer.Exit(NEGATIVE)


def acknowledge(region: RegionArg, incident: IdArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Say that you are looking at an incident."""
    _decide(region, incident, "acknowledge", Decision(actor=actor, reason=reason))


def resolve(region: RegionArg, incident: IdArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """End an incident by your own responsibility; seen again, its cause opens a new one."""
    _decide(region, incident, "resolve", Decision(actor=actor, reason=reason))


def _decide(region: str, incident: str, update: str, decision: Decision) -> None:
    status = run(_update(region, incident, update, decision))
    console.print(f"{incident}: {status.state}", highlight=False)


async def _drill(region: str, request: DrillRequest) -> Run[DrillStatus]:
    prefix = f"drill/{region}"
    handle = await begin(region, "RecoveryDrill", prefix, request, DrillStatus)
    return await ended(region, handle, DrillStatus)


async def _open(region: str) -> list[RecoveryIncidentStatus]:
    client = await region_client(region)
    query = 'WorkflowType = "RecoveryIncident" AND ExecutionStatus = "Running"'
    found = [
        await client.get_workflow_handle(each.id).query(
            "status", result_type=RecoveryIncidentStatus
        )
        async for each in client.list_workflows(query)
    ]
    return [each for each in found if each.state is not IncidentState.CLOSED]


async def _update(
    region: str, incident: str, update: str, decision: Decision
) -> RecoveryIncidentStatus:
    handle = (await region_client(region)).get_workflow_handle(incident)
    status: RecoveryIncidentStatus = await handle.execute_update(
        update, decision, result_type=RecoveryIncidentStatus
    )
    return status


def _rows(workflow: str, status: DrillStatus) -> list[list[str]]:
    rows = [["workflow", workflow], ["state", status.state], ["why", status.why or "-"]]
    if (result := status.result) is not None:
        report, same = result.report, result.compared.same
        compared = "same state root" if same else result.compared.why
        rows += [
            ["reached", f"change {report.reached_seq} of {report.target_seq}"],
            ["snapshot", f"after change {report.base_seq}"],
            ["documents", str(report.documents)],
            ["live store", compared],
            ["took", f"{result.seconds:.2f} s"],
            *([phase.name, f"{phase.seconds:.2f} s"] for phase in report.phases),
            *(["made of", each] for each in result.used),
            *(["fault", each] for each in result.faults),
            *(["SLA missed", each] for each in result.misses),
            ["certificate", result.path or "-"],
        ]
    return rows + [["incident", each] for each in status.incidents]
