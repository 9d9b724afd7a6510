"""`PruneBackup`: plan what of a region's backup may go, show it, then remove it."""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from models.prune import (
    PlannedRemoval,
    Pruned,
    PrunePhase,
    PruneRequest,
    PruneStatus,
    PruneStep,
    render_prune,
)
from workflows.journey import STATE
from workflows.recovery_steps import PERSISTENT, raise_incident, record
from workflows.regions import error_type, plain_words

PLANNING = timedelta(hours=2)
REMOVING = timedelta(hours=6)
DEADLINE = timedelta(hours=12)
HEARTBEAT = timedelta(minutes=2)
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=5)


@workflow.defn(name="PruneBackup")
class PruneBackup:
    """Removes nothing that a plan, which its status shows, does not have."""

    @workflow.init
    def __init__(self, request: PruneRequest) -> None:
        self._request = request
        self._status = PruneStatus(region=workflow.info().namespace, state="planning")

    @workflow.query
    def status(self) -> PruneStatus:
        """What is to go, and what went."""
        return self._status

    @workflow.run
    async def run(self, request: PruneRequest) -> PruneStatus:
        self._enter("planning")
        try:
            plan = await workflow.execute_activity(
                "plan_prune",
                result_type=PlannedRemoval,
                summary="what may go",
                start_to_close_timeout=PLANNING,
                heartbeat_timeout=HEARTBEAT,
                retry_policy=PERSISTENT,
            )
            self._status.plan = plan
            self._enter("planned")
            if plan.objects and not request.plan_only:
                await self._remove(plan)
        except ActivityError as error:
            await self._stopped(error)
        return self._status

    async def _remove(self, plan: PlannedRemoval) -> None:
        """Remove, and give way to whoever reads the backup for as long as was asked for."""
        deadline = workflow.now() + timedelta(seconds=self._request.give_way_seconds)
        pause = FIRST_PAUSE
        self._enter("removing")
        while reader := await self._attempt(plan):
            if workflow.now() + pause > deadline:
                await self._record("postponed")
                self._enter("postponed", reader)
                return
            self._enter("waiting", reader)
            await workflow.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        await self._record("pruned")
        self._enter("done")

    async def _attempt(self, plan: PlannedRemoval) -> str:
        """Who began to read the backup meanwhile; "" when all went that may."""
        pruned: Pruned = await workflow.execute_activity(
            "prune_backup",
            PruneStep(base=plan.base, holder=workflow.info().workflow_id),
            result_type=Pruned,
            summary=f"remove {plan.objects} objects",
            start_to_close_timeout=REMOVING,
            schedule_to_close_timeout=DEADLINE,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=PERSISTENT,
        )
        self._status.pruned = pruned.after(self._status.pruned)
        return f"the backup is being read: {pruned.reader}" if pruned.reader else ""

    async def _stopped(self, error: ActivityError) -> None:
        why, kind = plain_words(error), error_type(error)
        self._status.incident = await raise_incident("retention-refused", kind or "failed", why)
        await self._record("refused")
        self._enter("refused", why)
        raise ApplicationError(
            why, self._status, type=kind or "PruneFailed", non_retryable=True
        ) from error

    async def _record(self, verdict: str) -> None:
        plan, pruned = self._status.plan, self._status.pruned
        body = {
            "verdict": verdict,
            "reason": self._request.reason,
            "plan": None if plan is None else plan.model_dump(mode="json"),
            "pruned": None if pruned is None else pruned.model_dump(mode="json"),
            "incident": self._status.incident,
        }
        self._status.receipt = await record("recovery.pruned", self._request.actor, body)

    def _enter(self, state: PrunePhase, why: str = "") -> None:
        self._status.state, self._status.why = state, why
        workflow.upsert_search_attributes([STATE.value_set(state)])
        workflow.set_current_details(render_prune(self._status))
