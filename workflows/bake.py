"""A ring's bake: looks at equal distances, a verdict at each, and a person where there is none."""

import asyncio
import contextlib
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from models.contracts import ObserveRequest, Region
from models.gate_policy import GatePolicy
from models.observation import RegionObservation
from models.planning import RingPlan
from models.rollout import RolloutState
from models.verdict import Evidence, Verdict, gather_evidence
from workflows import steps
from workflows.journey import Journey, Stop
from workflows.regions import RegionUnreachable

OBSERVE_LIMIT = timedelta(seconds=20)


async def bake(
    journey: Journey, ring: RingPlan, policy: GatePolicy, *, expects_baseline: bool
) -> None:
    """Return when the ring's gate has passed, by its own verdict or by a person's word.

    Raises:
        Stop: the gate failed, gave no answer before its deadline, or the rollout was stopped.
    """
    entry = journey.ring_status(ring)
    attempt = 0
    while True:
        attempt += 1
        journey.enter(RolloutState.BAKING)
        verdict, evidence = await _look_until_decided(journey, ring, policy, expects_baseline)
        journey.stop_if_asked()
        outcome = "promoted" if journey.people.promoted else verdict.outcome
        entry.outcome, entry.ended = outcome, workflow.now()
        await _record(journey, ring, attempt, outcome, verdict, evidence)
        if outcome in ("pass", "promoted"):
            return
        if outcome == "fail":
            why = f"gate of ring {ring.name} failed: {verdict.why}"
            raise Stop(RolloutState.ROLLED_BACK, why, rollback=True, condemn=True)
        if not await _held(journey, ring, verdict):
            return


async def _look_until_decided(
    journey: Journey, ring: RingPlan, policy: GatePolicy, expects_baseline: bool
) -> tuple[Verdict, Evidence]:
    people = journey.people
    start = await observe(journey, journey.settings.release)
    series: list[list[RegionObservation]] = []
    began = workflow.now()
    for look in range(1, policy.looks + 1):
        due = began + timedelta(seconds=policy.bake_seconds * look / policy.looks)
        await _until(journey, due)
        journey.stop_if_asked()
        series.append(await observe(journey, journey.settings.release))
        evidence = gather_evidence(
            ring=ring.name,
            look=look,
            looks=policy.looks,
            policy=policy,
            start=start,
            series=series,
            expects_baseline=expects_baseline,
        )
        verdict = await steps.judge_gate(evidence)
        journey.ring_status(ring).verdict = verdict
        journey.show()
        if _is_final(verdict) or people.promoted:
            break
    return verdict, evidence


def _is_final(verdict: Verdict) -> bool:
    """Whether no later look can change it: a failure, or an error that reading again won't mend."""
    return verdict.outcome == "fail" or (verdict.outcome == "error" and not verdict.retryable)


async def _until(journey: Journey, due: datetime) -> None:
    people = journey.people
    left = due - workflow.now()
    if left <= timedelta(0):
        return
    with contextlib.suppress(TimeoutError):
        await workflow.wait_condition(lambda: people.stopping or people.promoted, timeout=left)


async def observe(journey: Journey, release: str) -> list[RegionObservation]:
    """Ask every region where the rollout has shards how the release does there.

    A region that cannot be asked is waited for where the configuration says so; otherwise its
    observation carries the problem, which no gate lets pass.
    """
    owed = {debt.region for debt in journey.status.debts}
    changed = {region for region, _ in journey.changed}
    regions = sorted(changed - owed) or sorted(changed)
    return list(await asyncio.gather(*(_observe(journey, region, release) for region in regions)))


async def _observe(journey: Journey, region: str, release: str) -> RegionObservation:
    try:
        return await journey.calls.insist(
            region,
            Region.observe,
            ObserveRequest(candidate=release),
            summary=f"metrics of {region}",
            limit=OBSERVE_LIMIT,
            patient=journey.patient,
        )
    except (RegionUnreachable, ApplicationError) as error:
        return RegionObservation(region=region, at=workflow.now(), problem=str(error))


async def _held(journey: Journey, ring: RingPlan, verdict: Verdict) -> bool:
    """Wait for a person; whether the gate is to be tried again (otherwise it was promoted)."""
    people, hold = journey.people, timedelta(seconds=journey.settings.hold_seconds)
    journey.status.deadline = workflow.now() + hold
    journey.enter(RolloutState.HOLDING, f"gate of ring {ring.name}: {verdict.why}")
    try:
        await workflow.wait_condition(
            lambda: people.stopping or people.promoted or people.retried, timeout=hold
        )
    except TimeoutError:
        why = (
            f"gate of ring {ring.name} was {verdict.outcome} and nobody decided within "
            f"{hold.total_seconds():.0f} s: {verdict.why}"
        )
        raise Stop(RolloutState.ROLLED_BACK, why, rollback=True) from None
    finally:
        journey.status.deadline = None
    journey.stop_if_asked()
    if people.promoted:
        journey.ring_status(ring).outcome = "promoted"
        return False
    people.forget_retry()
    return True


async def _record(
    journey: Journey,
    ring: RingPlan,
    attempt: int,
    outcome: str,
    verdict: Verdict,
    evidence: Evidence,
) -> None:
    body = {
        "ring": ring.name,
        "outcome": outcome,
        "epoch": journey.epoch,
        "verdict": verdict.model_dump(mode="json"),
        "evidence": evidence.model_dump(mode="json"),
    }
    step = f"gate/{ring.name}/{attempt}"
    await steps.record(journey.people.draft("gate.verdict", step, body))
