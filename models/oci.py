"""The parts of the OCI image format that a release uses: descriptors, manifests, the index.

Source: OCI image specification 1.1 (``manifest.md``, ``descriptor.md``, ``image-layout.md``).
Objects are encoded with sorted keys and no white space, so that the same content has one digest.
"""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from models.ids import Digest

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"
LAYOUT_VERSION = {"imageLayoutVersion": "1.0.0"}


class _Object(BaseModel):
    """Fields that are not known here are kept: another tool may have put them there."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


class Descriptor(_Object):
    """A blob by digest and size."""

    media_type: str = Field(alias="mediaType")
    digest: Digest
    size: int = Field(ge=0)
    annotations: dict[str, str] = {}


class Manifest(_Object):
    """What a release digest stands for: one configuration object and its layers."""

    schema_version: int = Field(alias="schemaVersion", ge=2, le=2)
    media_type: str = Field(alias="mediaType", default=MANIFEST_TYPE)
    config: Descriptor
    layers: list[Descriptor] = Field(min_length=1, max_length=64)
    annotations: dict[str, str] = {}


class Index(_Object):
    """``index.json``: what the layout holds, by name."""

    schema_version: int = Field(alias="schemaVersion", default=2, ge=2, le=2)
    media_type: str = Field(alias="mediaType", default=INDEX_TYPE)
    manifests: list[Descriptor] = []

    def named(self, reference: str) -> Descriptor | None:
        """The manifest that carries ``reference``, if any."""
        for descriptor in self.manifests:
            if descriptor.annotations.get(REF_NAME) == reference:
                return descriptor
        return None

    def with_manifest(self, descriptor: Descriptor) -> "Index":
        """This index with one manifest more."""
        return self.model_copy(update={"manifests": [*self.manifests, descriptor]})


def encode(value: BaseModel | dict[str, Any]) -> bytes:
    """The one byte string of an object."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True, exclude_defaults=False)
    return json.dumps(
        _without_empty_annotations(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def decode(content: bytes) -> dict[str, Any]:
    """Parse a JSON object; a key that is there twice is refused, since readers differ on it.

    Raises:
        ValueError: not JSON, not an object, or a repeated key.
    """
    value = json.loads(content, object_pairs_hook=_unique_keys)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _without_empty_annotations(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_empty_annotations(item)
            for key, item in value.items()
            if not (key == "annotations" and not item)
        }
    if isinstance(value, list):
        return [_without_empty_annotations(item) for item in value]
    return value
