"""A rollout's questions about its release's evidence: at the start, before each ring, going back.

Only a pass goes on, or a break-glass that two people opened. A refusal ends the rollout. Where
there is no answer, the rollout holds for a person, as for a gate without one.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

from models.deployment import Approval
from models.ids import short
from models.release_verdict import Judged
from models.rollout import RolloutState
from models.steps import JudgeRelease
from workflows import steps
from workflows.journey import Journey, Stop

VERIFIED = "verified-releases"
"""Name of the change (`workflow.patched`) since which releases are judged."""

START = "start"
ROLLBACK = "rollback"
TARGETS_LIMIT = timedelta(minutes=1)


async def verify(journey: Journey, phase: str) -> bool:
    """Return when the release's evidence stands now, or a break-glass lets it through.

    Returns:
        Whether the rollout was held meanwhile, so that what was asked before must be asked again.

    Raises:
        Stop: the release is refused, nobody decided before the deadline, or people stopped it.
    """
    if not journey.verifies:
        return False
    held = False
    while True:
        journey.judgements += 1
        journey.enter(RolloutState.VERIFYING)
        step = JudgeRelease(
            release=journey.settings.release, phase=phase, attempt=journey.judgements
        )
        judged = await steps.judge_release(step)
        journey.stop_if_asked()
        journey.status.verification = judged.status()
        if judged.may_go_on:
            journey.approval = approval_of(judged, journey.request.actor)
            journey.show()
            return held
        if judged.verdict.outcome == "fail":
            raise _refusal(journey, judged)
        await _held(journey, judged)
        held = True


def approval_of(judged: Judged, deployer: str) -> Approval:
    """What the deploy attestations say about a release that was let through."""
    verdict = judged.verdict
    return Approval(
        deployer=deployer,
        verdicts={verdict.release: verdict.digest()},
        override=judged.override.id if judged.override else "",
    )


def _refusal(journey: Journey, judged: Judged) -> Stop:
    verdict = judged.verdict
    why = f"verification ({verdict.phase}) refuses the release: {verdict.why}"
    if not journey.changed:
        return Stop(RolloutState.REFUSED, why, rollback=False)
    if not judged.roll_back:
        return Stop(RolloutState.ABORTED, why, rollback=False, condemn=True)
    return Stop(RolloutState.ROLLED_BACK, why, rollback=True, condemn=True)


async def _held(journey: Journey, judged: Judged) -> None:
    """Wait until a person asks for another try; the deadline is that of a gate without answer."""
    people, hold = journey.people, timedelta(seconds=journey.settings.hold_seconds)
    why = f"verification ({judged.verdict.phase}) gave no answer: {judged.verdict.why}"
    people.unverified = True
    journey.status.deadline = workflow.now() + hold
    journey.enter(RolloutState.HOLDING, why)
    try:
        await workflow.wait_condition(lambda: people.stopping or people.retried, timeout=hold)
    except TimeoutError:
        state = RolloutState.ROLLED_BACK if journey.changed else RolloutState.REFUSED
        why += f"; nobody decided within {hold.total_seconds():.0f} s"
        raise Stop(state, why, rollback=True) from None
    finally:
        people.unverified = False
        journey.status.deadline = None
    journey.stop_if_asked()
    people.forget_retry()


@dataclass(frozen=True)
class Targets:
    """The releases that a rollback may go to, as they were judged."""

    approval: Approval | None = None
    refused: frozenset[str] = frozenset()
    warnings: list[str] = field(default_factory=list)

    def told(self) -> dict[str, list[str]]:
        """What the rollback's receipt says of them; nothing where they were not judged."""
        if self.approval is None:
            return {}
        return {"warnings": self.warnings, "refused": sorted(self.refused)}


async def judge_targets(journey: Journey) -> Targets:
    """Judge where the shards came from; a warning for each that does not stand.

    Going back is urgent, and staying may be worse: what cannot be judged in time is a warning too.
    The policy may say that a target which is refused is not gone back to (ADR 0010).
    """
    if not journey.verifies:
        return Targets()
    releases = sorted(journey.came_from - {journey.settings.release, *journey.settings.known_bad})
    answers = await asyncio.gather(*(_judge_target(release) for release in releases))
    verdicts: dict[str, str] = {}
    warnings: list[str] = []
    refused: set[str] = set()
    for release, judged in zip(releases, answers, strict=True):
        if judged is None:
            warnings.append(
                f"{short(release)} could not be judged in time; the way back goes there"
            )
            continue
        verdicts[release] = judged.verdict.digest()
        if judged.verdict.outcome == "pass":
            continue
        if judged.may_go_on:
            where = "the way back goes there all the same"
        else:
            where, refused = "the way back avoids it", refused | {release}
        warnings.append(f"{short(release)} would be refused today, {where}: {judged.verdict.why}")
    journey.status.warnings += warnings
    journey.show()
    approval = Approval(deployer=journey.request.actor, verdicts=verdicts)
    return Targets(approval, frozenset(refused), warnings)


async def _judge_target(release: str) -> Judged | None:
    judging = asyncio.create_task(
        steps.judge_release(JudgeRelease(release=release, phase=ROLLBACK))
    )
    try:
        return await asyncio.wait_for(judging, TARGETS_LIMIT.total_seconds())
    except (ActivityError, TimeoutError):
        return None
