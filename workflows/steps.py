"""Every activity a workflow may run: by name, with its time limits, retries and UI label.

Retries end only where an answer is final (`activities.errors`): a store or a gateway that does not
answer is asked again for as long as the rollout lives, because giving up would leave a fleet
between two versions.
"""

from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy

from models.contracts import (
    CatalogReply,
    RetireRequest,
    RollbackRequest,
    ShardActivation,
    StageReply,
    StageRequest,
)
from models.ids import short
from models.planning import Plan
from models.receipts import Draft
from models.release_verdict import Judged
from models.rollout import Claim, RolloutRequest, RolloutSettings
from models.steps import (
    ActivateShard,
    AdvanceEpoch,
    AskCalendar,
    CalendarAnswer,
    ClaimFleet,
    Condemn,
    DrainRelease,
    FreeFleet,
    JudgeRelease,
    KeepCatalog,
    PlanRings,
    ResolvedRelease,
    ResolveRelease,
    ShardMove,
)
from models.verdict import Evidence, Verdict

_Result = TypeVar("_Result")

PERSISTENT = RetryPolicy(
    initial_interval=timedelta(milliseconds=200),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=5),
)
SHORT = timedelta(seconds=30)
STAGING = timedelta(minutes=10)
JUDGING = timedelta(minutes=5)
HEARTBEAT = timedelta(seconds=15)
FOREVER = timedelta(days=365)


NOTHING = object()
"""The argument of an activity that takes none."""


async def run_step(
    name: str,
    argument: Any,
    result: type[_Result],
    summary: str,
    *,
    limit: timedelta = SHORT,
    heartbeat: timedelta | None = None,
    retry: RetryPolicy = PERSISTENT,
) -> _Result:
    """Run an activity by name until it answers or refuses; ``summary`` is its label in the UI."""
    answer: _Result = await workflow.execute_activity(
        name,
        args=[] if argument is NOTHING else [argument],
        result_type=result,
        start_to_close_timeout=limit,
        heartbeat_timeout=heartbeat,
        retry_policy=retry,
        summary=summary,
    )
    return answer


async def prepare_rollout(request: RolloutRequest) -> RolloutSettings:
    """Fix the configuration for this rollout: a later change of the file does not reach it."""
    summary = f"configuration for {short(request.release)}"
    return await run_step("prepare_rollout", request, RolloutSettings, summary)


async def claim_fleet(step: ClaimFleet) -> Claim:
    """Ask once for the fleet; an epoch of 0 in the answer means that somebody else has it."""
    return await run_step("claim_fleet", step, Claim, f"take fleet {step.fleet}")


async def wait_for_fleet(step: ClaimFleet, holder: str) -> Claim:
    """Wait without limit until ``holder`` has ended; cancel the step to give up."""
    summary = f"wait for {holder}"
    return await run_step(
        "wait_for_fleet", step, Claim, summary, limit=FOREVER, heartbeat=HEARTBEAT
    )


async def advance_epoch(step: AdvanceEpoch) -> Claim:
    """Raise the epoch, so that whatever the phase before left under way is refused."""
    return await run_step("advance_epoch", step, Claim, f"fence for {step.phase}")


async def free_fleet(step: FreeFleet) -> None:
    """The last step of a rollout: others wait for it."""
    await run_step("free_fleet", step, type(None), f"give back fleet {step.fleet}")


async def keep_catalog(catalog: CatalogReply) -> int:
    """Keep a catalog for the plan, also while its region is down; returns its shards' number."""
    summary = f"catalog of {catalog.region}: {len(catalog.shards)} shards"
    return await run_step("keep_catalog", KeepCatalog(catalog=catalog), int, summary)


async def plan_rings(settings: RolloutSettings) -> Plan:
    """Plan over the catalogs as kept last, those of unreachable regions included."""
    summary = f"plan rings for {settings.name} {settings.version}"
    return await run_step("plan_rings", PlanRings(settings=settings), Plan, summary)


async def check_calendar(ring: str, step: AskCalendar) -> CalendarAnswer:
    """Ask the calendar of this moment, not the one the rollout began with."""
    return await run_step("check_calendar", step, CalendarAnswer, f"may ring {ring} start now?")


async def judge_gate(evidence: Evidence) -> Verdict:
    """The verdict on this evidence; a step only because SciPy is slow to import in the sandbox."""
    summary = f"gate {evidence.ring}, look {evidence.look} of {evidence.looks}"
    return await run_step("judge_gate", evidence, Verdict, summary)


async def judge_release(step: JudgeRelease) -> Judged:
    """The verdict on a release's evidence as it is now, once its receipt is durable."""
    summary = f"verify {short(step.release)} ({step.phase})"
    return await run_step(
        "judge_release", step, Judged, summary, limit=JUDGING, heartbeat=HEARTBEAT
    )


async def resolve_release(reference: str) -> ResolvedRelease:
    """The digest that a reference stands for now; from here on only the digest counts."""
    step = ResolveRelease(reference=reference)
    return await run_step("resolve_release", step, ResolvedRelease, f"which digest is {reference}?")


async def record(*drafts: Draft) -> list[int]:
    """Append to the control ledger, all or none; returns sequence numbers once they are durable."""
    summary = ", ".join(sorted({draft.kind for draft in drafts}))
    return await run_step("record", list(drafts), list[int], f"receipt: {summary}")


async def condemn_release(step: Condemn) -> None:
    """No later rollout takes this release without a reason to (``accept_known_bad``)."""
    await run_step("condemn_release", step, type(None), f"{short(step.release)} is known bad")


async def stage_release(request: StageRequest) -> StageReply:
    """Region: start a release without traffic, and wait until it is healthy or has failed."""
    summary = f"stage {short(request.release)}"
    return await run_step(
        "stage_release", request, StageReply, summary, limit=STAGING, heartbeat=HEARTBEAT
    )


async def activate_shard(step: ActivateShard) -> ShardActivation:
    """Region: returns when the gateway routes the shard's tenants to the release."""
    summary = f"{step.shard} to {short(step.release)}"
    return await run_step("activate_shard", step, ShardActivation, summary)


async def plan_rollback(request: RollbackRequest) -> list[ShardMove]:
    """Region: fences the forward epoch before it reads where the shards come from."""
    summary = f"where {len(request.shards)} shard(s) go back to"
    return await run_step("plan_rollback", request, list[ShardMove], summary)


async def idle_releases(request: RetireRequest) -> list[str]:
    """Region: releases to drain, read once every shard of the rollout has its place."""
    return await run_step("idle_releases", request, list[str], "releases no shard runs")


async def drain_release(step: DrainRelease) -> None:
    """Region: returns when the process has answered what it held and has ended."""
    summary = f"drain {short(step.release)}"
    await run_step("drain_release", step, type(None), summary, limit=STAGING, heartbeat=HEARTBEAT)


async def settle_region(request: RetireRequest) -> None:
    """Region: tenants may move between shards again, and the ledger's head is signed."""
    await run_step("settle_region", request, type(None), "tenants may move; sign the ledger's head")
