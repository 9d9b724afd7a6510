"""`CheckEvidence`: is all that verdicts were given on still there? Lost evidence fails the run."""

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from models.evidence_check import EvidenceReport, EvidenceRequest
from models.receipts import Draft
from workflows import safety_steps, steps
from workflows.journey import STATE


@workflow.defn(name="CheckEvidence")
class CheckEvidence:
    """Nothing removes evidence; a disk does. What it took is a receipt, and is seen at once."""

    @workflow.run
    async def run(self, request: EvidenceRequest) -> EvidenceReport:
        workflow.upsert_search_attributes([STATE.value_set("reading")])
        report = await safety_steps.read_evidence_back()
        state = "evidence lost" if report.lost else "complete"
        workflow.upsert_search_attributes([STATE.value_set(state)])
        workflow.set_current_details("\n".join([report.words(), "", *report.named]))
        if report.lost:
            await self._record(request, report)
            raise ApplicationError(report.words(), report, type="EvidenceLost", non_retryable=True)
        return report

    async def _record(self, request: EvidenceRequest, report: EvidenceReport) -> None:
        info = workflow.info()
        await steps.record(
            Draft(
                kind="evidence.lost",
                actor=request.actor,
                subject="evidence",
                body={**report.model_dump(mode="json"), "reason": request.reason},
                workflow_id=info.workflow_id,
                run_id=info.run_id,
                idempotency_key=f"{info.workflow_id}/{info.run_id}/evidence.lost",
            )
        )
