"""Effects of looking after a backup: read it, mark what is bad, remember how far the reading is."""

from collections.abc import Callable
from datetime import UTC, datetime

from temporalio import activity

from activities.errors import final_errors
from models.backup_file import Unseal
from models.config_recovery import Backup
from models.validation import BadObject, Rotation, ValidateRequest, ValidationReport
from stores.keys import SigningKey
from stores.objects import ObjectStore
from stores.pointer import Pointer
from stores.sampling import Sampler
from stores.validation import RotationFile, Validator


class ValidationActivities:
    """What the recovery worker does for ``ValidateBackup`` of one region.

    Args:
        config: the configuration's section as it is now.
    """

    def __init__(
        self,
        region: str,
        *,
        primary: Callable[[], Pointer],
        validator: Validator,
        rotation: RotationFile,
        objects: ObjectStore,
        key: SigningKey,
        unseal: Unseal,
        config: Callable[[], Backup],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._region = region
        self._primary = primary
        self._validator = validator
        self._rotation = rotation
        self._objects = objects
        self._key = key
        self._unseal = unseal
        self._config = config
        self._clock = clock

    @activity.defn
    @final_errors
    def read_backup(self, request: ValidateRequest) -> ValidationReport:
        """Read the shares that are due, or restore a sample."""
        if request.kind == "sample":
            sampler = Sampler(
                self._objects,
                self._region,
                self._primary().store,
                self._key.trusted(self._region),
                self._unseal,
            )
            percent = self._config().backup_validation_sampling_percent
            return sampler.sample(percent, progress=activity.heartbeat)
        return self._validator.rotate(
            self._rotation.read(),
            self._clock(),
            everything=request.everything,
            progress=activity.heartbeat,
        )

    @activity.defn
    @final_errors
    def mark_bad(self, bad: list[BadObject]) -> None:
        """Keep in the backup what is bad, so that no snapshot builds on it."""
        self._validator.mark(bad)

    @activity.defn
    @final_errors
    def save_rotation(self, rotation: Rotation) -> bool:
        """Remember how far the reading is."""
        return self._rotation.save(rotation)
