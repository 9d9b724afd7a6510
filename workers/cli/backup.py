"""`chainring backup`: what is kept of a region outside its store, and a snapshot by hand."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from temporalio.client import Client

from models.recovery import SnapshotReport, SnapshotRequest
from models.verifier import Refused
from stores.backup_layout import manifests, segments, stores
from stores.keys import KeyFileError, load_key
from stores.objects import ObjectError
from stores.witness import Witness, open_head
from workers.backup_places import open_objects
from workers.cli.output import NEGATIVE, UNREACHABLE, emit_json, emit_table, fail
from workers.cli.temporal import next_id, region_client, run
from workers.settings import load_region, primary_pointer
from workers.temporal_setup import RECOVERY_QUEUE

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
        public = load_key(addresses.signing_key).public(region)
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
                    "head_seq": open_head(note, [public]).size if note else None,
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


async def _snapshot(region: str, request: SnapshotRequest) -> SnapshotReport:
    client: Client = await region_client(region)
    started = await client.start_workflow(
        "SnapshotRegion",
        request,
        id=await next_id(client, "SnapshotRegion", f"snapshot/{region}"),
        task_queue=RECOVERY_QUEUE,
        result_type=SnapshotReport,
    )
    report: SnapshotReport = await started.result()
    return report
