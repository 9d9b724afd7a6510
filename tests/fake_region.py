"""A region for tests of the control plane: shards in memory, behind the real Nexus contract.

It runs the real region workflows; only what they do to the world is played here, and scripted.
"""

import threading
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import Literal

from temporalio import activity

from activities.errors import final_errors
from models.contracts import (
    RetireRequest,
    RollbackRequest,
    ShardActivation,
    ShardSummary,
    StageReply,
    StageRequest,
)
from models.deployment import Approval
from models.observation import CohortSnapshot, Histogram, RegionObservation
from models.steps import ActivateShard, DrainRelease, ShardMove
from stores.region_state import StaleEpoch

Traffic = Literal["good", "errors", "quiet", "broken"]
TENANTS = 10
REQUESTS = 2000
PATIENCE = 20.0


class FakeRegion:
    """Plays the region's shard store, metric provider and activities at once."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.reset(shards=5, release=None)

    def reset(self, *, shards: int, release: str | None) -> None:
        """Forget everything: ``shards`` shards of ten tenants, all on ``release``."""
        self._lock = threading.Lock()
        self.running = {f"{self.code}-{number:03d}": release for number in range(1, shards + 1)}
        self.epoch = 0
        self.activated: list[tuple[str, str, str, int]] = []
        """(ring, shard, release, epoch) of every switch that was not a repetition, in order."""
        self.approvals: list[Approval] = []
        """On whose word, of every such switch."""
        self.changed: list[str] = []
        """The shards whose tenants came to see another release, in order."""
        self.staged: list[tuple[str, int]] = []
        self.retired: list[int] = []
        self.unhealthy: set[str] = set()
        self.traffic: dict[str, Traffic] = {}
        self.other_traffic: Traffic = "good"
        self._keys: dict[tuple[str, str, str, int], ShardActivation] = {}
        self._history = {shard: [release] if release else [] for shard in self.running}
        self._seen: dict[str, int] = defaultdict(int)
        self._failed: dict[str, int] = defaultdict(int)
        self._held: dict[str, threading.Event] = {}
        self.reached = threading.Event()

    def ran_before(self, release: str) -> None:
        """Let every shard have run a release before the one it runs now."""
        for history in self._history.values():
            history.insert(0, release)

    def hold(self, step: str) -> None:
        """Let the activity ``step`` wait until `let_go`."""
        self.reached.clear()
        self._held[step] = threading.Event()

    def let_go(self) -> None:
        for held in self._held.values():
            held.set()
        self._held.clear()

    # What RegionService asks of the fleet store, the shard store and the metric provider.

    def catalog(self) -> list[ShardSummary]:
        return [
            ShardSummary(
                shard=shard, region=self.code, tenants=TENANTS, weight=TENANTS, release=release
            )
            for shard, release in self.running.items()
        ]

    def active_releases(self) -> dict[str, int]:
        active: dict[str, int] = defaultdict(int)
        for release in self.running.values():
            if release is not None:
                active[release] += 1
        return active

    async def observe(self, candidate: str, baselines: list[str]) -> RegionObservation:
        now = datetime.now(UTC)
        if self.traffic.get(candidate) == "broken":
            return RegionObservation(region=self.code, at=now, problem="the provider is down")
        return RegionObservation(
            region=self.code,
            at=now,
            candidate=self._snapshot(candidate, now),
            baseline=self._snapshot(baselines[0], now) if baselines else None,
        )

    def _snapshot(self, release: str, now: datetime) -> CohortSnapshot:
        traffic = self.traffic.get(release, self.other_traffic)
        if traffic != "quiet":
            self._seen[release] += REQUESTS
        if traffic == "errors":
            self._failed[release] += REQUESTS // 5
        seen = self._seen[release]
        return CohortSnapshot(
            release=release,
            at=now,
            source=f"{self.code}-1",
            requests=seen,
            errors=self._failed[release],
            latency=Histogram(bounds=[10.0, 100.0, 500.0], counts=[seen] * 4),
            memory_mb=50.0,
        )

    # The activities of the region's workflows.

    @activity.defn
    @final_errors
    def stage_release(self, request: StageRequest) -> StageReply:
        self._wait("stage")
        self._accept(request.epoch)
        healthy = request.release not in self.unhealthy
        self.staged.append((request.release, request.epoch))
        return StageReply(
            region=self.code,
            release=request.release,
            healthy=healthy,
            detail="" if healthy else "answers 500 to /healthz",
        )

    @activity.defn
    @final_errors
    def activate_shard(self, step: ActivateShard) -> ShardActivation:
        self._wait("activate")
        with self._lock:
            self._accept(step.epoch)
            key = (step.rollout, step.shard, step.release, step.epoch)
            if key not in self._keys:
                self._keys[key] = self._switch(step)
            return self._keys[key]

    def _switch(self, step: ActivateShard) -> ShardActivation:
        previous, self.running[step.shard] = self.running[step.shard], step.release
        self._history[step.shard].append(step.release)
        if previous != step.release:
            self.changed.append(step.shard)
        if step.approval is not None:
            self.approvals.append(step.approval)
        self.activated.append((step.ring, step.shard, step.release, step.epoch))
        return ShardActivation(
            shard=step.shard, previous=previous, release=step.release, seq=len(self.activated) - 1
        )

    @activity.defn
    @final_errors
    def plan_rollback(self, request: RollbackRequest) -> list[ShardMove]:
        self._wait("rollback")
        self._accept(request.epoch)
        return [
            ShardMove(shard=shard, release=self._last_good(shard, request.known_bad))
            for shard in request.shards
        ]

    @activity.defn
    @final_errors
    def idle_releases(self, request: RetireRequest) -> list[str]:
        self._wait("retire")
        self._accept(request.epoch)
        self.retired.append(request.epoch)
        return sorted({release for release, _ in self.staged} - set(self.active_releases()))

    @activity.defn
    @final_errors
    def drain_release(self, step: DrainRelease) -> None:
        self._accept(step.epoch)
        self.staged = [each for each in self.staged if each[0] != step.release]

    @activity.defn
    @final_errors
    def settle_region(self, request: RetireRequest) -> None:
        self._accept(request.epoch)

    def _last_good(self, shard: str, known_bad: list[str]) -> str | None:
        good = (each for each in reversed(self._history[shard]) if each not in known_bad)
        return next(good, None)

    def _accept(self, epoch: int) -> None:
        if epoch < self.epoch:
            raise StaleEpoch(f"region {self.code}", epoch, self.epoch)
        self.epoch = epoch

    def _wait(self, step: str) -> None:
        """Stand still while the test holds this step; heartbeats, as real staging does."""
        held = self._held.get(step)
        if held is None:
            return
        self.reached.set()
        deadline = time.monotonic() + PATIENCE
        while not held.wait(0.1):
            activity.heartbeat()
            assert time.monotonic() < deadline, f"{step} in {self.code} was never let go"
