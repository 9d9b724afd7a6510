"""The claim on a fencing epoch: whoever creates its object in the backup has the epoch."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.backup_file import BackupDamaged
from models.canonical import canonical

LARGEST_CLAIM = 4096


class Claim(BaseModel):
    """Which store an epoch belongs to, and which one that was restored from (empty: not said)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(ge=1)
    store: str = Field(pattern=r"^[0-9a-f]{32}$")
    source: str = Field(default="", pattern=r"^([0-9a-f]{32})?$")

    def encoded(self) -> bytes:
        """The object's bytes; the same claim has the same."""
        return canonical(self.model_dump())


def read_claim(data: bytes) -> Claim:
    """Raises `BackupDamaged`: it is none that a release wrote."""
    try:
        return Claim.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BackupDamaged(f"claim of an epoch: {field}: {first['msg']}") from None
