"""`RecoveryDrill`: would a restore work? By a Schedule, or by hand; nothing that runs notices."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.workflow import ActivityCancellationType

from models.drill import (
    WHAT,
    DrillPhase,
    DrillRequest,
    DrillResult,
    DrillStatus,
    DrillStep,
    render_drill,
)
from workflows.journey import STATE
from workflows.recovery_steps import PERSISTENT, QUICK, raise_incident, record
from workflows.regions import plain_words

ATTEMPT = timedelta(hours=12)
DEADLINE = timedelta(hours=24)
"""A backup that cannot be read for so long is no backup: the drill has failed."""

HEARTBEAT = timedelta(seconds=60)


@workflow.defn(name="RecoveryDrill")
class RecoveryDrill:
    """Restores into a scratch database, certifies what was reached, and throws it away."""

    @workflow.init
    def __init__(self, request: DrillRequest) -> None:
        self._request = request
        self._status = DrillStatus(
            region=workflow.info().namespace,
            kind=request.kind,
            state="restoring",
            started=workflow.now(),
        )

    @workflow.query
    def status(self) -> DrillStatus:
        """How far it is, and what it found."""
        return self._status

    @workflow.run
    async def run(self, request: DrillRequest) -> DrillStatus:
        rotation = request.rotation
        if rotation and not rotation.takes_part(workflow.info().start_time):
            self._enter("resting", "the turn of other regions this week")
            return self._status
        self._enter("restoring")
        why = await self._drill()
        self._enter("recording", why)
        await self._leave_word(why)
        self._status.ended = workflow.now()
        self._enter("failed" if why else "proved", why)
        if why:
            raise ApplicationError(why, self._status, type="DrillFailed", non_retryable=True)
        return self._status

    async def _drill(self) -> str:
        """Why it is not passed; "" when it is."""
        holder = workflow.info().workflow_id
        step = DrillStep(kind=self._request.kind, holder=holder)
        try:
            self._status.swept = await workflow.execute_activity(
                "sweep_scratch",
                holder,
                result_type=list[str],
                summary="throw away what killed drills left",
                start_to_close_timeout=QUICK * 10,
                retry_policy=RetryPolicy(maximum_attempts=5),
            )
            result = await workflow.execute_activity(
                "drill_region",
                step,
                result_type=DrillResult,
                summary=WHAT[self._request.kind],
                start_to_close_timeout=ATTEMPT,
                schedule_to_close_timeout=DEADLINE,
                heartbeat_timeout=HEARTBEAT,
                retry_policy=PERSISTENT,
                cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
        except ActivityError as error:
            return plain_words(error) or "the drill was cancelled"
        finally:
            await workflow.execute_activity(
                "discard_scratch",
                holder,
                result_type=list[str],
                summary="throw away what was restored",
                start_to_close_timeout=QUICK * 10,
                retry_policy=PERSISTENT,
            )
        self._status.result = result
        return "; ".join(result.faults)[:2000]

    async def _leave_word(self, why: str) -> None:
        result, kind = self._status.result, self._request.kind
        certificate = result.certificate if result else ""
        if why:
            opened = await raise_incident("drill-failed", f"{kind} drill", why, certificate)
            self._status.incidents.append(opened)
        if result and result.misses:
            said = "; ".join(result.misses)
            opened = await raise_incident("sla-missed", f"{kind} drill", said, certificate)
            self._status.incidents.append(opened)
        self._status.receipt = await record(
            "recovery.drilled", self._request.actor, self._body(why)
        )

    def _body(self, why: str) -> dict[str, object]:
        body: dict[str, object] = {
            "kind": self._request.kind,
            "verdict": "failed" if why else "proved",
            "why": why[:1000],
            "reason": self._request.reason,
            "incidents": list(self._status.incidents),
        }
        if (result := self._status.result) is None:
            return body
        report, compared = result.report, result.compared
        return body | {
            "source_store": report.source_store,
            "restored_store": report.restored_store,
            "base_seq": report.base_seq,
            "reached_seq": report.reached_seq,
            "expected_seq": report.expected_seq,
            "state_root": report.state_root,
            "documents": report.documents,
            "live": compared.model_dump(mode="json"),
            "used": list(result.used),
            "certificate": result.certificate,
            "misses": list(result.misses),
            "milliseconds": round(result.seconds * 1000),
        }

    def _enter(self, state: DrillPhase, why: str = "") -> None:
        self._status.state, self._status.why = state, why
        workflow.upsert_search_attributes([STATE.value_set(state)])
        workflow.set_current_details(render_drill(self._status))
