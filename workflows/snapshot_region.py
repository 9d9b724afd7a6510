"""`SnapshotRegion`: one snapshot of a region's store, by hand or by a Schedule."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from models.recovery import SnapshotReport, SnapshotRequest
from workflows.journey import STATE

SNAPSHOT = timedelta(hours=2)
HEARTBEAT = timedelta(seconds=60)


@workflow.defn(name="SnapshotRegion")
class SnapshotRegion:
    """What was done before it was interrupted counts: chunks are found by what is in them."""

    @workflow.run
    async def run(self, request: SnapshotRequest) -> SnapshotReport:
        workflow.upsert_search_attributes([STATE.value_set("snapshotting")])
        report: SnapshotReport = await workflow.execute_activity(
            "snapshot_region",
            request,
            result_type=SnapshotReport,
            summary="snapshot, and prove it",
            start_to_close_timeout=SNAPSHOT,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RetryPolicy(maximum_attempts=5),
        )
        workflow.upsert_search_attributes([STATE.value_set("done")])
        workflow.set_current_details(
            f"{report.documents} documents after change {report.seq}, "
            f"{report.new_chunks} of {report.chunks} chunks new, "
            f"state root `{report.state_root[:16]}`"
        )
        return report
