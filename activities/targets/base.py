"""What a deploy target does, whatever it deploys to.

A target brings a release to a region (`stage`), switches shards to it (`activate`) and takes it
away again (`drain`). Each call is idempotent. The same contract tests run against every target.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from models.contracts import ShardActivation
from models.fleet import RouteTable
from models.receipts import Draft

Heartbeat = Callable[[str], None]
"""Called every second or so while a target works, with a word on how far it is; may raise to
cancel."""


class TargetRefused(Exception):
    """The target must not do what was asked; trying again does not help."""


class TargetUnavailable(Exception):
    """The target cannot do it now; trying again may help."""


@dataclass(frozen=True)
class Staged:
    """How staging ended. ``healthy`` is false for a release that does not run, and ``detail`` says
    why."""

    release: str
    healthy: bool
    detail: str = ""


@dataclass(frozen=True)
class Health:
    """A release in this region now."""

    release: str
    healthy: bool
    state: str
    restarts: int = 0
    detail: str = ""


@dataclass(frozen=True)
class ReleaseEndpoint:
    """Where a release of this region listens."""

    release: str
    port: int
    host: str = "127.0.0.1"


class DeployTarget(Protocol):
    """One region's deployments. Its calls block; they are made from threads, several at once."""

    def stage(self, release: str, *, heartbeat: Heartbeat) -> Staged:
        """Bring the release here and start it, without sending it traffic.

        Raises:
            ReleaseError: it is not in the store, or its bytes are not those of its digest.
            TargetUnavailable: whether it would run cannot be told now.
        """

    def probe(self, release: str) -> Health:
        """Ask the release itself how it is."""

    def activate(self, shard: str, release: str, epoch: int, draft: Draft) -> ShardActivation:
        """Switch all traffic of a shard to a staged release; returns when it is in force.

        Atomic for the shard's tenants, fenced by ``epoch``, and done once for one
        ``draft.idempotency_key``.

        Raises:
            StaleEpoch: a later rollout has been here; nothing was changed.
            TargetRefused: the release is not staged.
            TargetUnavailable: it is staged but not healthy now, or the gateway does not answer.
        """

    def current(self) -> dict[str, str | None]:
        """The release of each shard."""

    def staged(self) -> list[str]:
        """Releases that are here, active or not."""

    def drain(self, release: str, *, heartbeat: Heartbeat) -> None:
        """Let the release finish what it is answering, then remove it.

        Raises:
            TargetRefused: a shard still uses it.
            TargetUnavailable: it did not come to an end in time.
        """


class RoutePublisher(Protocol):
    """The part of a gateway that `LocalTarget` uses; see `gateway.publisher`.

    Endpoints are typed ``Any`` because the gateway has its own class for them, of the same shape
    as `ReleaseEndpoint`.
    """

    def publish_clusters(self, endpoints: Callable[[], Sequence[Any]]) -> None:
        """Make the endpoints known. The function is called when it is this caller's turn."""

    def publish_routes(self, load: Callable[[], RouteTable], at_least: int) -> int:
        """Put a route table of generation ``at_least`` or newer in force."""
