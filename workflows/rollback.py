"""The way back: each changed shard to its last release not known bad, newest ring first."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception

from models.contracts import Region, RollbackRequest
from models.gate_policy import GatePolicy
from models.observation import RegionObservation
from models.rollout import RolloutState
from models.steps import AdvanceEpoch
from models.verdict import Verdict, gather_evidence
from workflows import steps
from workflows.bake import observe
from workflows.journey import Journey, Stop
from workflows.verification import Targets, judge_targets

CHECK_SECONDS = 10.0  # at most: a rollback is judged, but it does not bake


async def roll_back(journey: Journey, stop: Stop) -> RolloutState:
    """Undo what the rollout changed, under a higher epoch, and judge where it came back to.

    A region that cannot be reached holds up nobody else and is asked until it answers, or until a
    newer rollout takes the fleet.

    Returns:
        The state to end in.
    """
    journey.status.ring = "rollback"
    claim = await steps.advance_epoch(
        AdvanceEpoch(
            fleet=journey.settings.fleet, rollout=workflow.info().workflow_id, phase="rollback"
        )
    )
    journey.status.epoch = claim.epoch
    journey.enter(RolloutState.ROLLING_BACK, stop.why)
    targets = await judge_targets(journey)
    body = {"why": stop.why, "epoch": claim.epoch, **targets.told()}
    await steps.record(journey.people.draft("rollback.started", "rollback/started", body))
    back_to = await _every_region(journey, targets)
    if journey.people.superseded_by and journey.status.waiting_for:
        return RolloutState.SUPERSEDED
    verdicts = await _judge(journey, sorted(back_to))
    healthy = all(verdict.outcome != "fail" for verdict in verdicts)
    body = {
        "epoch": claim.epoch,
        "releases": sorted(back_to),
        "stranded": journey.status.stranded,
        "verdicts": [verdict.model_dump(mode="json") for verdict in verdicts],
    }
    await steps.record(journey.people.draft("rollback.completed", "rollback/completed", body))
    if not healthy or journey.status.stranded:
        return RolloutState.ROLLED_BACK_UNHEALTHY
    return stop.state


async def _every_region(journey: Journey, targets: Targets) -> set[str]:
    """Roll back in all regions at once; the releases that the shards came back to."""
    orders: dict[str, list[str]] = {}
    for region, shards in reversed(journey.changed):
        orders.setdefault(region, []).extend(reversed(shards))
    back_to: set[str] = set()

    async def one(region: str) -> None:
        request = RollbackRequest(
            rollout=workflow.info().workflow_id,
            epoch=journey.epoch,
            shards=orders[region],
            known_bad=sorted(
                {*journey.settings.known_bad, journey.settings.release, *targets.refused}
            ),
            approval=targets.approval,
        )
        summary = f"roll back {len(request.shards)} shard(s) in {region}"
        reply = await journey.calls.insist(region, Region.rollback, request, summary=summary)
        journey.status.stranded.extend(reply.stranded)
        back_to.update(activation.release for activation in reply.activations)

    tasks = [asyncio.create_task(one(region)) for region in sorted(orders)]
    people, status = journey.people, journey.status
    await workflow.wait_condition(
        lambda: (
            all(task.done() for task in tasks) or bool(people.superseded_by and status.waiting_for)
        )
    )
    for task in tasks:
        task.cancel()
    for end in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(end, BaseException) and not is_cancelled_exception(end):
            raise end
    return back_to


async def _judge(journey: Journey, releases: list[str]) -> list[Verdict]:
    """One look at each release the shards came back to, against the absolute bounds."""
    return list(await asyncio.gather(*(_judge_one(journey, release) for release in releases)))


async def _judge_one(journey: Journey, release: str) -> Verdict:
    policy = journey.settings.gates or GatePolicy()
    start = await observe(journey, release)
    seconds = min(CHECK_SECONDS, policy.bake_seconds)
    await workflow.sleep(timedelta(seconds=seconds))
    now: list[RegionObservation] = await observe(journey, release)
    return await steps.judge_gate(
        gather_evidence(
            ring="rollback",
            look=1,
            looks=1,
            policy=policy,
            start=start,
            series=[now],
            expects_baseline=False,
        )
    )
