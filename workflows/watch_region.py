"""`WatchRegion`: probe a region's primary all the time, and fail over when it is lost."""

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from models.probe import Verdict
from models.recovery import FailOverRequest
from models.watch import (
    ACTOR,
    KEPT,
    Decision,
    FailOverEnd,
    StartedFailOver,
    WatchReport,
    WatchRequest,
    WatchSettings,
    WatchState,
    WatchStatus,
    WatchStep,
    next_failover,
)
from workflows.journey import STATE
from workflows.regions import plain_words

QUICK = timedelta(minutes=1)
LONG = timedelta(days=30)
PERSISTENT = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(seconds=10)
)


@workflow.defn(name="WatchRegion")
class WatchRegion:
    """One a region, for good.

    A verdict starts `FailOver`, where the configuration has it so, and not again before the last
    one has cooled down: a store that comes and goes is for a person. Until something starts it the
    verdict stands, for everybody to see, and is taken back only by a store that is well again.
    """

    @workflow.init
    def __init__(self, request: WatchRequest) -> None:
        self._probing: workflow.ActivityHandle[WatchReport] | None = None
        self._status = WatchStatus(
            region=workflow.info().namespace,
            state="watching",
            since=workflow.now(),
            verdict=request.standing,
            paused=request.paused,
            ended=list(request.ended),
        )

    @workflow.run
    async def run(self, request: WatchRequest) -> None:
        for _ in range(request.rounds):
            await self._round()
            if workflow.info().is_continue_as_new_suggested():
                break
        await workflow.wait_condition(workflow.all_handlers_finished)
        status = self._status
        workflow.continue_as_new(
            WatchRequest(
                ended=tuple(status.ended),
                standing=status.verdict,
                paused=status.paused,
                rounds=request.rounds,
            )
        )

    @workflow.query
    def status(self) -> WatchStatus:
        """What stands against the store, and what follows."""
        return self._status

    @workflow.update
    def pause(self, decision: Decision) -> WatchStatus:
        """Stop probing, as for work on the store; a failover that runs goes on."""
        self._status.paused = decision
        if self._probing is not None:
            self._probing.cancel()
        return self._status

    @workflow.update
    def resume(self, decision: Decision) -> WatchStatus:
        """Probe again."""
        workflow.logger.info("resumed by %s: %s", decision.actor, decision.reason)
        self._status.paused = None
        return self._status

    @pause.validator
    def _may_pause(self, decision: Decision) -> None:
        if self._status.paused is not None:
            raise ApplicationError(f"it is paused already, by {self._status.paused.actor}")

    @resume.validator
    def _may_resume(self, decision: Decision) -> None:
        if self._status.paused is None:
            raise ApplicationError("it is not paused")

    async def _round(self) -> None:
        if (paused := self._status.paused) is not None:
            self._enter("paused", f"by {paused.actor}: {paused.reason}")
            await workflow.wait_condition(lambda: self._status.paused is None)
        settings = await self._settings()
        step = self._next_step(settings)
        report = await self._probe(step, settings)
        if report is None:
            return
        self._status.last = report.last
        if report.recovered:
            self._status.verdict = None
        if report.verdict is not None:
            self._status.verdict = report.verdict
            await self._act(report, settings)

    def _next_step(self, settings: WatchSettings) -> WatchStep:
        """What to probe for, shown where people look."""
        standing = self._status.verdict
        if standing is None:
            self._status.next_failover = None
            self._enter("watching")
            return WatchStep()
        until = self._may_start(settings)
        when = "a person must start it: `chainring failover start`"
        if until is not None:
            when = f"the next failover by itself is not before {until:%Y-%m-%d %H:%M:%S}Z"
        self._status.next_failover = until
        self._enter("alarm", f"{standing.why}; {when}")
        return WatchStep(standing=standing, until=until)

    def _may_start(self, settings: WatchSettings) -> datetime | None:
        if not settings.automatic:
            return None
        return next_failover(self._status.ended, workflow.now())

    async def _act(self, report: WatchReport, settings: WatchSettings) -> None:
        verdict, until = report.verdict, self._may_start(settings)
        if verdict is None or until is None or until > workflow.now():
            return  # it stands: the next round says so
        by = report.at + timedelta(seconds=settings.initiate_within)
        request = FailOverRequest(actor=ACTOR, reason=verdict.why, verdict=verdict, initiate_by=by)
        self._enter("failing over", verdict.why)
        try:
            started = await workflow.execute_activity(
                "start_failover",
                request,
                result_type=StartedFailOver,
                summary="start FailOver, or find the one that runs",
                start_to_close_timeout=QUICK,
                schedule_to_close_timeout=max(by - workflow.now(), timedelta(seconds=1)),
                retry_policy=PERSISTENT,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            why = f"no failover within {settings.initiate_within} s: {plain_words(error)}"
            self._enter("alarm", why)  # the verdict is too old by now: probe again
            return
        await self._follow(started, verdict)

    async def _follow(self, started: StartedFailOver, verdict: Verdict) -> None:
        self._status.failover = started.workflow
        whose = "found" if started.found else "started"
        self._enter("failing over", f"{verdict.why}; {whose} {started.workflow}")
        end = await workflow.execute_activity(
            "follow_failover",
            started.workflow,
            result_type=FailOverEnd,
            summary=f"wait for {started.workflow}",
            start_to_close_timeout=LONG,
            heartbeat_timeout=QUICK,
            retry_policy=PERSISTENT,
        )
        self._status.ended = [*self._status.ended, workflow.now()][-KEPT:]
        if end.normal:
            self._status.verdict = None

    async def _settings(self) -> WatchSettings:
        found: WatchSettings = await workflow.execute_activity(
            "watch_settings",
            result_type=WatchSettings,
            summary="read the configuration",
            start_to_close_timeout=QUICK,
            retry_policy=PERSISTENT,
        )
        return found

    async def _probe(self, step: WatchStep, settings: WatchSettings) -> WatchReport | None:
        """Probe until there is something to say; None: a person paused it."""
        self._probing = workflow.start_activity(
            "watch_store",
            step,
            result_type=WatchReport,
            summary=f"probe every {settings.interval} s",
            start_to_close_timeout=LONG,
            heartbeat_timeout=timedelta(seconds=settings.timeout / 2),  # half is for the verdict
            retry_policy=PERSISTENT,
        )
        try:
            return await self._probing
        except ActivityError:
            if self._status.paused is None:
                raise
            return None
        finally:
            self._probing = None

    def _enter(self, state: WatchState, why: str = "") -> None:
        status = self._status
        if (status.state, status.why) != (state, why):
            status.state, status.why, status.since = state, why, workflow.now()
        workflow.upsert_search_attributes([STATE.value_set(state)])
        lines = [f"**{state}**{': ' + why if why else ''}"]
        if (last := status.last) is not None:
            lines.append(f"- {last.at:%H:%M:%S} {last.outcome} {last.seconds:.3f} s {last.why}")
        if status.failover:
            lines.append(f"- newest failover: `{status.failover}`")
        workflow.set_current_details("\n".join(lines))
