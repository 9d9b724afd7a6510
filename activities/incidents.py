"""Effects of judging running releases again: what runs where, what to go back to, what to stop."""

from collections.abc import Iterator
from pathlib import Path

from temporalio import activity
from temporalio.client import WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode

from activities.errors import final_errors
from models.config import load_config
from models.contracts import ShardSummary
from models.ids import short
from models.incident import Deployed, OpenIncident, Proposal, RejudgeSettings, StopRollout
from models.rollout import AbortDecision, RolloutState
from stores.control import ControlStore
from stores.ledger import Ledger
from stores.oci import ImageLayout, ReleaseError

_INSTALLED = frozenset({RolloutState.COMPLETED, RolloutState.COMPLETED_WITH_DEBT})


class IncidentActivities:
    """What the control worker does for ``RejudgeDeployments`` and ``Incident``."""

    def __init__(
        self, *, store: ControlStore, ledger: Ledger, layout: ImageLayout, config: Path
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._layout = layout
        self._config = config

    @activity.defn
    @final_errors
    def prepare_rejudge(self) -> RejudgeSettings:
        """The configuration of this moment."""
        config = load_config(self._config.read_text())
        return RejudgeSettings(
            fleet=config.fleet.name,
            regions=sorted(config.regions),
            follow_up=config.deployment_verification.follow_up,
            region_down_after_seconds=config.rollout.region_down_after_seconds,
        )

    @activity.defn
    @final_errors
    def deployed_releases(self, settings: RejudgeSettings) -> list[Deployed]:
        """Every release that a shard runs or that a rollout is bringing, by the kept catalogs."""
        shards: dict[str, list[ShardSummary]] = {}
        for region in settings.regions:
            for shard in self._store.catalog(region):
                if shard.release is not None:
                    shards.setdefault(shard.release, []).append(shard)
        coming = self._coming(settings.fleet)
        for release in coming:
            shards.setdefault(release, [])
        return [
            self._deployed(release, shards[release], coming.get(release, ""))
            for release in sorted(shards)
        ]

    @activity.defn
    @final_errors
    def earlier_releases(self, release: str) -> list[Proposal]:
        """Releases that were on the whole fleet before, newest first, none of them known bad."""
        bad = {release, *self._store.known_bad()}
        found: dict[str, Proposal] = {}
        for installed in self._installed():
            if installed not in bad:
                found.pop(installed, None)  # the last time counts
                name, version = self._called(installed)
                found[installed] = Proposal(release=installed, name=name, version=version)
        return list(reversed(found.values()))

    @activity.defn
    async def open_incidents(self) -> list[OpenIncident]:
        """Incidents that nobody has closed."""
        query = 'WorkflowType = "Incident" AND ExecutionStatus = "Running"'
        found = []
        async for each in activity.client().list_workflows(query):
            pairs = {pair.key.name: pair.value for pair in each.typed_search_attributes}
            found.append(OpenIncident(id=each.id, release=str(pairs.get("ChainringRelease", ""))))
        return found

    @activity.defn
    async def stop_rollout(self, step: StopRollout) -> bool:
        """Abort a rollout and have it go back; false when it has ended or is ending already."""
        handle = activity.client().get_workflow_handle(step.rollout)
        decision = AbortDecision(actor="chainring", reason=step.why[:500], rollback=True)
        try:
            # The id makes a repeated activity the same decision, not a second one.
            await handle.execute_update("abort", decision, id=f"abort/{step.incident}")
        except WorkflowUpdateFailedError:
            return False
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True

    def _coming(self, fleet: str) -> dict[str, str]:
        """The release that a rollout is bringing now, with the rollout's id."""
        holder = self._store.holder(fleet)
        started = self._ledger.latest(kind="rollout.started", subject=holder) if holder else None
        return {} if started is None else {str(started.receipt.body["release"]): holder}

    def _installed(self) -> Iterator[str]:
        for stored in self._ledger.read(kinds=["rollout.ended"]):
            body = stored.receipt.body
            if body["state"] in _INSTALLED:
                yield str(body["release"])

    def _deployed(self, release: str, shards: list[ShardSummary], rollout: str) -> Deployed:
        name, version = self._called(release)
        by_region: dict[str, int] = {}
        for shard in shards:
            by_region[shard.region] = by_region.get(shard.region, 0) + 1
        return Deployed(
            release=release,
            name=name,
            version=version,
            shards=by_region,
            tenants=sum(shard.tenants for shard in shards),
            rollout=rollout,
        )

    def _called(self, release: str) -> tuple[str, str]:
        """Name and version; a release whose bytes are gone goes by its digest."""
        try:
            described = self._layout.describe(release)
        except ReleaseError:
            return "release", short(release)
        return described.name, described.version
