"""What a person may decide about a running rollout, and when it is refused."""

import asyncio
from typing import Any

import pytest
from rollout_harness import (
    Fleet,
    Handle,
    closed_as,
    decide,
    end,
    eventually,
    hurry,
    status_of,
    until,
)
from temporalio.client import WorkflowExecutionStatus, WorkflowUpdateFailedError

from models.rollout import RolloutState

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = {"gates.bake_seconds": 600}


async def _refusal(handle: Handle, what: str, **fields: Any) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await decide(handle, what, **fields)
    return str(refused.value.cause)


async def _paused_before_the_canary(fleet: Fleet, release: str, **fields: Any) -> Handle:
    fleet.regions["eu"].hold("stage")
    handle = await fleet.start(release, **fields)
    await until(handle, "staging")
    await decide(handle, "pause")
    fleet.regions["eu"].let_go()
    await until(handle, "paused")
    return handle


async def test_a_pause_holds_before_the_next_ring_until_resumed(fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    handle = await _paused_before_the_canary(fleet, release)
    assert (await status_of(handle)).why == "before ring canary"
    assert fleet.running() == {fleet.old}

    await decide(handle, "resume", actor="ben", reason="all clear")

    assert (await end(handle)).state == RolloutState.COMPLETED
    said = [r for r in fleet.receipts(handle) if r.kind.startswith("decision.")]
    assert [(r.kind, r.actor, r.body["reason"]) for r in said] == [
        ("decision.paused", "ana", "to pause"),
        ("decision.resumed", "ben", "all clear"),
    ]


async def test_a_gate_that_fails_during_a_pause_rolls_back(fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "errors")
    handle = await fleet.start(release, overrides=LONG)
    await until(handle, "baking")
    await decide(handle, "pause")

    await hurry(fleet, handle)

    assert (await end(handle)).state == RolloutState.ROLLED_BACK
    assert fleet.running() == {fleet.old}


async def test_promote_skips_the_rest_of_one_rings_bake_and_no_more(fleet: Fleet) -> None:
    handle = await fleet.start(fleet.release("1.1.0"), overrides=LONG)
    await until(handle, "baking", ring="canary")

    # The second one comes late: the ring it was said about may be over when it is recorded.
    await asyncio.gather(decide(handle, "promote"), decide(handle, "promote"))

    status = await until(handle, "baking", ring="100%")
    assert status.rings[0].outcome == "promoted"
    await asyncio.sleep(0.5)
    assert (await status_of(handle)).state == RolloutState.BAKING, "promoted unseen"
    rings = [r.body["ring"] for r in fleet.receipts(handle) if r.kind == "decision.promoted"]
    assert rings == ["canary", "canary"]
    await decide(handle, "promote")
    assert (await end(handle)).state == RolloutState.COMPLETED


@pytest.mark.parametrize(("traffic", "outcome"), [("quiet", "inconclusive"), ("broken", "error")])
async def test_a_gate_without_an_answer_holds_until_promoted(
    fleet: Fleet, traffic: str, outcome: str
) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, traffic)
    handle = await fleet.start(release)

    status = await until(handle, "holding", ring="canary")
    assert status.rings[0].outcome == outcome
    fleet.traffic(release, "good")
    await decide(handle, "promote", reason="looked at it by hand")

    status = await end(handle)
    assert status.state == RolloutState.COMPLETED
    assert [ring.outcome for ring in status.rings] == ["promoted", "pass"]


async def test_a_retried_gate_bakes_again_and_counts_once(fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "quiet")
    handle = await fleet.start(release)
    first = await until(handle, "holding")
    await decide(handle, "retry_gate")
    await eventually(lambda: fleet.kinds(handle).count("gate.verdict") == 2)
    second = await until(handle, "holding")
    assert first.deadline and second.deadline and second.deadline > first.deadline

    fleet.traffic(release, "errors")
    await decide(handle, "retry_gate")

    assert (await end(handle)).state == RolloutState.ROLLED_BACK
    verdicts = [r.body["outcome"] for r in fleet.receipts(handle) if r.kind == "gate.verdict"]
    assert verdicts == ["inconclusive", "inconclusive", "fail"]


async def test_a_hold_without_a_decision_rolls_back_at_its_deadline(fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "quiet")
    handle = await fleet.start(release, skip_time=True)

    status = await end(handle)

    assert status.state == RolloutState.ROLLED_BACK
    assert "inconclusive and nobody decided within 3600 s" in status.why
    assert status.started and status.ended
    assert (status.ended - status.started).total_seconds() >= 3600
    assert fleet.running() == {fleet.old}
    assert "release.condemned" not in fleet.kinds(handle), "nothing was found to be wrong with it"


@pytest.mark.parametrize("rollback", [True, False])
async def test_an_abort_ends_with_or_without_rollback(fleet: Fleet, rollback: bool) -> None:
    release = fleet.release("1.1.0")
    handle = await fleet.start(release, overrides=LONG)
    await until(handle, "baking", ring="canary")

    await decide(handle, "abort", reason="wrong release", rollback=rollback)
    await hurry(fleet, handle)

    status = await end(handle)
    assert (status.state, status.why) == (RolloutState.ABORTED, "aborted by ana: wrong release")
    assert fleet.running() == ({fleet.old} if rollback else {fleet.old, release})
    assert ("rollback.completed" in fleet.kinds(handle)) is rollback
    assert fleet.holder() == ""


async def test_an_abort_cuts_a_ring_short_and_fences_what_is_under_way(fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    fleet.regions["eu"].hold("activate")
    handle = await fleet.start(release)
    await eventually(fleet.regions["eu"].reached.is_set)

    await decide(handle, "abort")
    await eventually(lambda: fleet.regions["eu"].epoch == 2)
    fleet.regions["eu"].let_go()

    assert (await end(handle)).state == RolloutState.ABORTED
    assert fleet.running() == {fleet.old}
    assert all(released == fleet.old for *_, released, _ in fleet.regions["eu"].activated)


@pytest.mark.parametrize("state", ["staging", "activating", "baking", "holding", "paused"])
async def test_cancelling_the_workflow_rolls_back(fleet: Fleet, state: str) -> None:
    release = fleet.release("1.1.0")
    if state == "paused":
        handle = await _paused_before_the_canary(fleet, release)
    else:
        fleet.traffic(release, "quiet" if state == "holding" else "good")
        if state in ("staging", "activating"):
            fleet.regions["eu"].hold({"staging": "stage", "activating": "activate"}[state])
        handle = await fleet.start(release, overrides=LONG if state == "baking" else {})
        await until(handle, state)
        if state in ("staging", "activating"):
            await eventually(fleet.regions["eu"].reached.is_set)

    await handle.cancel()
    if state == "activating":
        await eventually(lambda: fleet.regions["eu"].epoch == 2)
    fleet.regions["eu"].let_go()
    await hurry(fleet, handle)

    status = await end(handle)
    assert (status.state, status.why) == (RolloutState.ABORTED, "the workflow was cancelled")
    assert await closed_as(handle) == WorkflowExecutionStatus.COMPLETED
    assert fleet.running() == {fleet.old}
    assert fleet.kinds(handle)[-1] == "rollout.ended"
    assert fleet.holder() == ""


async def test_decisions_are_refused_in_plain_words_where_they_make_no_sense(fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    handle = await _paused_before_the_canary(fleet, release, overrides=LONG)
    takes = "only a rollout that is {} takes this; it is {}"
    assert await _refusal(handle, "pause") == "the rollout is paused already"
    assert await _refusal(handle, "promote") == takes.format("baking or holding", "paused")
    assert await _refusal(handle, "retry_gate") == takes.format("holding", "paused")
    assert await _refusal(handle, "override_freeze") == takes.format("frozen", "paused")
    assert "reason" in await _refusal(handle, "resume", reason="")
    assert "actor" in await _refusal(handle, "resume", actor="")
    await decide(handle, "resume")

    await until(handle, "baking")
    assert await _refusal(handle, "resume") == "the rollout is not paused"
    assert await _refusal(handle, "retry_gate") == takes.format("holding", "baking")
    fleet.regions["eu"].hold("rollback")
    await decide(handle, "abort")
    await until(handle, "rolling back")
    assert await _refusal(handle, "abort") == "the rollout is ending already (rolling back)"
    assert await _refusal(handle, "pause") == "the rollout is ending already (rolling back)"
    fleet.regions["eu"].let_go()
    await hurry(fleet, handle)
    await end(handle)

    kinds = [kind for kind in fleet.kinds(handle) if kind.startswith("decision.")]
    assert kinds == ["decision.paused", "decision.resumed", "decision.aborted"]


async def test_no_decision_is_taken_that_the_ending_rollout_would_not_heed(fleet: Fleet) -> None:
    fleet.regions["eu"].hold("retire")
    handle = await fleet.start(fleet.release("1.1.0"))
    await eventually(fleet.regions["eu"].reached.is_set)

    for what in ("pause", "promote", "abort"):
        assert "ending already" in await _refusal(handle, what)

    fleet.regions["eu"].let_go()
    assert (await end(handle)).state == RolloutState.COMPLETED


async def test_a_decision_answers_in_a_few_words(fleet: Fleet) -> None:
    handle = await fleet.start(fleet.release("1.1.0"), overrides=LONG)
    await until(handle, "baking", ring="canary")

    answer = await decide(handle, "promote", actor="ben")

    assert (answer.decided, answer.actor, answer.ring) == ("promoted", "ben", "canary")
    assert answer.then == "the rest of this ring's bake is skipped"
