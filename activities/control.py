"""Effects of the control plane: the lease, the plan, the calendar, the judgement, the receipts."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.errors import final_errors
from models.config import Config, load_config
from models.ids import short
from models.judge import judge
from models.planning import Plan, plan_rollout
from models.receipts import Draft
from models.rollout import Claim, RolloutRequest, RolloutSettings
from models.steps import (
    AdvanceEpoch,
    AskCalendar,
    CalendarAnswer,
    ClaimFleet,
    Condemn,
    FreeFleet,
    KeepCatalog,
    PlanRings,
)
from models.verdict import Evidence, Verdict
from stores.checkpoints import Notary
from stores.control import ControlStore
from stores.ledger import Ledger, utc_now
from stores.oci import ImageLayout, ReleaseError

POLL_SECONDS = 0.25


class ControlActivities:
    """What the control worker does outside its workflows."""

    def __init__(
        self,
        *,
        store: ControlStore,
        ledger: Ledger,
        layout: ImageLayout,
        config: Path,
        notary: Notary,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._layout = layout
        self._config = config
        self._notary = notary
        self._clock = clock

    @activity.defn
    @final_errors
    def prepare_rollout(self, request: RolloutRequest) -> RolloutSettings:
        """Resolve what was asked against the configuration and the release store.

        Raises:
            ReleaseError: the release is not in the store, or is known to be bad.
            ConfigError: the configuration or an override of it does not hold.
        """
        config = self._load().with_overrides(request.overrides)
        release = self._layout.describe(request.release)
        known_bad = self._store.known_bad()
        if request.release in known_bad and request.accept_known_bad is None:
            raise ReleaseError(
                f"release: {short(request.release)} failed before "
                f"({known_bad[request.release]}); set accept_known_bad to a reason to try it again"
            )
        policy = config.gate_policy()
        return RolloutSettings(
            release=request.release,
            name=release.name,
            version=release.version,
            config_digest=config.digest(),
            fleet=config.fleet.name,
            regions=sorted(config.regions),
            rollout=config.rollout,
            when_busy=request.when_busy or config.rollout.when_busy,
            gates=None if request.skip_gates else policy,
            bake_seconds=config.bake_seconds(),
            hold_seconds=policy.hold_seconds,
            known_bad=sorted(set(known_bad) - {request.release}),
        )

    @activity.defn
    async def claim_fleet(self, step: ClaimFleet) -> Claim:
        """Take the fleet if it is free, or its holder has ended without giving it back.

        Otherwise the claim says who has it.
        """
        claim = await asyncio.to_thread(self._store.claim, step.fleet, step.rollout, step.run)
        if claim.epoch or await _is_open(claim.holder):
            return claim
        return await asyncio.to_thread(
            self._store.claim, step.fleet, step.rollout, step.run, instead_of=claim.holder
        )

    @activity.defn
    async def wait_for_fleet(self, step: ClaimFleet) -> Claim:
        """Heartbeat until `claim_fleet` has taken the fleet."""
        while True:
            claim = await self.claim_fleet(step)
            if claim.epoch:
                return claim
            activity.heartbeat(claim.holder)
            await asyncio.sleep(POLL_SECONDS)

    @activity.defn
    @final_errors
    def advance_epoch(self, step: AdvanceEpoch) -> Claim:
        """Fence what the rollout did so far."""
        return self._store.advance(step.fleet, step.rollout, step.phase)

    @activity.defn
    @final_errors
    def free_fleet(self, step: FreeFleet) -> None:
        """Give the fleet back, and sign the ledger's head."""
        self._store.release(step.fleet, step.rollout)
        self._notary.checkpoint()

    @activity.defn
    @final_errors
    def keep_catalog(self, step: KeepCatalog) -> int:
        """Keep a region's catalog for the plan; returns its number of shards."""
        self._store.keep_catalog(step.catalog.region, step.catalog.shards)
        return len(step.catalog.shards)

    @activity.defn
    @final_errors
    def plan_rings(self, step: PlanRings) -> Plan:
        """Plan the rings over every region's catalog."""
        settings = step.settings
        rollout = settings.rollout
        return plan_rollout(
            [shard for region in settings.regions for shard in self._store.catalog(region)],
            settings.release,
            canary_percent=rollout.canary_percentage,
            rings=rollout.rollout_rings,
            max_blast_radius_percent=rollout.max_blast_radius_percent,
        )

    @activity.defn
    @final_errors
    def check_calendar(self, step: AskCalendar) -> CalendarAnswer:
        """Whether a ring may start now, by the calendar as it stands now."""
        calendar = self._load().calendar
        now = self._clock()
        window = calendar.blocked(now, step.regions)
        if window is None:
            return CalendarAnswer()
        return CalendarAnswer(
            blocked_by=f"{window.name}: {window.reason}".removesuffix(": "),
            next_open=calendar.next_open(now, step.regions),
        )

    @activity.defn
    @final_errors
    def judge_gate(self, evidence: Evidence) -> Verdict:
        """Judge a ring. Pure: it is an activity only because the statistics are slow to import."""
        return judge(evidence)

    @activity.defn
    @final_errors
    def record(self, drafts: list[Draft]) -> list[int]:
        """Append receipts to the control plane's ledger; returns their sequence numbers."""
        return [appended.seq for appended in self._ledger.append(drafts)]

    @activity.defn
    @final_errors
    def condemn_release(self, step: Condemn) -> None:
        """Remember a release as known bad, in one transaction with its receipt."""
        self._store.condemn(step.release, step.rollout, step.why, step.draft)

    def _load(self) -> Config:
        return load_config(self._config.read_text())


async def _is_open(workflow_id: str) -> bool:
    """Whether the newest run of a workflow is still open; an unknown workflow is not."""
    try:
        description = await activity.client().get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return False
        raise
    return description.status == WorkflowExecutionStatus.RUNNING
