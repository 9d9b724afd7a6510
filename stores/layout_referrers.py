"""Evidence in an OCI image layout: referrers by the tag scheme of the distribution specification.

``index.json`` names one index a release, ``sha256-<hex>``, which lists the release's referrers: the
scheme that clients fall back to where a registry has no referrers API, so that other tools find
them on disk too.
"""

from collections.abc import Callable
from typing import Any

from models.bundle import MEDIA_TYPE as BUNDLE_TYPE
from models.oci import INDEX_TYPE, MANIFEST_TYPE, REF_NAME, Descriptor, Index, decode, encode
from models.strict_json import EvidenceError
from stores.blobs import BlobStore, ReleaseCorrupt
from stores.release_registry import (
    EMPTY,
    EMPTY_TYPE,
    MAX_BUNDLE_BYTES,
    MAX_REFERRERS,
    PREDICATE_ANNOTATION,
    Referrer,
    open_referrer,
    referrer_manifest,
)

INDEX_LIMIT = 4 * 1024**2
MANIFEST_LIMIT = 1024**2

Change = Callable[[Callable[[Index], Index]], None]


def referrers_tag(subject: str) -> str:
    """The tag under which a release's referrers are listed."""
    return subject.replace(":", "-")


class LayoutReferrers:
    """The referrers in one layout; ``change`` edits its ``index.json`` under its lock."""

    def __init__(self, blobs: BlobStore, index: Callable[[], Index], change: Change) -> None:
        self._blobs = blobs
        self._index = index
        self._change = change

    def attach(self, subject: Descriptor, bundle: bytes, predicate_type: str) -> str:
        """Keep a bundle with a release and return its referrer's digest.

        Blobs come first and the listing last, so that a listed referrer is whole. The listing is
        changed under the layout's lock: of two writers at once none loses.
        """
        if len(bundle) > MAX_BUNDLE_BYTES:
            raise EvidenceError(f"bundle: {len(bundle)} bytes, the limit is {MAX_BUNDLE_BYTES}")
        self._blobs.put(EMPTY_TYPE, EMPTY)
        layer = self._blobs.put(BUNDLE_TYPE, bundle)
        made = self._blobs.put(MANIFEST_TYPE, referrer_manifest(subject, layer, predicate_type))
        listed = Descriptor.model_validate(
            {
                **made.model_dump(by_alias=True),
                "artifactType": BUNDLE_TYPE,
                "annotations": {PREDICATE_ANNOTATION: predicate_type},
            }
        )
        self._change(lambda index: self._with(index, subject.digest, listed))
        return made.digest

    def of(self, subject: str) -> list[Referrer]:
        """What is listed for a release, sorted by digest."""
        listing = self._listing(self._index(), subject)
        if len(listing.manifests) > MAX_REFERRERS:
            raise ReleaseCorrupt(
                f"release {subject}: {len(listing.manifests)} referrers, "
                f"the limit is {MAX_REFERRERS}"
            )
        found = [
            Referrer(
                each.digest,
                each.size,
                str((each.model_extra or {}).get("artifactType", "")),
                each.annotations,
            )
            for each in listing.manifests
        ]
        return sorted(found, key=lambda referrer: referrer.digest)

    def evidence(self, subject: str) -> list[bytes]:
        """The bundles of a release; raises `ReleaseError` for a referrer that does not hold."""
        bundles = []
        for referrer in self.of(subject):
            where = Descriptor(media_type=MANIFEST_TYPE, digest=referrer.digest, size=referrer.size)
            try:
                bundle = open_referrer(self._blobs.read(where, limit=MANIFEST_LIMIT), subject)
            except EvidenceError as error:
                raise ReleaseCorrupt(f"{referrer.digest}: {error}") from None
            if bundle is not None:
                bundles.append(self._blobs.read(bundle, limit=MAX_BUNDLE_BYTES))
        return bundles

    def _with(self, index: Index, subject: str, listed: Descriptor) -> Index:
        listing = self._listing(index, subject)
        if any(each.digest == listed.digest for each in listing.manifests):
            return index
        stored = self._blobs.put(INDEX_TYPE, encode(listing.with_manifest(listed)))
        tag = referrers_tag(subject)
        named = stored.model_copy(update={"annotations": {REF_NAME: tag}})
        others = [each for each in index.manifests if each.annotations.get(REF_NAME) != tag]
        return index.model_copy(update={"manifests": [*others, named]})

    def _listing(self, index: Index, subject: str) -> Index:
        found = index.named(referrers_tag(subject))
        if found is None:
            return Index()
        content = self._blobs.read(found, limit=INDEX_LIMIT)
        try:
            value: dict[str, Any] = decode(content)
            return Index.model_validate(value)
        except ValueError as error:
            raise ReleaseCorrupt(f"referrers of {subject}: {error}") from None
