"""`LocalTarget`: releases as operating-system processes of this machine, behind the region's Envoy.

It starts no process itself. It writes down which releases are wanted, the release host runs them,
and the gateway is told where they listen. The database is the truth; the gateway's files are
derived from it, so that each step can be repeated after a crash anywhere.
"""

import http.client
import time
from pathlib import Path

from activities.targets.base import (
    Health,
    Heartbeat,
    ReleaseEndpoint,
    RoutePublisher,
    Staged,
    TargetRefused,
    TargetUnavailable,
)
from activities.targets.traffic import active_requests
from models.addresses import RegionAddresses
from models.contracts import ShardActivation
from models.ids import short
from models.receipts import Draft
from stores.files import file_lock
from stores.oci import ImageLayout
from stores.processes import ProcessStore, ReleaseProcess
from stores.shards import ShardStore
from stores.unpack import release_directory

_POLL_S = 0.02
_BEAT_S = 1.0
_PROBE_TIMEOUT_S = 2.0


class LocalTarget:
    """Implements `activities.targets.base.DeployTarget` for one region.

    Args:
        host_deadline_s: how long the release host may take to notice a wish.
        drain_deadline_s: how long requests in flight may take to end.
    """

    def __init__(
        self,
        address: RegionAddresses,
        shards: ShardStore,
        processes: ProcessStore,
        layout: ImageLayout,
        publisher: RoutePublisher,
        *,
        host_deadline_s: float = 20.0,
        drain_deadline_s: float = 60.0,
    ) -> None:
        self._address = address
        self._shards = shards
        self._processes = processes
        self._layout = layout
        self._publisher = publisher
        self._host_deadline_s = host_deadline_s
        self._drain_deadline_s = drain_deadline_s

    def stage(self, release: str, *, heartbeat: Heartbeat) -> Staged:
        heartbeat("unpacking")
        self._layout.unpack(release, release_directory(self._address.workdir, release))
        self._processes.want(release)
        seen = self._await_verdict(release, heartbeat)
        if seen.state != "healthy":
            self._give_up(release)
            return Staged(release, healthy=False, detail=f"{seen.state}: {seen.detail}")
        self._publish_clusters()
        return Staged(release, healthy=True, detail=f"listens on port {seen.port}")

    def probe(self, release: str) -> Health:
        seen = self._processes.get(release)
        if seen is None or seen.desired == "stopped" or seen.port is None:
            return Health(release, healthy=False, state="absent", detail="not staged")
        problem = _ask_health(seen.port)
        return Health(
            release,
            healthy=problem == "",
            state=seen.state,
            restarts=seen.restarts,
            detail=problem or seen.detail,
        )

    def activate(self, shard: str, release: str, epoch: int, draft: Draft) -> ShardActivation:
        # Shared: activations do not wait for each other, but none slips in while `drain` decides.
        with file_lock(self._lock_file(), shared=True):
            self._require_healthy(release)
            activation, generation = self._shards.activate(
                shard=shard, release=release, epoch=epoch, draft=draft
            )
        self._publisher.publish_routes(self._shards.routes, at_least=generation)
        return activation

    def current(self) -> dict[str, str | None]:
        return {route.shard: route.release for route in self._shards.routes().shards}

    def staged(self) -> list[str]:
        return [each.release for each in self._processes.list() if each.desired == "running"]

    def drain(self, release: str, *, heartbeat: Heartbeat) -> None:
        self._require_unused(release)
        # A switch away from it may be committed and not yet in force.
        self._publisher.publish_routes(self._shards.routes, at_least=self._shards.generation())
        self._await_no_requests(release, heartbeat)
        with file_lock(self._lock_file()):
            self._require_unused(release)
            self._processes.unwant(release)
        self._publish_clusters()
        self._await_stopped(release, heartbeat)

    def _await_verdict(self, release: str, heartbeat: Heartbeat) -> ReleaseProcess:
        """Wait until the host says healthy or failed.

        Raises:
            TargetUnavailable: the host did not start it, or is silent after it did.
        """
        deadline = _Deadline(self._host_deadline_s + self._starting_seconds(release), heartbeat)
        noticed_by = time.monotonic() + self._host_deadline_s
        while True:
            seen = self._processes.get(release)
            if seen is None or seen.desired == "stopped":
                raise TargetUnavailable(f"release {short(release)}: was drained while it started")
            if seen.state in ("healthy", "failed"):
                return seen
            if deadline.passed or (seen.source == "" and time.monotonic() > noticed_by):
                raise TargetUnavailable(
                    f"release {short(release)}: the release host of {self._address.region} "
                    f"says only {seen.state!r}: is it running? {seen.detail}".rstrip()
                )
            deadline.wait(f"{seen.state}, {seen.restarts} restarts")

    def _starting_seconds(self, release: str) -> float:
        """Longest that the host may take to judge the release: each start up to its deadline."""
        health = self._layout.describe(release).health
        return 4 * health.deadline_ms / 1000

    def _give_up(self, release: str) -> None:
        """Take back the wish for a release that does not run, unless shards depend on it."""
        with file_lock(self._lock_file()):
            if release not in self._shards.active_releases():
                self._processes.unwant(release)

    def _publish_clusters(self) -> None:
        self._publisher.publish_clusters(self._endpoints)

    def _endpoints(self) -> list[ReleaseEndpoint]:
        """Every release that has been healthy here and is wanted, also while it restarts."""
        return [
            ReleaseEndpoint(each.release, each.port)
            for each in self._processes.list()
            if each.desired == "running" and each.proven and each.port is not None
        ]

    def _require_healthy(self, release: str) -> None:
        seen = self._processes.get(release)
        if seen is None or seen.desired == "stopped" or not seen.proven:
            raise TargetRefused(f"release {short(release)}: is not staged here")
        if seen.state != "healthy":
            raise TargetUnavailable(
                f"release {short(release)}: is {seen.state} now: {seen.detail or 'restarting'}"
            )

    def _require_unused(self, release: str) -> None:
        count = self._shards.active_releases().get(release, 0)
        if count:
            raise TargetRefused(f"release {short(release)}: {count} shards still use it")

    def _await_no_requests(self, release: str, heartbeat: Heartbeat) -> None:
        deadline = _Deadline(self._drain_deadline_s, heartbeat)
        while (active := active_requests(self._address.gateway, release)) > 0:
            if deadline.passed:
                raise TargetUnavailable(
                    f"release {short(release)}: {active} requests are still under way"
                )
            deadline.wait(f"{active} requests under way")

    def _await_stopped(self, release: str, heartbeat: Heartbeat) -> None:
        deadline = _Deadline(self._drain_deadline_s, heartbeat)
        while (seen := self._processes.get(release)) is not None and seen.state != "stopped":
            if deadline.passed:
                raise TargetUnavailable(
                    f"release {short(release)}: not stopped by the release host: {seen.state}"
                )
            deadline.wait("stopping")

    def _lock_file(self) -> Path:
        return self._address.workdir / "target.lock"


class _Deadline:
    """A bounded wait that heartbeats about once a second."""

    def __init__(self, seconds: float, heartbeat: Heartbeat) -> None:
        self._until = time.monotonic() + seconds
        self._heartbeat = heartbeat
        self._next_beat = 0.0

    @property
    def passed(self) -> bool:
        return time.monotonic() > self._until

    def wait(self, progress: str) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self._heartbeat(progress)
            self._next_beat = now + _BEAT_S
        time.sleep(_POLL_S)


def _ask_health(port: int) -> str:
    """Why ``GET /healthz`` is not 200, or the empty string."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"/healthz: {error!r}"
    finally:
        connection.close()
    return "" if status == http.client.OK else f"/healthz answered {status}"
