"""What keeps a region's backup good over time, wired from that backup."""

from activities.drills import DrillActivities
from activities.pruning import PruneActivities
from activities.recovery_incidents import RecoveryIncidentActivities
from activities.validation import ValidationActivities
from models.config_recovery import Sla
from stores.drill import Driller
from stores.key_backup import unsealing_from_backup
from stores.prune import Pruner, limits_of
from stores.scratch import ScratchStores
from stores.validation import Validator
from workers.backup import RegionBackup
from workers.process import build_id


def upkeep(backup: RegionBackup) -> list[object]:
    """The activities of a region's drills, incidents, validation and retention."""

    def sla() -> Sla:
        return backup.config().sla

    region, objects, key = backup.region, backup.objects, backup.key
    driller = Driller(
        region,
        live=backup,
        objects=objects,
        witness=backup.witness,
        key=key,
        checkpoints=backup.checkpoints,
        unseal=backup.seals.unseal,
        unsealing_from_backup=unsealing_from_backup(region, objects, backup.region_key),
    )
    drills = DrillActivities(
        region,
        primary=backup.primary,
        driller=driller,
        scratch=ScratchStores(backup.work / "scratch"),
        objects=objects,
        key=key,
        certificates=backup.certificates,
        version=build_id(),
        sla=sla,
    )
    incidents = RecoveryIncidentActivities(
        region, primary=backup.primary, objects=objects, key=key, sla=sla
    )
    keys = key.trusted(region)
    validation = ValidationActivities(
        region,
        primary=backup.primary,
        validator=Validator(objects, region, keys, backup.witness),
        rotation=backup.rotation,
        objects=objects,
        key=key,
        unseal=backup.seals.unseal,
        config=lambda: backup.config().backup,
    )
    pruner = Pruner(objects, region, keys, lambda: limits_of(backup.config().backup))
    pruning = PruneActivities(region, objects=objects, pruner=pruner)
    return [drills, incidents, validation, pruning]
