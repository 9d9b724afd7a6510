"""The release store of a process that has a registry: the image layout on disk is its cache.

Releases are pulled by digest when they are first needed, every byte checked. A release that is made
here is in the registry before anybody can find it. Names are the registry's, and so is evidence:
neither is ever taken from the cache.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from models.oci import Manifest
from models.release import ReleaseSpec
from stores.blobs import ReleaseCorrupt, ReleaseError, ReleaseNotFound
from stores.oci import ImageLayout, VersionTaken
from stores.registry_source import RegistrySource
from stores.release_copy import pull_bytes, push_bytes
from stores.release_registry import Referrer
from stores.unpack import DEFAULT_LIMITS, Limits

_Result = TypeVar("_Result")


class RegistryLayout(ImageLayout):
    """An image layout before a registry.

    Beside what `ImageLayout` raises, every method may raise `RegistryUnavailable` (an OSError) and
    `RegistryRefused`. `list` knows of those releases alone that were named here.
    """

    def __init__(self, root: Path, source: RegistrySource) -> None:
        super().__init__(root)
        self._source = source

    @property
    def source(self) -> RegistrySource:
        """The registry itself, for whoever must not be content with a cache."""
        return self._source

    def resolve(self, reference: str) -> str:
        digest = self._source.resolve(reference)
        self._need(digest, layers=False)
        return digest

    def manifest(self, digest: str) -> Manifest:
        self._need(digest, layers=False)
        return super().manifest(digest)

    def manifest_bytes(self, digest: str) -> bytes:
        self._need(digest, layers=False)
        return super().manifest_bytes(digest)

    def describe(self, digest: str) -> ReleaseSpec:
        return self._mended(digest, super().describe)

    def verify(self, digest: str) -> int:
        self._need(digest)
        return self._mended(digest, super().verify)

    def unpack(self, digest: str, target: Path, limits: Limits = DEFAULT_LIMITS) -> Path:
        self._need(digest)
        unpack = partial(super().unpack, target=target, limits=limits)
        return self._mended(digest, unpack)

    def put_release(
        self,
        name: str,
        version: str,
        directory: Path,
        *,
        entrypoint: Sequence[str] | None = None,
    ) -> str:
        digest = self.put_unnamed(name, version, directory, entrypoint=entrypoint)
        self.give_name(digest)
        return digest

    def put_unnamed(
        self,
        name: str,
        version: str,
        directory: Path,
        *,
        entrypoint: Sequence[str] | None = None,
    ) -> str:
        digest = super().put_unnamed(name, version, directory, entrypoint=entrypoint)
        repository = self._source.repository(name)
        try:
            present = repository.resolve(version)
        except ReleaseNotFound:
            present = digest
        if present != digest:
            raise VersionTaken(f"version: {name}:{version} is {present} in the registry")
        push_bytes(self, repository, digest)
        self._source.note(digest, name)
        return digest

    def give_name(self, digest: str) -> str:
        """In the registry first: what has a name here can be found by everybody."""
        spec = self.describe(digest)
        self._source.repository(spec.name).give_tag(spec.version, self.manifest_bytes(digest))
        return super().give_name(digest)

    def attach(self, subject: str, bundle: bytes, predicate_type: str) -> str:
        return self._source.attach(subject, bundle, predicate_type)

    def referrers(self, subject: str) -> Sequence[Referrer]:
        return self._source.referrers(subject)

    def evidence(self, subject: str) -> Sequence[bytes]:
        return self._source.evidence(subject)

    def _need(self, digest: str, *, layers: bool = True) -> None:
        """Pull what is not here yet; a description needs no layers."""
        if not self._has(digest, layers):
            pull_bytes(self._source.locate(digest), self, digest, layers=layers)

    def _has(self, digest: str, layers: bool) -> bool:
        try:
            manifest = super().manifest(digest)
        except ReleaseError:
            return False
        wanted = [manifest.config, *(manifest.layers if layers else [])]
        return all(self.blobs.has(blob.digest) for blob in wanted)

    def _mended(self, digest: str, work: Callable[[str], _Result]) -> _Result:
        """Pull anew what the cache's disk has spoilt, once; what the registry spoilt stays so."""
        try:
            return work(digest)
        except ReleaseCorrupt:
            pull_bytes(self._source.locate(digest), self, digest, anew=True)
            return work(digest)
