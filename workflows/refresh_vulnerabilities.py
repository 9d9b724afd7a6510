"""`RefreshVulnerabilities`: load the feeds; where they say something new, judge what runs again."""

from collections.abc import Mapping
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.workflow import ParentClosePolicy

from models.ids import short
from models.incident import RejudgeRequest
from models.receipts import Draft
from models.vulnerability_data import FeedFailure, FeedSource, RefreshReport, RefreshRequest
from workflows import safety_steps, steps
from workflows.journey import STATE
from workflows.regions import plain_words


@workflow.defn(name="RefreshVulnerabilities")
class RefreshVulnerabilities:
    """Each feed by itself: one that fails leaves the others, and what it had loaded before."""

    @workflow.run
    async def run(self, request: RefreshRequest) -> RefreshReport:
        self._request = request
        sources = await safety_steps.feeds_to_load(request)
        if not sources:
            raise ApplicationError(
                "feeds: neither the input nor the configuration ([sbom.feeds]) names any",
                type="NoFeeds",
                non_retryable=True,
            )
        before = await safety_steps.known_snapshot()
        report = RefreshReport(before=before.digest, after=before.digest)
        for source in sources:
            await self._load(source, report)
        report.after = (await safety_steps.known_snapshot()).digest
        await self._record(report)
        if report.after != report.before:
            await self._judge_again(report)
        if report.failures:
            why = "; ".join(f"{failed.feed}: {failed.why}" for failed in report.failures)
            raise ApplicationError(why, report, type="FeedsFailed", non_retryable=True)
        return report

    async def _load(self, source: FeedSource, report: RefreshReport) -> None:
        self._show(report, f"loading {source.feed}")
        try:
            report.feeds.append(await safety_steps.load_feed(source))
        except ActivityError as error:
            report.failures.append(FeedFailure(feed=source.feed, why=plain_words(error)))
        self._show(report, "failed" if report.failures else "loaded")

    async def _judge_again(self, report: RefreshReport) -> None:
        """Not waited for: judging a fleet must not hold up the next refresh."""
        await workflow.start_child_workflow(
            "RejudgeDeployments",
            RejudgeRequest(reason=f"vulnerability data {short(report.after)}"),
            id=f"rejudge/{workflow.info().workflow_id}/{short(report.after)}",
            parent_close_policy=ParentClosePolicy.ABANDON,
        )

    async def _record(self, report: RefreshReport) -> None:
        info = workflow.info()
        what = "refresh-failed" if report.failures else "refreshed"
        body: Mapping[str, Any] = report.model_dump(mode="json")
        await steps.record(
            Draft(
                kind=f"vulnerabilities.{what}",
                actor=self._request.actor,
                subject="vulnerabilities",
                body={**body, "reason": self._request.reason},
                workflow_id=info.workflow_id,
                run_id=info.run_id,
                idempotency_key=f"{info.workflow_id}/{info.run_id}/{what}",
            )
        )

    def _show(self, report: RefreshReport, state: str) -> None:
        workflow.upsert_search_attributes([STATE.value_set(state)])
        lines = ["| feed | records | newest | digest |", "|---|--:|---|---|"]
        lines += [
            f"| {feed.name} | {feed.records} | {feed.as_of or '-'} | `{short(feed.digest)}` |"
            for feed in report.feeds
        ]
        lines += [f"- **{failed.feed}** failed: {failed.why}" for failed in report.failures]
        workflow.set_current_details("\n".join(lines))
