"""Effects of pruning a backup: plan, and remove."""

from temporalio import activity

from activities.errors import final_errors
from models.prune import PlannedRemoval, Pruned, PruneStep
from stores.objects import ObjectStore
from stores.pins import PruneClaim
from stores.prune import Pruner


class PruneActivities:
    """What the recovery worker does for ``PruneBackup`` of one region."""

    def __init__(self, region: str, *, objects: ObjectStore, pruner: Pruner) -> None:
        self._region = region
        self._objects = objects
        self._pruner = pruner

    @activity.defn
    @final_errors
    def plan_prune(self) -> PlannedRemoval:
        """What may go now; refused where the clocks do not agree."""
        return self._pruner.plan(activity.heartbeat)

    @activity.defn
    @final_errors
    def prune_backup(self, step: PruneStep) -> Pruned:
        """Remove what the plan of this base has; gives way to whoever reads the backup."""
        claim = PruneClaim(self._objects, self._region, step.holder)
        return self._pruner.prune(step.base, claim, activity.heartbeat)
