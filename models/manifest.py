"""A snapshot's manifest: what a region's documents were after one change, and where they lie."""

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from models.canonical import canonical
from models.ids import RegionCode

_HEX = r"[0-9a-f]{64}"


class ManifestError(ValueError):
    """The bytes are no manifest; the message names the field."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChunkRef(_Part):
    """One chunk: its object and what must be in it."""

    name: str = Field(max_length=512)
    sha256: str = Field(pattern=_HEX, description="of the object's bytes")
    size: int = Field(ge=0, description="bytes of the object")
    cores: str = Field(pattern=_HEX, description="SHA-256 of the cores, which name every document")
    documents: int = Field(ge=1)


class Manifest(_Part):
    """A whole snapshot.

    Attributes:
        seq: the last change that is in it.
        head: the signed head at ``seq``: state root and chain hash.
        checkpoint: the newest signed checkpoint of the region's ledger, "" when there is none.
    """

    version: int = Field(default=1, ge=1, le=1)
    region: RegionCode
    store: str = Field(pattern=r"[0-9a-f]{32}")
    epoch: int = Field(ge=1)
    seq: int = Field(ge=0)
    chain: str = Field(pattern=_HEX)
    state_root: str = Field(pattern=_HEX)
    documents: int = Field(ge=0)
    receipts: int = Field(ge=0, description="size of the region's ledger")
    schema_version: int = Field(ge=1)
    chunks: tuple[ChunkRef, ...]
    head: str = Field(max_length=4096)
    checkpoint: str = Field(default="", max_length=65536)
    created_at: AwareDatetime

    def encoded(self) -> bytes:
        """The canonical bytes, whose digest is in the manifest's name."""
        return canonical(self.model_dump(mode="json"))


def read_manifest(data: bytes) -> Manifest:
    """Read a manifest strictly.

    Raises:
        ManifestError: it is not one.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise ManifestError(f"{where}: {first['msg']}") from None
