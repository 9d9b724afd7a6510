"""`RejudgeDeployments`: whatever runs is judged again by what is known today."""

import asyncio
import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.workflow import ParentClosePolicy

from models.contracts import CatalogReply, CatalogRequest, Region
from models.ids import short
from models.incident import (
    Deployed,
    IncidentRequest,
    OpenIncident,
    Proposal,
    RejudgeReport,
    RejudgeRequest,
    RejudgeSettings,
    StopRollout,
    incident_id,
)
from models.release_verdict import Judged
from models.steps import JudgeRelease
from workflows import safety_steps, steps
from workflows.regions import RegionCalls, RegionUnreachable

PROPOSALS = 5
"""Earlier releases that are judged at the most, to find one that still stands."""


async def _judge_again(release: str) -> Judged:
    return await steps.judge_release(JudgeRelease(release=release, phase="running"))


@workflow.defn(name="RejudgeDeployments")
class RejudgeDeployments:
    """Judge every deployed release; a refusal opens an incident, and more where so configured."""

    @workflow.run
    async def run(self, request: RejudgeRequest) -> RejudgeReport:
        self._report = RejudgeReport()
        settings = await safety_steps.prepare_rejudge()
        await self._learn(settings)
        deployed = await safety_steps.deployed_releases(settings)
        still_open = await safety_steps.open_incidents()
        for each in deployed:
            await self._judge(settings, each, still_open)
        await self._resolve_gone(deployed, still_open)
        self._show()
        return self._report

    async def _learn(self, settings: RejudgeSettings) -> None:
        """Fetch every region's catalog; for one that is down its last known one has to do."""
        down_after = timedelta(seconds=settings.region_down_after_seconds)
        calls = RegionCalls([], down_after, self._show)

        async def one(region: str) -> None:
            try:
                catalog: CatalogReply = await calls.ask(
                    region, Region.catalog, CatalogRequest(), summary=f"catalog of {region}"
                )
            except (RegionUnreachable, ApplicationError):
                self._report.unseen.append(region)
                return
            await steps.keep_catalog(catalog)

        await asyncio.gather(*(one(region) for region in settings.regions))
        self._report.unseen.sort()

    async def _judge(
        self, settings: RejudgeSettings, deployed: Deployed, still_open: list[OpenIncident]
    ) -> None:
        judged = await _judge_again(deployed.release)
        self._report.judged += 1
        if judged.verdict.outcome == "pass":
            self._report.standing += 1
            await self._resolve(deployed.release, still_open, "the release stands again")
        elif judged.override is not None:
            self._report.overridden.append(f"{short(deployed.release)}: {judged.override.words()}")
        else:
            await self._open(settings, deployed, judged)
        self._show()

    async def _open(self, settings: RejudgeSettings, deployed: Deployed, judged: Judged) -> None:
        verdict = judged.verdict
        cause = verdict.cause()
        incident = incident_id(deployed.release, cause)
        stopped, proposal = "", None
        if settings.follow_up != "incident" and deployed.rollout:
            step = StopRollout(rollout=deployed.rollout, incident=incident, why=verdict.why)
            stopped = deployed.rollout if await safety_steps.stop_rollout(step) else ""
        if settings.follow_up == "propose_rollback" and deployed.shards:
            proposal = await self._propose(deployed.release)
        request = IncidentRequest(
            deployed=deployed,
            cause=cause,
            why=verdict.why,
            verdict_seq=judged.seq,
            stopped=stopped,
            proposal=proposal,
        )
        with contextlib.suppress(WorkflowAlreadyStartedError):  # the same cause as before
            await workflow.start_child_workflow(
                "Incident",
                request,
                id=incident,
                parent_close_policy=ParentClosePolicy.ABANDON,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            )
        self._report.incidents.append(incident)

    async def _propose(self, release: str) -> Proposal | None:
        """The newest earlier release that stands today."""
        for proposal in (await safety_steps.earlier_releases(release))[:PROPOSALS]:
            if (await _judge_again(proposal.release)).verdict.outcome == "pass":
                return proposal
        return None

    async def _resolve_gone(self, deployed: list[Deployed], still_open: list[OpenIncident]) -> None:
        """Close what is about releases that run nowhere; never on the word of an old catalog."""
        if self._report.unseen:
            return
        running = {short(each.release) for each in deployed}
        for release in {each.release for each in still_open} - running:
            await self._resolve(release, still_open, "the release runs nowhere any more")

    async def _resolve(self, release: str, still_open: list[OpenIncident], why: str) -> None:
        for incident in still_open:
            if incident.release == short(release):
                handle = workflow.get_external_workflow_handle(incident.id)
                await handle.signal("resolved", why)
                self._report.resolved.append(incident.id)

    def _show(self) -> None:
        report = self._report
        lines = [f"{report.standing} of {report.judged} deployed releases stand"]
        lines += [f"- incident `{each}`" for each in report.incidents]
        lines += [f"- {each}" for each in report.overridden]
        lines += [f"- {region} did not answer" for region in report.unseen]
        workflow.set_current_details("\n".join(lines))
