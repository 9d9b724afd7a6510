"""Effects inside one region: stage, activate, roll back, retire."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from temporalio import activity

from activities.errors import final_errors
from activities.heartbeats import beating
from activities.targets.base import DeployTarget
from models.contracts import (
    RetireRequest,
    RollbackRequest,
    ShardActivation,
    StageReply,
    StageRequest,
)
from models.deployment import deployment_statement
from models.ids import Digest
from models.receipts import Draft
from models.steps import ActivateShard, DrainRelease, ShardMove
from stores.checkpoints import Notary
from stores.ledger import Ledger, utc_now
from stores.shards import ShardStore


class RegionActivities:
    """What one region's worker does to its target, shards and ledger."""

    def __init__(
        self,
        region: str,
        *,
        target: DeployTarget,
        shards: ShardStore,
        ledger: Ledger,
        notary: Notary,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._region = region
        self._target = target
        self._shards = shards
        self._ledger = ledger
        self._notary = notary
        self._clock = clock

    @activity.defn
    @final_errors
    def stage_release(self, request: StageRequest) -> StageReply:
        """Unpack and start a release without traffic; its shards' tenants stay put from here on."""
        self._shards.raise_epoch(request.epoch)
        self._mark(rolling=True)
        with beating():  # pulling a release can take longer than a heartbeat may be late
            staged = self._target.stage(request.release, heartbeat=activity.heartbeat)
        body = {"release": request.release, "healthy": staged.healthy, "detail": staged.detail}
        key = f"stage/{request.rollout}/e{request.epoch}/{request.release}/{staged.healthy}"
        self._ledger.append([self._draft("release.staged", request.release, body, key)])
        return StageReply(
            region=self._region,
            release=request.release,
            healthy=staged.healthy,
            detail=staged.detail,
        )

    @activity.defn
    @final_errors
    def activate_shard(self, step: ActivateShard) -> ShardActivation:
        """Switch one shard atomically; fenced by the epoch, and done once however often it runs."""
        body: dict[str, Any] = {"rollout": step.rollout, "ring": step.ring}
        if step.approval is not None:
            body["deployment"] = deployment_statement(
                step.approval,
                release=step.release,
                region=self._region,
                shard=step.shard,
                rollout=step.rollout,
                at=self._clock(),
            )
        key = f"activate/{step.rollout}/e{step.epoch}/{step.shard}/{step.release}"
        draft = self._draft("shard.activated", step.shard, body, key)
        return self._target.activate(step.shard, step.release, step.epoch, draft)

    @activity.defn
    @final_errors
    def plan_rollback(self, request: RollbackRequest) -> list[ShardMove]:
        """Where each shard goes back to, read from its receipts; fences the failed rollout."""
        self._shards.raise_epoch(request.epoch)
        return [
            ShardMove(shard=shard, release=self._shards.last_good(shard, request.known_bad))
            for shard in request.shards
        ]

    @activity.defn
    @final_errors
    def idle_releases(self, request: RetireRequest) -> list[Digest]:
        """Releases that still have a process here though no shard runs them."""
        self._shards.raise_epoch(request.epoch)
        keep = {*request.keep, *self._shards.active_releases()}
        return sorted(set(self._target.staged()) - keep)

    @activity.defn
    @final_errors
    def drain_release(self, step: DrainRelease) -> None:
        """Let a release finish what it is answering, then stop it."""
        self._target.drain(step.release, heartbeat=activity.heartbeat)
        key = f"drain/{step.rollout}/e{step.epoch}/{step.release}"
        body = {"release": step.release}
        self._ledger.append([self._draft("release.drained", step.release, body, key)])

    @activity.defn
    @final_errors
    def settle_region(self, request: RetireRequest) -> None:
        """The end of a rollout here: tenants may move again, and the ledger's head is signed."""
        self._mark(rolling=False)
        self._notary.checkpoint()

    def _mark(self, *, rolling: bool) -> None:
        self._shards.mark([shard.id for shard in self._shards.shards()], rolling)

    def _draft(self, kind: str, subject: str, body: Mapping[str, Any], key: str) -> Draft:
        info = activity.info()
        return Draft(
            kind=kind,
            actor=f"region/{self._region}",
            subject=subject,
            body=dict(body),
            workflow_id=info.workflow_id or "",
            run_id=info.workflow_run_id or "",
            idempotency_key=key,
        )
