"""`VerifyRelease`: one verdict over all of a release's evidence, for whoever asks."""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from models.ids import short
from models.release_verdict import ReleaseVerdict, VerifyRequest, render_verdict
from models.steps import JudgeRelease, ResolvedRelease
from workflows import steps
from workflows.journey import RELEASE, STATE
from workflows.regions import error_type, plain_words


@workflow.defn(name="VerifyRelease")
class VerifyRelease:
    """Changes nothing but the ledger and the evidence archive, which keep what was judged."""

    @workflow.run
    async def run(self, request: VerifyRequest) -> ReleaseVerdict:
        release = await _resolve(request.release)
        self._enter("verifying", release.release)
        judged = await steps.judge_release(JudgeRelease(release=release.release, phase="verify"))
        verdict = judged.verdict
        self._enter(verdict.outcome, release.release)
        lines = [f"## {release.name} {release.version}", "", render_verdict(verdict)]
        if judged.override is not None:
            lines.insert(1, f"\n**{judged.override.words()}**")
        workflow.set_current_details("\n".join(lines))
        return verdict

    def _enter(self, state: str, release: str) -> None:
        workflow.upsert_search_attributes(
            [STATE.value_set(state), RELEASE.value_set(short(release))]
        )


async def _resolve(reference: str) -> ResolvedRelease:
    """Fail at once, and in words, where there is no such release."""
    try:
        return await steps.resolve_release(reference)
    except ActivityError as error:
        raise ApplicationError(
            f"release: {plain_words(error)}", type=error_type(error), non_retryable=True
        ) from error
