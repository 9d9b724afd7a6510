"""`chainring restore`: bring a region's store back, beside the live one, and decide about gaps."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from models.recovery import GapDecision, RestoreRequest, RestoreStatus
from models.restore import Goal
from workers.cli.output import NEGATIVE, OK, USAGE, emit_json, emit_table, fail
from workers.cli.recovery_runs import Run, begin, decided, settled, standing
from workers.cli.restore_tenant import (
    tenant,
    tenant_apply,
    tenant_give_up,
    tenant_status,
    tenant_verify,
)
from workers.cli.temporal import run

app = typer.Typer(help="Restore a region's store from its backup.", no_args_is_help=True)

JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]
RegionArg = Annotated[str, typer.Argument(help="the region's code, such as eu")]
IdArg = Annotated[str, typer.Argument(help="workflow id, such as restore/eu/1")]
ActorOpt = Annotated[str, typer.Option(help="who decides; kept in the receipt")]
ReasonOpt = Annotated[str, typer.Option(help="why; kept in the receipt")]

for command in (tenant, tenant_status, tenant_apply, tenant_give_up, tenant_verify):
    app.command()(command)

GOOD = ("published", "proved")
OVER = (*GOOD, "given up", "failed")


@app.command()
def start(
    region: RegionArg,
    actor: ActorOpt,
    reason: ReasonOpt,
    to_seq: Annotated[int | None, typer.Option(help="after this change")] = None,
    to_time: Annotated[
        datetime | None, typer.Option(help="after the last change until then, UTC")
    ] = None,
    to_receipt: Annotated[int | None, typer.Option(help="right after this receipt")] = None,
    store: Annotated[str | None, typer.Option(help="whose backup; the primary's")] = None,
    head: Annotated[
        Path | None, typer.Option(help="file of the signed head to reach; the witnessed one")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="prove it and throw it away; nothing changes")
    ] = False,
    wait: Annotated[bool, typer.Option(help="wait for the end, or for a decision")] = True,
    as_json: JsonOpt = False,
) -> None:
    """Restore to the signed head, or to a change, a time or a receipt.

    Exit code 1 when it did not get there or waits for a decision about a gap.
    Example: chainring restore start eu --actor ana --reason "disk lost"
    """
    if to_time is not None and to_time.tzinfo is None:
        to_time = to_time.replace(tzinfo=UTC)
    request = RestoreRequest(
        goal=Goal(seq=to_seq, at=to_time, receipt=to_receipt),
        store=store,
        head=_read(head),
        dry_run=dry_run,
        actor=actor,
        reason=reason,
    )
    _show(run(_start(region, request, wait)), as_json)


@app.command()
def status(region: RegionArg, workflow: IdArg, as_json: JsonOpt = False) -> None:
    """How far a restore is, and what it has proved."""
    _show(run(standing(region, workflow, RestoreStatus)), as_json)


@app.command("accept-gap")
def accept_gap(
    region: RegionArg, workflow: IdArg, actor: ActorOpt, reason: ReasonOpt, as_json: JsonOpt = False
) -> None:
    """Publish a restore although changes are missing; receipt and report name them.

    Example: chainring restore accept-gap eu restore/eu/1 --actor ana --reason "bucket lost them"
    """
    decision = GapDecision(actor=actor, reason=reason)
    _show(run(decided(region, workflow, "accept_gap", decision, RestoreStatus, OVER)), as_json)


@app.command("give-up")
def give_up(
    region: RegionArg, workflow: IdArg, actor: ActorOpt, reason: ReasonOpt, as_json: JsonOpt = False
) -> None:
    """Publish nothing; what was built is thrown away."""
    decision = GapDecision(actor=actor, reason=reason)
    _show(run(decided(region, workflow, "give_up", decision, RestoreStatus, OVER)), as_json)


def _read(path: Path | None) -> str | None:
    try:
        return None if path is None else path.read_text()
    except OSError as error:
        fail(f"head: {path}: {error.strerror}", USAGE)


async def _start(region: str, request: RestoreRequest, wait: bool) -> Run[RestoreStatus]:
    prefix = f"restore/{region}"
    handle = await begin(region, "RestoreRegion", prefix, request, RestoreStatus)
    if wait:
        return await settled(handle, RestoreStatus, OVER)
    return await standing(region, handle.id, RestoreStatus)


def _show(found: Run[RestoreStatus], as_json: bool) -> None:
    workflow, status = found
    if as_json:
        emit_json({"workflow": workflow, **status.model_dump(mode="json")})
    else:
        rows = [["workflow", workflow], ["state", status.state], ["why", status.why or "-"]]
        if (report := status.report) is not None:
            rows += [
                ["reached", f"change {report.reached_seq} of {report.target_seq}"],
                ["signed head", str(report.expected_seq)],
                ["documents", str(report.documents)],
                ["changes replayed", str(report.changes_applied)],
                ["receipts", str(report.receipts)],
                ["erased", str(report.erased)],
                ["state root", report.state_root],
            ]
            rows += [[phase.name, f"{phase.seconds:.2f} s"] for phase in report.phases]
            rows += [[each.where, each.what] for each in report.findings]
        if status.published is not None:
            rows.append(
                ["primary now", f"{status.published.store} (epoch {status.published.epoch})"]
            )
        if status.certificate:
            rows.append(["certificate", status.certificate])
        if status.incident:
            rows.append(["incident", status.incident])
        emit_table(["what", "value"], rows)
    raise typer.Exit(OK if status.state in GOOD else NEGATIVE)
