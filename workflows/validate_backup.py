"""`ValidateBackup`: is the backup still what was written? What is bad is replaced at once."""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

from models.recovery import SnapshotReport, SnapshotRequest
from models.validation import (
    ValidateRequest,
    ValidationPhase,
    ValidationReport,
    ValidationStatus,
    render_validation,
)
from workflows.journey import STATE
from workflows.recovery_steps import PERSISTENT, QUICK, raise_incident, record
from workflows.regions import plain_words

READING = timedelta(hours=4)
DEADLINE = timedelta(hours=12)
HEARTBEAT = timedelta(seconds=60)


@workflow.defn(name="ValidateBackup")
class ValidateBackup:
    """Reads a share of the backup, or restores a sample of it."""

    @workflow.init
    def __init__(self, request: ValidateRequest) -> None:
        self._request = request
        self._status = ValidationStatus(
            region=workflow.info().namespace, kind=request.kind, state="reading"
        )

    @workflow.query
    def status(self) -> ValidationStatus:
        """How far it is, and what is bad."""
        return self._status

    @workflow.run
    async def run(self, request: ValidateRequest) -> ValidationStatus:
        self._enter("reading")
        try:
            report = await self._read()
        except ActivityError as error:
            why = plain_words(error)
            self._status.incident = await raise_incident(
                "backup-damaged", f"{request.kind} cannot be read", why
            )
            self._enter("failed", why)
            raise ApplicationError(
                why, self._status, type="ValidationFailed", non_retryable=True
            ) from error
        self._status.report = report
        if report.bad:
            await self._mend(report)
        if report.bad or request.kind == "sample":
            self._status.receipt = await record("recovery.validated", request.actor, self._body())
        if report.then is not None:
            await _quick("save_rotation", report.then, "remember how far the reading is")
        self._enter("damaged" if report.bad else "sound", self._status.why)
        return self._status

    async def _read(self) -> ValidationReport:
        report: ValidationReport = await workflow.execute_activity(
            "read_backup",
            self._request,
            result_type=ValidationReport,
            summary="restore a sample" if self._request.kind == "sample" else "read what is due",
            start_to_close_timeout=READING,
            schedule_to_close_timeout=DEADLINE,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=PERSISTENT,
        )
        return report

    async def _mend(self, report: ValidationReport) -> None:
        """Tell people, and take a snapshot that does not build on what is bad."""
        why = f"{len(report.bad) + report.more} objects: " + "; ".join(
            str(each) for each in report.bad[:10]
        )
        self._status.incident = await raise_incident("backup-damaged", "objects", why)
        self._enter("mending", why[:500])
        await _quick("mark_bad", list(report.bad), "mark what is bad")
        request = SnapshotRequest(reason="the backup has bad objects")
        try:
            made: SnapshotReport = await workflow.execute_child_workflow(
                "SnapshotRegion",
                request,
                id=f"{workflow.info().workflow_id}/snapshot",
                result_type=SnapshotReport,
            )
            self._status.snapshot = made.manifest
        except ChildWorkflowError as error:
            self._status.why += f"; no fresh snapshot: {plain_words(error)}"

    def _body(self) -> dict[str, object]:
        report = self._status.report
        assert report is not None
        return {
            "kind": self._request.kind,
            "verdict": "damaged" if report.bad else "sound",
            "reason": self._request.reason,
            "objects": report.objects,
            "bytes": report.bytes,
            "documents": report.documents,
            "of_documents": report.of_documents,
            "erased": report.erased,
            "seed": report.seed,
            "manifest": report.manifest,
            "bad": [each.model_dump(mode="json") for each in report.bad[:100]],
            "bad_count": len(report.bad) + report.more,
            "incident": self._status.incident,
            "snapshot": self._status.snapshot,
        }

    def _enter(self, state: ValidationPhase, why: str = "") -> None:
        self._status.state, self._status.why = state, why
        workflow.upsert_search_attributes([STATE.value_set(state)])
        workflow.set_current_details(render_validation(self._status))


async def _quick(name: str, argument: object, summary: str) -> None:
    await workflow.execute_activity(
        name,
        argument,
        summary=summary,
        start_to_close_timeout=QUICK,
        retry_policy=PERSISTENT,
    )
