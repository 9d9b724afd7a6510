"""`BuildRelease`: a commit becomes a release in the registry, with all its evidence."""

import asyncio
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from models.build import (
    ATTESTED,
    AfterBuild,
    AttestRelease,
    BuildKey,
    BuildRequest,
    BuildResult,
    BuildState,
    BuildStatus,
    BuildStep,
    Built,
    CompareBuilds,
    Fetched,
    FetchSource,
    NameRelease,
    Tested,
    render_build,
)
from models.ids import short
from models.provenance import Reproducibility
from models.receipts import Draft
from workflows import steps
from workflows.journey import RELEASE, STATE
from workflows.regions import error_type, plain_words

_Result = TypeVar("_Result")

FETCH = timedelta(minutes=15)
COMMANDS = timedelta(hours=7)
"""Above what a build file may ask for; its own limits end the commands."""
EFFECT = timedelta(minutes=30)
HEARTBEAT = timedelta(seconds=15)
BRIEF_HEARTBEAT = timedelta(seconds=8)
"""Of steps that are done in seconds, so that one whose worker died is soon done by another."""
MAX_ATTEMPTS = 3
_LOST = "WorkspaceLost"


@workflow.defn(name="BuildRelease")
class BuildRelease:
    """Each step may be killed and run again; without its builder's disk it begins anew."""

    @workflow.init
    def __init__(self, request: BuildRequest) -> None:
        self._request = request
        self.status = BuildStatus(
            id=workflow.info().workflow_id, repository=request.repository, commit=request.commit
        )

    @workflow.query(name="status")
    def query_status(self) -> BuildStatus:
        """How far it is, and what it found out."""
        return self.status

    @workflow.run
    async def run(self, request: BuildRequest) -> BuildResult:
        try:
            return await self._build_until_kept()
        except (ActivityError, asyncio.CancelledError) as error:
            await self._end_badly(error)
            raise

    async def _build_until_kept(self) -> BuildResult:
        """Begin anew when the builder that had the work directory is gone."""
        while True:
            key = self._key()
            try:
                result = await self._build(key)
            except ActivityError as error:
                if error_type(error) != _LOST or self.status.attempts >= MAX_ATTEMPTS:
                    raise
                self.status.attempts += 1
                continue
            await self._clear(key)
            return result

    async def _build(self, key: BuildKey) -> BuildResult:
        request, status = self._request, self.status
        self._enter(BuildState.FETCHING)
        fetched = await _step(
            "fetch_source",
            FetchSource(key=key, request=request),
            Fetched,
            f"fetch {request.commit[:12]} and check its signature and materials",
            FETCH,
        )
        status.name, status.version = fetched.name, fetched.version
        status.materials = len(fetched.materials)
        status.signed_by = fetched.signature.principal if fetched.signature else ""
        step = BuildStep(key=key, request=request, fetched=fetched)
        built, tested = await self._build_and_test(step)
        same = await self._compare(step, built)
        self._enter(BuildState.ATTESTING)
        keep = CompareBuilds(**dict(step), built=built)
        await _step("keep_release", keep, type(None), f"keep {short(built.release)}", EFFECT)
        after = AfterBuild(**dict(step), built=built, tested=tested, reproducibility=same)
        await self._attest(after)
        self._enter(BuildState.NAMING)
        name = NameRelease(release=built.release, evidence=status.evidence)
        reference = f"{fetched.name}:{fetched.version}"
        await _step("name_release", name, str, f"name it {reference}", EFFECT)
        status.receipt = await self._record(after)
        self._enter(BuildState.BUILT)
        return BuildResult(
            release=built.release,
            name=fetched.name,
            version=fetched.version,
            commit=request.commit,
            evidence=status.evidence,
            tests=tested.words,
            reproducibility=same,
            receipt=status.receipt,
        )

    async def _build_and_test(self, step: BuildStep) -> tuple[Built, Tested]:
        self._enter(BuildState.BUILDING)
        title = f"{step.fetched.name} {step.fetched.version}"
        built = await _step("run_build", step, Built, f"build {title}", COMMANDS)
        self.status.release = built.release
        self._enter(BuildState.TESTING)
        tested = await _step("run_tests", step, Tested, f"test {title}", COMMANDS)
        self.status.tests = tested.words
        return built, tested

    async def _compare(self, step: BuildStep, built: Built) -> Reproducibility | None:
        if not self._request.reproducible:
            return None
        self._enter(BuildState.COMPARING)
        again = CompareBuilds(**dict(step), built=built)
        summary = "build again in another directory and compare"
        same = await _step("compare_builds", again, Reproducibility, summary, COMMANDS)
        self.status.reproducible, self.status.differences = same.identical, same.differences
        return same

    async def _attest(self, after: AfterBuild) -> None:
        self.status.evidence = {}
        for kind in ATTESTED:
            step = AttestRelease(**dict(after), kind=kind)
            summary = f"attest {kind} of {short(after.built.release)}"
            self.status.evidence[kind] = await _step("attest_release", step, str, summary, EFFECT)
            self._enter(BuildState.ATTESTING)

    async def _record(self, after: AfterBuild) -> int:
        """The receipt that ends a build; its key makes a repetition the same receipt."""
        builder = await _step("builder_id", None, str, "who is the builder?", EFFECT)
        request, fetched = self._request, after.fetched
        body: dict[str, Any] = {
            "release": after.built.release,
            "name": fetched.name,
            "version": fetched.version,
            "repository": request.repository,
            "commit": request.commit,
            "ref": request.ref,
            "recipe": fetched.recipe,
            "builder": builder,
            "commit_signature": _plain(fetched.signature),
            "materials": len(fetched.materials),
            "tests": {"result": after.tested.result, "results": after.tested.results},
            "logs": {"build": after.built.log, "test": after.tested.log},
            "reproducibility": _plain(after.reproducibility),
            "evidence": self.status.evidence,
            "reason": request.reason,
        }
        draft = self._draft("release.built", request.actor, after.built.release, body)
        [seq] = await steps.record(draft)
        return seq

    async def _end_badly(self, error: BaseException) -> None:
        """Say why, for whoever looks; leave no work directory behind."""
        cancelled = isinstance(error, asyncio.CancelledError) or is_cancelled_exception(error)
        state = BuildState.CANCELLED if cancelled else BuildState.FAILED
        at = self.status.state
        why = "cancelled" if cancelled else plain_words(error)
        self._enter(state, f"while {at}: {why}")
        body = {
            "repository": self._request.repository,
            "commit": self._request.commit,
            "state": state.value,
            "why": self.status.why,
        }
        workflow_id = workflow.info().workflow_id
        await steps.record(self._draft("build.failed", self._request.actor, workflow_id, body))
        await self._clear(self._key())

    async def _clear(self, key: BuildKey) -> None:
        """Remove the work directory; should that fail, the release is none the worse for it."""
        try:
            await _step("clear_build", key, type(None), "remove the work directory", EFFECT)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the work directory stays: %s", plain_words(error))

    def _key(self) -> BuildKey:
        info = workflow.info()
        return BuildKey(workflow=info.workflow_id, run=info.run_id, attempt=self.status.attempts)

    def _draft(self, kind: str, actor: str, subject: str, body: dict[str, Any]) -> Draft:
        info = workflow.info()
        return Draft(
            kind=kind,
            actor=actor,
            subject=subject,
            body=body,
            workflow_id=info.workflow_id,
            run_id=info.run_id,
            idempotency_key=f"{info.workflow_id}/{info.run_id}/{kind}",
        )

    def _enter(self, state: BuildState, why: str = "") -> None:
        self.status.state, self.status.why = state, why
        release = short(self.status.release) if self.status.release else ""
        workflow.upsert_search_attributes(
            [STATE.value_set(state.value), RELEASE.value_set(release)]
        )
        workflow.set_current_details(render_build(self.status))


async def _step(
    name: str, argument: Any, result: type[_Result], summary: str, limit: timedelta
) -> _Result:
    """Run a step of the build; a cancelled one is over only when nothing of it runs any more."""
    answer: _Result = await workflow.execute_activity(
        name,
        args=[] if argument is None else [argument],
        result_type=result,
        start_to_close_timeout=limit,
        heartbeat_timeout=BRIEF_HEARTBEAT if limit == EFFECT else HEARTBEAT,
        retry_policy=steps.PERSISTENT,
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=summary,
    )
    return answer


def _plain(model: Any) -> dict[str, Any] | None:
    return None if model is None else model.model_dump(mode="json")
