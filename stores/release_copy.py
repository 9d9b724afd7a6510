"""Moving releases with their evidence between the layout on disk and a registry.

Blobs first, then manifests, then evidence, and the name last: whoever finds the name finds all of
it, however often the copy was cut short. Doing it again sends only what is missing.
"""

import shutil
import tempfile
from typing import IO

from models.bundle import read_bundle
from models.oci import MANIFEST_TYPE, Descriptor
from models.statement import read_statement
from stores.blobs import ReleaseCorrupt, Sink
from stores.http_registry import HttpRepository
from stores.oci import ImageLayout
from stores.registry_source import note_location


def push_release(layout: ImageLayout, repository: HttpRepository, digest: str) -> str:
    """Copy a release and its evidence into a registry, and tag it with its version.

    Returns:
        ``name:version``.

    Raises:
        ReleaseError: there is no such release here, it is damaged, or the tag is another release's.
        RegistryUnavailable: the registry does not answer; what it has so far has no name.
    """
    layout.verify(digest)
    spec = layout.describe(digest)
    push_bytes(layout, repository, digest)
    note_location(repository, digest)
    there = set(repository.evidence(digest))
    for bundle in layout.evidence(digest):
        if bundle not in there:
            repository.attach(digest, bundle, predicate_type(bundle))
    repository.give_tag(spec.version, layout.manifest_bytes(digest))
    return spec.reference


def push_bytes(layout: ImageLayout, repository: HttpRepository, digest: str) -> None:
    """Copy a release's blobs and manifest into a registry, under no name."""
    manifest = layout.manifest(digest)
    for blob in (*manifest.layers, manifest.config):
        repository.put_file(blob, layout.blobs.path(blob.digest))
    repository.put_manifest(layout.manifest_bytes(digest))


def pull_release(repository: HttpRepository, layout: ImageLayout, reference: str) -> str:
    """Copy a release and its evidence out of a registry, by digest from the first byte on.

    Args:
        reference: a version, ``name:version`` or a digest; resolved once, here.

    Returns:
        The digest.

    Raises:
        ReleaseError: there is no such release, or what comes is not what its digest says.
        RegistryUnavailable: the registry does not answer.
    """
    digest = repository.resolve(reference)
    pull_bytes(repository, layout, digest)
    layout.verify(digest)
    for bundle in repository.evidence(digest):
        layout.attach(digest, bundle, predicate_type(bundle))
    if layout.describe(digest).name != repository.name:
        raise ReleaseCorrupt(f"{digest} calls itself otherwise than its repository")
    layout.give_name(digest)
    return digest


def pull_bytes(
    repository: HttpRepository,
    layout: ImageLayout,
    digest: str,
    *,
    layers: bool = True,
    anew: bool = False,
) -> None:
    """Copy a release's blobs and manifest, each checked, out of a registry, under no name.

    Args:
        layers: false for the manifest and the description alone.
        anew: also what is here already.

    Raises:
        ReleaseError: there is no such release, or what comes is not what its digest says.
        RegistryUnavailable: the registry does not answer.
    """
    manifest = repository.image(digest)
    for blob in (*(manifest.layers if layers else []), manifest.config):
        if anew or not layout.blobs.has(blob.digest):
            _fetch(repository, layout, blob)
    layout.blobs.put(MANIFEST_TYPE, repository.manifest_bytes(digest))


def predicate_type(bundle: bytes) -> str:
    """What kind of evidence a bundle is; raises `EvidenceError` for one that cannot be read."""
    return read_statement(read_bundle(bundle).envelope.payload).predicate_type


def _fetch(repository: HttpRepository, layout: ImageLayout, blob: Descriptor) -> None:
    """Into a scratch file first: a download that starts anew must be able to go back."""
    with tempfile.TemporaryFile() as scratch:

        def restart() -> None:
            scratch.seek(0)
            scratch.truncate()

        repository.fetch_blob(blob, scratch.write, restart)
        scratch.seek(0)
        layout.blobs.put_stream(blob.media_type, lambda sink: _copy(scratch, sink))


def _copy(source: IO[bytes], sink: Sink) -> None:
    shutil.copyfileobj(source, sink, 1 << 20)
