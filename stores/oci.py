"""Releases in an OCI image layout on disk.

The digest of a release is the digest of its manifest. A name and version, once given, is never
given to another digest. Source: OCI image specification 1.1, "Image Layout".
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from models.ids import DIGEST_PATTERN
from models.oci import (
    CONFIG_TYPE,
    LAYER_TYPE,
    LAYOUT_VERSION,
    MANIFEST_TYPE,
    REF_NAME,
    Descriptor,
    Index,
    Manifest,
    decode,
    encode,
)
from models.release import (
    TITLE_LABEL,
    VERSION_LABEL,
    ReleaseFile,
    ReleaseSpec,
    first_error,
    image_config,
    spec_of_config,
)
from stores.blobs import BlobStore, ReleaseCorrupt, ReleaseError, ReleaseNotFound
from stores.files import file_lock, write_atomic
from stores.layout_referrers import LayoutReferrers
from stores.pack import pack_directory
from stores.release_registry import Referrer
from stores.unpack import DEFAULT_LIMITS, Limits, UnpackRefused, unpack_layers

__all__ = [
    "ImageLayout",
    "ReleaseCorrupt",
    "ReleaseError",
    "ReleaseNotFound",
    "StoredRelease",
    "UnpackRefused",
    "VersionTaken",
]

DESCRIPTION = "release.json"
MANIFEST_LIMIT = 4 * 1024**2
CONFIG_LIMIT = 1024**2


class VersionTaken(ReleaseError):
    """The name and version belong to another digest."""


@dataclass(frozen=True)
class StoredRelease:
    """One line of the index."""

    name: str
    version: str
    digest: str
    bytes: int


class ImageLayout:
    """The release store: an OCI image layout at ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = BlobStore(root)
        self._referrers = LayoutReferrers(self._blobs, self._index, self._change_index)

    @property
    def blobs(self) -> BlobStore:
        """The bytes behind it, by digest."""
        return self._blobs

    def put_release(
        self,
        name: str,
        version: str,
        directory: Path,
        *,
        entrypoint: Sequence[str] | None = None,
    ) -> str:
        """Keep ``directory`` as release ``name:version`` and return its digest.

        Idempotent: the same directory gives the same digest. How to run the program is in the
        directory's ``release.json``; ``entrypoint`` says it for a directory without one.

        Raises:
            ReleaseError: a field or the directory is wrong; nothing was changed.
            VersionTaken: ``name:version`` is another release already.
        """
        stored = self._put_image(name, version, directory, entrypoint)
        self._add_to_index(f"{name}:{version}", stored)
        return stored.digest

    def put_unnamed(
        self,
        name: str,
        version: str,
        directory: Path,
        *,
        entrypoint: Sequence[str] | None = None,
    ) -> str:
        """Keep a release's bytes as `put_release` does, but under no name yet.

        Raises:
            ReleaseError: a field or the directory is wrong; nothing was changed.
            VersionTaken: ``name:version`` is another release already.
        """
        stored = self._put_image(name, version, directory, entrypoint)
        self._refuse_taken(self._index(), f"{name}:{version}", stored.digest)
        return stored.digest

    def give_name(self, digest: str) -> str:
        """Give a release that is here the name and version it says it has; returns them.

        Raises:
            ReleaseNotFound, ReleaseCorrupt: there is no such release, or it is damaged.
            VersionTaken: they belong to another release already.
        """
        spec = self.describe(digest)
        self._add_to_index(spec.reference, self._describe_blob(digest))
        return spec.reference

    def _put_image(
        self, name: str, version: str, directory: Path, entrypoint: Sequence[str] | None
    ) -> Descriptor:
        spec = _spec(name, version, directory, entrypoint)
        layer = self._blobs.put_stream(LAYER_TYPE, lambda sink: pack_directory(directory, sink))
        config = self._blobs.put(CONFIG_TYPE, encode(image_config(spec, [layer.digest])))
        labels = {TITLE_LABEL: spec.name, VERSION_LABEL: spec.version}
        manifest = Manifest(schema_version=2, config=config, layers=[layer], annotations=labels)
        return self._blobs.put(MANIFEST_TYPE, encode(manifest))

    def resolve(self, reference: str) -> str:
        """The digest that ``name:version`` or a digest stands for.

        Raises:
            ReleaseNotFound: no such release.
        """
        if reference.startswith("sha256:"):
            self._describe_blob(reference)
            return reference
        found = self._index().named(reference)
        if found is None:
            raise ReleaseNotFound(
                f"release {reference!r}: not in {self._root} (see `chainring releases list`)"
            )
        return found.digest

    def manifest(self, digest: str) -> Manifest:
        """The manifest, checked against the digest.

        Raises:
            ReleaseNotFound: no such release.
            ReleaseCorrupt: the bytes are not those of the digest, or not an image manifest.
        """
        content = self._blobs.read(self._describe_blob(digest), limit=MANIFEST_LIMIT)
        try:
            manifest = Manifest.model_validate(decode(content))
        except ValueError as error:
            raise ReleaseCorrupt(f"manifest {digest}: {_reason(error)}") from None
        if manifest.media_type != MANIFEST_TYPE:
            raise ReleaseCorrupt(f"manifest {digest}: media type {manifest.media_type}")
        return manifest

    def manifest_bytes(self, digest: str) -> bytes:
        """A manifest's bytes, checked against the digest; raises what `manifest` raises."""
        return self._blobs.read(self._describe_blob(digest), limit=MANIFEST_LIMIT)

    def attach(self, subject: str, bundle: bytes, predicate_type: str) -> str:
        """Keep a bundle of evidence with a release; the same bundle again changes nothing.

        Raises:
            ReleaseNotFound: no such release.
        """
        self.manifest(subject)
        return self._referrers.attach(self._describe_blob(subject), bundle, predicate_type)

    def referrers(self, subject: str) -> Sequence[Referrer]:
        """Manifests that are about a release, sorted by digest."""
        return self._referrers.of(subject)

    def evidence(self, subject: str) -> Sequence[bytes]:
        """The bundles kept with a release, each one's subject checked; raises `ReleaseCorrupt`."""
        return self._referrers.evidence(subject)

    def describe(self, digest: str) -> ReleaseSpec:
        """What the release says about itself; raises what `manifest` raises."""
        config = self.manifest(digest).config
        content = self._blobs.read(config, limit=CONFIG_LIMIT)
        try:
            return spec_of_config(decode(content))
        except ValueError as error:
            raise ReleaseCorrupt(f"config {config.digest}: {error}") from None

    def verify(self, digest: str) -> int:
        """Check every blob of a release; returns the bytes they have together.

        Raises:
            ReleaseNotFound: the release or one of its blobs is missing.
            ReleaseCorrupt: a blob is not what its digest and size say.
        """
        manifest = self.manifest(digest)
        self.describe(digest)
        for layer in manifest.layers:
            self._blobs.check(layer)
        own = self._blobs.size(digest)
        return own + manifest.config.size + sum(layer.size for layer in manifest.layers)

    def unpack(self, digest: str, target: Path, limits: Limits = DEFAULT_LIMITS) -> Path:
        """Unpack a release into ``target``, all checked; the program's root is returned.

        See `stores.unpack.unpack_layers` for what is refused.
        """
        self.describe(digest)
        return unpack_layers(self._blobs, digest, self.manifest(digest).layers, target, limits)

    def list(self) -> list[StoredRelease]:
        """The releases that have a name, in order of name and version."""
        found = []
        for descriptor in self._index().manifests:
            name, colon, version = descriptor.annotations.get(REF_NAME, "").partition(":")
            if colon:
                size = self._total_size(descriptor.digest)
                found.append(StoredRelease(name, version, descriptor.digest, size))
        return sorted(found, key=lambda release: (release.name, release.version))

    def _total_size(self, digest: str) -> int:
        manifest = self.manifest(digest)
        return manifest.config.size + sum(layer.size for layer in manifest.layers)

    def _describe_blob(self, digest: str) -> Descriptor:
        if re.fullmatch(DIGEST_PATTERN, digest) is None:
            raise ReleaseNotFound(f"release {digest!r}: a digest is sha256: and 64 hex digits")
        return Descriptor(media_type=MANIFEST_TYPE, digest=digest, size=self._blobs.size(digest))

    def _index(self) -> Index:
        path = self._root / "index.json"
        try:
            return Index.model_validate(decode(path.read_bytes()))
        except FileNotFoundError:
            return Index()
        except ValueError as error:
            raise ReleaseCorrupt(f"{path}: {_reason(error)}") from None

    def _add_to_index(self, reference: str, descriptor: Descriptor) -> None:
        def add(index: Index) -> Index:
            present = index.named(reference)
            if present is not None and present.digest == descriptor.digest:
                return index
            self._refuse_taken(index, reference, descriptor.digest)
            named = descriptor.model_copy(update={"annotations": {REF_NAME: reference}})
            return index.with_manifest(named)

        self._change_index(add)

    @staticmethod
    def _refuse_taken(index: Index, reference: str, digest: str) -> None:
        present = index.named(reference)
        if present is not None and present.digest != digest:
            raise VersionTaken(
                f"version: {reference} is {present.digest} already, "
                f"and this directory is {digest}; give it another version"
            )

    def _change_index(self, change: Callable[[Index], Index]) -> None:
        """Edit ``index.json``, one writer at a time; no change writes nothing."""
        with file_lock(self._root / ".lock"):
            index = self._index()
            changed = change(index)
            if changed is not index:
                write_atomic(self._root / "oci-layout", json.dumps(LAYOUT_VERSION).encode())
                write_atomic(self._root / "index.json", encode(changed))


def _spec(
    name: str, version: str, directory: Path, entrypoint: Sequence[str] | None
) -> ReleaseSpec:
    described = _release_file(directory, entrypoint)
    try:
        spec = ReleaseSpec(name=name, version=version, **dict(described))
    except ValidationError as error:
        raise ReleaseError(first_error(error)) from None
    program = spec.entrypoint[0]
    if "/" in program and not (directory / program).is_file():
        raise ReleaseError(f"entrypoint: {program} is not in {directory}")
    return spec


def _release_file(directory: Path, entrypoint: Sequence[str] | None) -> ReleaseFile:
    path = directory / DESCRIPTION
    try:
        values = decode(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        values = {}
    except ValueError as error:
        raise ReleaseError(f"{path}: {error}") from None
    if entrypoint:
        values["entrypoint"] = list(entrypoint)
    if "entrypoint" not in values:
        raise ReleaseError(f"entrypoint: missing; give one, or describe it in {path}")
    try:
        return ReleaseFile.model_validate(values)
    except ValidationError as error:
        raise ReleaseError(f"{path}: {first_error(error)}") from None


def _reason(error: ValueError) -> str:
    return first_error(error) if isinstance(error, ValidationError) else str(error)
