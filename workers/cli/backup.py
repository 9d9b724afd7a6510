"""`chainring backup`: what is kept of a region outside its store, and a snapshot by hand."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from models.prune import PruneRequest, PruneStatus
from models.recovery import SnapshotReport, SnapshotRequest
from models.validation import ValidateRequest, ValidationKind, ValidationStatus
from models.verifier import Refused
from stores.backup_layout import manifests, segments, stores
from stores.keys import KeyFileError, load_key
from stores.objects import ObjectError
from stores.witness import Witness, open_head
from workers.backup_places import open_objects
from workers.cli.output import NEGATIVE, UNREACHABLE, emit_json, emit_table, fail
from workers.cli.recovery_runs import begin, ended
from workers.cli.temporal import run
from workers.settings import load_region, primary_pointer

app = typer.Typer(help="Backups of the regions' stores.", no_args_is_help=True)

JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]
RegionArg = Annotated[str, typer.Argument(help="the region's code, such as eu")]


@app.command()
def status(region: RegionArg, as_json: JsonOpt = False) -> None:
    """Each store's snapshots, how far its changelog is shipped, and the head that is witnessed.

    Exit code 1 when the primary has no snapshot, or its backup is behind the witnessed head.
    Example: chainring backup status eu
    """
    addresses = load_region(region)
    if addresses.backup is None:
        fail(f"region {region}: its addresses name no backup", UNREACHABLE)
    primary = primary_pointer(region).read()
    objects, rows = open_objects(addresses.backup), []
    try:
        keys = load_key(addresses.signing_key).trusted(region)
        for store in stores(objects, region):
            snapshots = list(manifests(objects, region, store))
            shipped = max((each.last for each in segments(objects, region, store)), default=0)
            note = Witness(addresses.backup.witness).head(region, store)
            newest = snapshots[-1] if snapshots else None
            rows.append(
                {
                    "store": store,
                    "primary": primary is not None and primary.store == store,
                    "snapshots": len(snapshots),
                    "newest_snapshot_seq": newest.seq if newest else None,
                    "newest_snapshot_at": newest.object.created.isoformat() if newest else None,
                    "shipped_seq": max(shipped, newest.seq if newest else 0),
                    "head_seq": open_head(note, keys).size if note else None,
                }
            )
    except (ObjectError, KeyFileError, Refused) as error:
        fail(str(error), UNREACHABLE)
    if as_json:
        emit_json({"region": region, "at": datetime.now(UTC).isoformat(), "stores": rows})
    elif rows:
        emit_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    ours = [row for row in rows if row["primary"]]
    behind = any(int(str(r["shipped_seq"])) < int(str(r["head_seq"] or 0)) for r in ours)
    if not ours or behind or not all(row["snapshots"] for row in ours):
        raise typer.Exit(NEGATIVE)


@app.command()
def snapshot(
    region: RegionArg,
    reason: Annotated[str, typer.Option(help="why; shown in the workflow")] = "by hand",
    as_json: JsonOpt = False,
) -> None:
    """Snapshot a region's store now, and prove that it is what was signed.

    Example: chainring backup snapshot eu
    """
    report = run(_snapshot(region, SnapshotRequest(reason=reason)))
    found = report.model_dump(mode="json")
    if as_json:
        emit_json(found)
    else:
        emit_table(["what", "value"], [[name, str(value)] for name, value in found.items()])


@app.command()
def validate(
    region: RegionArg,
    actor: Annotated[str, typer.Option(help="who asks; kept in the receipt")] = "operator",
    reason: Annotated[str, typer.Option(help="why; kept in the receipt")] = "by hand",
    sample: Annotated[
        bool, typer.Option("--sample", help="restore a random sample instead")
    ] = False,
    as_json: JsonOpt = False,
) -> None:
    """Read every object of a region's backup, and replace what is bad. Exit code 1: some is.

    Example: chainring backup validate eu --sample
    """
    kind: ValidationKind = "sample" if sample else "rotation"
    request = ValidateRequest(kind=kind, everything=True, actor=actor, reason=reason)
    status = run(_validate(region, request))
    if as_json:
        emit_json(status.model_dump(mode="json"))
    else:
        emit_table(["what", "value"], _validation_rows(status))
    if status.state != "sound":
        raise typer.Exit(NEGATIVE)


def _validation_rows(status: ValidationStatus) -> list[list[str]]:
    rows = [["state", status.state], ["why", status.why or "-"]]
    if (report := status.report) is not None:
        rows += [["objects read", str(report.objects)], ["bad before", str(report.known)]]
        if report.of_documents:
            rows.append(["documents restored", f"{report.documents} of {report.of_documents}"])
        rows += [["bad", str(each)] for each in report.bad]
    rows += [["incident", status.incident]] if status.incident else []
    return rows + ([["fresh snapshot", status.snapshot]] if status.snapshot else [])


async def _validate(region: str, request: ValidateRequest) -> ValidationStatus:
    prefix = f"validate/{region}"
    handle = await begin(region, "ValidateBackup", prefix, request, ValidationStatus)
    _, status = await ended(region, handle, ValidationStatus)
    return status


@app.command()
def prune(
    region: RegionArg,
    plan: Annotated[
        bool, typer.Option("--plan", help="show what would go; remove nothing")
    ] = False,
    wait: Annotated[int, typer.Option(min=0, help="seconds, for those who read it")] = 600,
    actor: Annotated[str, typer.Option(help="who asks; kept in the receipt")] = "operator",
    reason: Annotated[str, typer.Option(help="why; kept in the receipt")] = "by hand",
    as_json: JsonOpt = False,
) -> None:
    """Remove what no moment within the retention needs.

    Exit code 1: somebody reads the backup for longer than one waits, the clocks do not agree, or
    something was not let go.
    Example: chainring backup prune eu --plan
    """
    request = PruneRequest(plan_only=plan, give_way_seconds=wait, actor=actor, reason=reason)
    status = run(_prune(region, request))
    if as_json:
        emit_json(status.model_dump(mode="json"))
    else:
        emit_table(["what", "value"], _prune_rows(status))
    refused = status.pruned is not None and status.pruned.refused
    if refused or status.state not in ("planned", "done"):
        raise typer.Exit(NEGATIVE)


def _prune_rows(status: PruneStatus) -> list[list[str]]:
    rows = [["state", status.state], ["why", status.why or "-"]]
    if (plan := status.plan) is not None:
        oldest = f"{plan.base}, {plan.age_days} days" if plan.base else "nothing is old enough"
        rows += [["oldest snapshot that is kept", oldest]]
        rows += [[f"to go: {kind}", str(count)] for kind, count in plan.counts.items()]
        rows += [["such as", name] for name in plan.first[:5]]
        rows += [["kept", note] for note in plan.notes]
    if (pruned := status.pruned) is not None:
        rows += [[f"gone: {kind}", str(count)] for kind, count in pruned.counts.items()]
        rows += [["not let go", str(pruned.refused)]]
        rows += [["not let go", each] for each in pruned.first_refused]
    return rows + ([["incident", status.incident]] if status.incident else [])


async def _prune(region: str, request: PruneRequest) -> PruneStatus:
    handle = await begin(region, "PruneBackup", f"prune/{region}", request, PruneStatus)
    _, status = await ended(region, handle, PruneStatus)
    return status


async def _snapshot(region: str, request: SnapshotRequest) -> SnapshotReport:
    prefix = f"snapshot/{region}"
    handle = await begin(region, "SnapshotRegion", prefix, request, SnapshotReport)
    return await handle.result()
