"""`RestoreRegion`: bring a region's store back to what was signed, or say what is missing."""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from models.recovery import (
    BuildStore,
    BuiltStore,
    CertifyStore,
    GapDecision,
    Published,
    PublishStore,
    RestorePhase,
    RestoreRequest,
    RestoreStatus,
)
from models.recovery_incident import JudgeRestore
from models.restore import RestoreReport
from workflows.journey import STATE
from workflows.recovery_steps import LONG, judged, recovery_step, source
from workflows.regions import plain_words

PATIENCE = timedelta(days=7)
"""How long a person has to decide about a gap."""


@workflow.defn(name="RestoreRegion")
class RestoreRegion:
    """One restore. The store that it builds is nobody's primary before everything is proved."""

    @workflow.init
    def __init__(self, request: RestoreRequest) -> None:
        self._request = request
        self._given_up: GapDecision | None = None
        self._status = RestoreStatus(
            region=workflow.info().namespace, state="restoring", started=workflow.now()
        )

    @workflow.run
    async def run(self, request: RestoreRequest) -> RestoreStatus:
        restored = workflow.uuid4().hex
        try:
            await self._restore(request, restored)
        except ActivityError as error:
            await self._discard(restored)
            self._enter("failed", plain_words(error))
            raise ApplicationError(
                self._status.why, self._status, type="RestoreFailed", non_retryable=True
            ) from error
        self._status.ended = workflow.now()
        return self._status

    @workflow.query
    def status(self) -> RestoreStatus:
        """How far it is."""
        return self._status

    @workflow.update
    async def accept_gap(self, decision: GapDecision) -> RestoreStatus:
        """Publish although changes are missing; the certificate names them and who said so."""
        self._status.accepted = decision
        await workflow.wait_condition(lambda: self._status.state != "waiting")
        return self._status

    @workflow.update
    async def give_up(self, decision: GapDecision) -> RestoreStatus:
        """Publish nothing; what was built is thrown away."""
        self._given_up = decision
        await workflow.wait_condition(lambda: self._status.state != "waiting")
        return self._status

    @accept_gap.validator
    def _may_accept(self, decision: GapDecision) -> None:
        self._must_wait()

    @give_up.validator
    def _may_give_up(self, decision: GapDecision) -> None:
        self._must_wait()

    def _must_wait(self) -> None:
        if self._status.state != "waiting":
            raise ApplicationError(f"the restore is {self._status.state}: nothing is to decide")

    async def _restore(self, request: RestoreRequest, restored: str) -> None:
        self._enter("restoring")
        build = BuildStore(request=request, restored=restored, workflow=workflow.info().workflow_id)
        built = await recovery_step(
            "build_store",
            build,
            BuiltStore,
            "restore beside the store, and prove it",
            LONG,
        )
        self._status.report = report = built.report
        if request.dry_run:
            if report.complete:
                await self._certify(built)
            await self._discard(restored)
            self._enter("proved" if report.complete else "failed", _missing(report))
            return
        if not report.complete and not await self._somebody_accepts(report):
            await self._discard(restored)
            self._enter("given up", _missing(report))
            return
        if await self._publish(request, built, restored):
            await self._certify(built)
            self._enter("published", _missing(report))
            step = JudgeRestore(restored=restored, source=source())
            self._status.incident = await judged(step)
        else:  # the old store takes no more writes now: the next restore has all of them
            self._status.accepted = None
            await self._restore(request, restored)

    async def _publish(self, request: RestoreRequest, built: BuiltStore, restored: str) -> bool:
        """Make the restored store the primary; false when the old one went on meanwhile."""
        self._enter("publishing")
        publish = PublishStore(
            report=built.report,
            restored=restored,
            actor=request.actor,
            reason=request.reason,
            accepted=self._status.accepted,
            workflow=workflow.info().workflow_id,
            latest=request.goal.is_head and request.head is None and request.store is None,
            replaces=built.replaces,
        )
        try:
            self._status.published = await recovery_step(
                "publish_store", publish, Published, "make it the primary"
            )
        except ActivityError as error:
            if isinstance(error.cause, ApplicationError) and error.cause.type == "StoreWentOn":
                return False
            raise
        return True

    async def _certify(self, built: BuiltStore) -> None:
        step = CertifyStore(
            built=built,
            drill=self._request.dry_run,
            started=self._status.started,
            finished=workflow.now(),
            accepted=None if built.report.complete else self._status.accepted,
        )
        self._status.certificate = await recovery_step(
            "certify_store", step, str, "sign the certificate"
        )

    async def _somebody_accepts(self, report: RestoreReport) -> bool:
        self._enter("waiting", f"{_missing(report)}; `accept_gap` or `give_up`")
        try:
            await workflow.wait_condition(
                lambda: self._status.accepted is not None or self._given_up is not None,
                timeout=PATIENCE,
            )
        except TimeoutError:
            return False
        return self._given_up is None

    async def _discard(self, restored: str) -> None:
        await recovery_step("discard_store", restored, bool, "throw away")

    def _enter(self, state: RestorePhase, why: str = "") -> None:
        self._status.state, self._status.why = state, why
        workflow.upsert_search_attributes([STATE.value_set(state)])
        lines = [f"**{state}**{': ' + why if why else ''}"]
        if (report := self._status.report) is not None:
            lines += [
                f"- {report.documents} documents, {report.changes_applied} changes after "
                f"snapshot {report.base_seq}",
                f"- reached {report.reached_seq} of {report.target_seq}; signed head "
                f"{report.expected_seq}",
                f"- state root `{report.state_root[:16]}`",
                *(f"- {phase.name}: {phase.seconds:.2f} s" for phase in report.phases),
                *(f"- {finding.where}: {finding.what}" for finding in report.findings),
            ]
        workflow.set_current_details("\n".join(lines))


def _missing(report: RestoreReport) -> str:
    if report.gap is not None:
        gap = report.gap
        return f"changes {gap.first} to {gap.last} are missing: {gap.why}"
    if (fault := report.ledger_fault) is not None:
        return f"the ledger is not what was signed of it ({fault.why}): repair it once it is back"
    lost = report.receipts_expected - report.receipts
    return f"{lost} receipts that were signed are missing" if lost > 0 else ""
