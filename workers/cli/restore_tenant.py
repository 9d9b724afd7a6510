"""`chainring restore tenant`: one tenant out of the backup, into quarantine or in its place."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from models.recovery import GapDecision
from models.restore import Goal
from models.tenant_restore import TenantRequest, TenantStatus
from models.verifier import Refused
from stores.quarantine import verify_copy
from workers.cli.certificate import Keys, read_keys
from workers.cli.output import NEGATIVE, OK, USAGE, emit_json, emit_table, fail
from workers.cli.recovery_runs import Run, begin, decided, settled, standing
from workers.cli.temporal import run

JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]
RegionArg = Annotated[str, typer.Argument(help="the region's code, such as eu")]
IdArg = Annotated[str, typer.Argument(help="workflow id, such as restore-tenant/eu/acme/1")]
ActorOpt = Annotated[str, typer.Option(help="who decides; kept in the receipt")]
ReasonOpt = Annotated[str, typer.Option(help="why; kept in the receipt")]

GOOD = ("in quarantine", "compared", "restored")
OVER = (*GOOD, "erased", "given up", "failed")


def tenant(
    region: RegionArg,
    tenant: Annotated[str, typer.Argument(help="the tenant's id")],
    actor: ActorOpt,
    reason: ReasonOpt,
    to_time: Annotated[
        datetime | None, typer.Option(help="after the last change until then, UTC")
    ] = None,
    to_seq: Annotated[int | None, typer.Option(help="after this change")] = None,
    to_receipt: Annotated[int | None, typer.Option(help="right after this receipt")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="compare, and wait for `tenant-apply`")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show what differs; nothing is kept or written")
    ] = False,
    store: Annotated[str | None, typer.Option(help="whose backup; the primary's")] = None,
    wait: Annotated[bool, typer.Option(help="wait for the end, or for a decision")] = True,
    as_json: JsonOpt = False,
) -> None:
    """Restore one tenant alone: into quarantine, or in place where that is asked for.

    Exit code 1 when there is nothing to read, or it waits for a decision.
    Example: chainring restore tenant eu acme --actor ana --reason "deleted by mistake" --in-place
    """
    if to_time is not None and to_time.tzinfo is None:
        to_time = to_time.replace(tzinfo=UTC)
    request = TenantRequest(
        tenant=tenant,
        goal=Goal(seq=to_seq, at=to_time, receipt=to_receipt),
        store=store,
        in_place=in_place,
        dry_run=dry_run,
        actor=actor,
        reason=reason,
    )
    _show(run(_start(region, request, wait)), as_json)


def tenant_status(region: RegionArg, workflow: IdArg, as_json: JsonOpt = False) -> None:
    """How far a tenant's restore is."""
    _show(run(standing(region, workflow, TenantStatus)), as_json)


def tenant_apply(
    region: RegionArg, workflow: IdArg, actor: ActorOpt, reason: ReasonOpt, as_json: JsonOpt = False
) -> None:
    """Write what differs into the live tenant; keys written since are left, and named.

    Example: chainring restore tenant-apply eu restore-tenant/eu/acme/1 --actor ana --reason agreed
    """
    decision = GapDecision(actor=actor, reason=reason)
    _show(run(decided(region, workflow, "apply", decision, TenantStatus, OVER)), as_json)


def tenant_give_up(
    region: RegionArg, workflow: IdArg, actor: ActorOpt, reason: ReasonOpt, as_json: JsonOpt = False
) -> None:
    """Write nothing; the copy is thrown away."""
    decision = GapDecision(actor=actor, reason=reason)
    _show(run(decided(region, workflow, "give_up", decision, TenantStatus, OVER)), as_json)


def tenant_verify(
    directory: Annotated[Path, typer.Argument(help="a tenant's copy in quarantine")],
    key: Keys,
    as_json: JsonOpt = False,
) -> None:
    """Verify a copy by its files and public keys alone.

    Example: chainring restore tenant-verify quarantine/acme/0f...e1 --key eu.vkey
    """
    try:
        said = verify_copy(directory, read_keys(key)).predicate
    except Refused as refusal:
        fail(f"NOT VERIFIED: {refusal}", NEGATIVE)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", USAGE)
    if as_json:
        emit_json(said.model_dump(mode="json"))
        return
    report = said.report
    rows = [
        ["tenant", f"{report.tenant} of {report.region}"],
        ["keys", f"{report.keys}, {report.bytes} bytes"],
        ["as of", f"change {report.reached_seq} of store {report.source_store}"],
        ["last change", str(report.last_change_at or "-")],
        ["state root", report.state_root],
        ["made for", f"{said.actor}: {said.reason}"],
    ]
    emit_table(["verified", "value"], rows)


async def _start(region: str, request: TenantRequest, wait: bool) -> Run[TenantStatus]:
    prefix = f"restore-tenant/{region}/{request.tenant}"
    handle = await begin(region, "RestoreTenant", prefix, request, TenantStatus)
    if wait:
        return await settled(handle, TenantStatus, OVER)
    return await standing(region, handle.id, TenantStatus)


def _show(found: Run[TenantStatus], as_json: bool) -> None:
    workflow, status = found
    if as_json:
        emit_json({"workflow": workflow, **status.model_dump(mode="json")})
    else:
        emit_table(["what", "value"], [["workflow", workflow], *_rows(status)])
    raise typer.Exit(OK if status.state in GOOD else NEGATIVE)


def _rows(status: TenantStatus) -> list[list[str]]:
    rows = [["state", status.state], ["why", status.why or "-"]]
    if (copied := status.copied) is not None:
        report = copied.report
        rows += [
            ["as of", f"change {report.reached_seq} of {report.target_seq}"],
            ["keys", f"{report.keys}, {report.bytes} bytes"],
            ["copy", copied.directory or "-"],
        ]
        rows += [[each.where, each.what] for each in report.findings]
    if (comparison := status.comparison) is not None:
        rows += [
            ["to put", str(comparison.put)],
            ["to remove", str(comparison.remove)],
            ["the same", str(comparison.same)],
        ]
        rows += [["", each] for each in comparison.first]
    if (applied := status.applied) is not None:
        rows += [
            ["put", str(applied.put)],
            ["removed", str(applied.removed)],
            ["conflicts", str(applied.conflicts)],
        ]
        rows += [["conflict", each] for each in applied.first_conflicts]
    return rows
