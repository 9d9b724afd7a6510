"""A rollout refuses what does not stand: at its start, before each ring, and where it goes back."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rollout_harness import (
    CONTROL_QUEUE,
    REGIONS,
    Fleet,
    Handle,
    Plane,
    decide,
    end,
    hurry,
    look,
    only_waits_for,
    reset_to,
    until,
)
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError

from models.break_glass import Override
from models.ids import short
from models.receipts import Draft, Receipt
from models.release_verdict import Judged, ReleaseVerdict
from models.rollout import RolloutState
from models.verification_policy import RollbackPolicy, RolloutPolicy, VerificationPolicy
from workflows.regions import plain_words

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")


def judged(plane: Plane, release: str) -> list[Receipt]:
    return [each.receipt for each in plane.ledger.read(kinds=["release.judged"], subject=release)]


def let_through(plane: Plane, release: str, until: datetime | None = None) -> Override:
    override = Override(
        id=f"breakglass/{release[-12:]}/1",
        release=release,
        opened_by="ana",
        approved_by="ben",
        reason="fix for the outage",
        expires=until or datetime.now(UTC) + timedelta(days=1),
    )
    draft = Draft(
        kind="breakglass.approved",
        actor="ben",
        subject=override.id,
        body={},
        idempotency_key=override.id,
    )
    return plane.overrides.grant(override, draft)


async def refused(handle: Handle, update: str) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as error:
        await decide(handle, update)
    return str(error.value.cause)


async def test_it_is_verified_at_the_start_and_before_each_ring(plane: Plane, fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    handle = await fleet.start(release, actor="ana")

    status = await end(handle)

    assert status.state == RolloutState.COMPLETED
    assert plane.verifier.phases(release) == ["start", "ring canary", "ring 100%"]
    receipts = judged(plane, release)
    assert [each.body["verdict"]["phase"] for each in receipts] == plane.verifier.phases(release)
    assert {each.workflow_id for each in receipts} == {handle.id}
    assert status.verification is not None
    assert (status.verification.outcome, status.verification.seq) == ("pass", receipts[-1].seq)
    assert "verified (ring 100%): **pass**" in await look(handle)
    [started] = [each for each in fleet.receipts(handle) if each.kind == "rollout.started"]
    assert started.body["verdict"] == receipts[0].body["verdict_digest"]


async def test_each_activation_is_told_who_deploys_and_by_which_verdict(
    plane: Plane, fleet: Fleet
) -> None:
    release = fleet.release("1.1.0")
    await end(await fleet.start(release, actor="ana"))

    verdicts = [each.body["verdict_digest"] for each in judged(plane, release)]
    approvals = [each for code in ("eu", "us-east") for each in fleet.regions[code].approvals]
    assert len(approvals) == 10
    assert {each.deployer for each in approvals} == {"ana"}
    assert {each.verdict(release) for each in approvals} == set(verdicts[1:])


async def test_a_refused_release_changes_nothing(plane: Plane, fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    plane.verifier.say(release, "fail")

    status = await end(handle := await fleet.start(release))

    assert status.state == RolloutState.REFUSED
    assert status.why == "verification (start) refuses the release: sbom: the test says fail"
    assert fleet.running() == {fleet.old} and fleet.holder() == ""
    assert not any(fleet.regions[code].staged for code in ("eu", "us-east"))
    assert fleet.kinds(handle) == ["rollout.ended"]
    assert release not in plane.store.known_bad(), "evidence may still come"
    assert "- sbom: the test says fail" in await look(handle)


async def test_evidence_that_falls_before_a_later_ring_takes_the_release_back(
    plane: Plane, fleet: Fleet
) -> None:
    release = fleet.release("1.1.0")
    plane.verifier.say(release, "fail", "ring 100%")

    status = await end(await fleet.start(release))

    assert status.state == RolloutState.ROLLED_BACK
    assert "verification (ring 100%) refuses the release" in status.why
    assert fleet.running() == {fleet.old}
    assert plane.store.known_bad()[release] == status.why


async def test_the_policy_may_say_that_shards_keep_what_they_have(
    plane: Plane, fleet: Fleet
) -> None:
    release = fleet.release("1.1.0")
    plane.verifier.policy = VerificationPolicy(rollout=RolloutPolicy(refused_midway="stop"))
    plane.verifier.say(release, "fail", "ring 100%")

    status = await end(await fleet.start(release))

    assert status.state == RolloutState.ABORTED
    assert fleet.running() == {fleet.old, release}
    assert release in plane.store.known_bad()


async def test_without_an_answer_it_holds_and_a_person_may_ask_again(
    plane: Plane, fleet: Fleet
) -> None:
    release = fleet.release("1.1.0")
    plane.verifier.say(release, "error", "ring canary")
    handle = await fleet.start(release)

    held = await until(handle, "holding", ring="canary")

    assert "verification (ring canary) gave no answer" in held.why and held.deadline is not None
    assert fleet.running() == {fleet.old}
    assert "nobody can give one for it" in await refused(handle, "promote")
    plane.verifier.say(release, "pass", "ring canary")
    assert (await decide(handle, "retry_gate")).then == "it is verified again"
    assert (await end(handle)).state == RolloutState.COMPLETED
    outcomes = [each.body["verdict"]["outcome"] for each in judged(plane, release)]
    assert outcomes == ["pass", "error", "pass", "pass", "pass"]
    assert plane.verifier.phases(release).count("ring canary") == 3 + 2, "an error is asked thrice"


@pytest.mark.parametrize(
    ("phase", "state"),
    [("start", "refused"), ("ring canary", "refused"), ("ring 100%", "rolled back")],
)
async def test_nobody_decides(plane: Plane, fleet: Fleet, phase: str, state: str) -> None:
    release = fleet.release("1.1.0")
    plane.verifier.say(release, "error", phase)
    handle = await fleet.start(release)
    await until(handle, "holding")
    await hurry(fleet, handle)

    status = await end(handle)

    assert status.state == state and "nobody decided within 3600 s" in status.why
    assert fleet.running() == {fleet.old}
    assert release not in plane.store.known_bad()


@pytest.mark.parametrize("outcome", ["fail", "error"])
async def test_a_break_glass_lets_it_through_and_is_seen_everywhere(
    plane: Plane, fleet: Fleet, outcome: Any
) -> None:
    release = fleet.release("1.1.0")
    plane.verifier.say(release, outcome)
    override = let_through(plane, release)

    status = await end(handle := await fleet.start(release))

    assert status.state == RolloutState.COMPLETED
    assert status.verification is not None and status.verification.override == override.words()
    assert "BREAK-GLASS" in await look(handle)
    assert {each.body["override"]["id"] for each in judged(plane, release)} == {override.id}
    assert {each.override for each in fleet.regions["eu"].approvals} == {override.id}


async def test_an_approval_that_is_replayed_after_its_time_opens_nothing(
    plane: Plane, fleet: Fleet
) -> None:
    release = fleet.release("1.1.0")
    plane.verifier.say(release, "fail")
    let_through(plane, release, until=datetime.now(UTC) - timedelta(seconds=1))

    assert (await end(await fleet.start(release))).state == RolloutState.REFUSED


async def test_an_override_for_another_release_opens_nothing(plane: Plane, fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    plane.verifier.say(release, "fail")
    let_through(plane, fleet.old)

    assert (await end(await fleet.start(release))).state == RolloutState.REFUSED


async def test_a_judgement_is_made_once_and_a_reset_makes_a_new_one(
    plane: Plane, fleet: Fleet
) -> None:
    release = fleet.release("1.1.0")
    handle = await fleet.start(release)
    await end(handle)

    again = await reset_to(handle, f"verify {short(release)} (ring 100%)")

    assert (await end(again)).state == RolloutState.COMPLETED
    runs = [receipt.run_id for receipt in judged(plane, release)]
    assert len(runs) == 4 and len(set(runs)) == 2


async def test_where_a_rollback_goes_is_judged_and_a_refused_target_is_warned_of(
    plane: Plane, fleet: Fleet
) -> None:
    release = fleet.release("1.1.0")
    fleet.traffic(release, "errors")
    plane.verifier.say(fleet.old, "fail")

    status = await end(handle := await fleet.start(release))

    assert status.state == RolloutState.ROLLED_BACK and fleet.running() == {fleet.old}
    [warning] = status.warnings
    assert "would be refused today, the way back goes there all the same" in warning
    assert "**warning:**" in await look(handle)
    [begun] = [each for each in fleet.receipts(handle) if each.kind == "rollback.started"]
    assert begun.body["warnings"] == [warning] and begun.body["refused"] == []
    [receipt] = judged(plane, fleet.old)
    assert receipt.body["tolerated"] and receipt.body["verdict"]["phase"] == "rollback"
    back = [each for each in fleet.regions["eu"].approvals if each.verdict(fleet.old)]
    assert back[0].verdict(fleet.old) == receipt.body["verdict_digest"]


async def test_a_policy_may_refuse_to_go_back_to_what_does_not_stand(
    plane: Plane, fleet: Fleet
) -> None:
    older = fleet.release("0.9.0")
    for code in ("eu", "us-east"):
        fleet.regions[code].ran_before(older)
    release = fleet.release("1.1.0")
    fleet.traffic(release, "errors")
    plane.verifier.policy = VerificationPolicy(rollback=RollbackPolicy(target_refused="refuse"))
    plane.verifier.say(fleet.old, "fail")

    status = await end(await fleet.start(release))

    assert "the way back avoids it" in status.warnings[0]
    assert older in fleet.running() and release not in fleet.running()


async def test_a_debt_is_not_paid_with_a_release_that_no_longer_stands(
    plane: Plane, fleet: Fleet
) -> None:
    fleet.configure(REGIONS, region_down="skip", region_down_after_seconds=3)
    fleet.regions["eu"].hold("stage")
    release = fleet.release("1.1.0")
    handle = await fleet.start(release)
    await until(handle, "staging")
    await only_waits_for(handle, "eu")
    await plane.down("apac")
    fleet.regions["eu"].let_go()
    plane.verifier.say(release, "fail", "debt of apac")
    await end(handle)
    await plane.up("apac")

    debt = plane.client.get_workflow_handle(f"debt/{handle.id}/apac")
    with pytest.raises(WorkflowFailureError) as error:
        await debt.result()

    assert "apac is not brought to the release: sbom" in plain_words(error.value)
    assert release not in fleet.regions["apac"].running.values()


async def verify(fleet: Fleet, reference: str) -> Any:
    return await fleet.plane.client.start_workflow(
        "VerifyRelease",
        {"release": reference},
        id=f"verify/{fleet.name}/{datetime.now(UTC).timestamp()}",
        task_queue=CONTROL_QUEUE,
        result_type=ReleaseVerdict,
    )


async def test_anybody_may_ask_for_a_verdict(plane: Plane, fleet: Fleet) -> None:
    release = fleet.release("1.1.0")
    plane.verifier.say(release, "fail")

    verdict = await (handle := await verify(fleet, f"{fleet.name}:1.1.0")).result()

    assert (verdict.release, verdict.outcome, verdict.phase) == (release, "fail", "verify")
    [receipt] = judged(plane, release)
    body = {key: value for key, value in receipt.body.items() if key != "verdict_digest"}
    assert Judged.model_validate({**body, "seq": receipt.seq}).verdict == verdict
    assert receipt.body["verdict_digest"] == verdict.digest()
    assert "| sbom | fail |" in await look(handle)


async def test_a_release_that_is_not_there_is_said_at_once(fleet: Fleet) -> None:
    with pytest.raises(WorkflowFailureError) as error:
        await (await verify(fleet, "nothing:1")).result()
    assert "release 'nothing:1': not in" in plain_words(error.value)
