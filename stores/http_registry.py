"""Releases in an OCI registry over HTTP: one repository a release name, one tag a version.

Blobs are checked against digest and size while they come. Evidence is a referrer of its release. A
registry without a referrers API has one tag for each referrer and, for other tools, the index that
the distribution specification falls back to (docs/adr/0011-evidence-without-compare-and-set.md).
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from models.bundle import MEDIA_TYPE as BUNDLE_TYPE
from models.ids import DIGEST_PATTERN
from models.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index, Manifest, decode, encode
from models.strict_json import EvidenceError
from stores.blobs import ReleaseCorrupt, ReleaseNotFound
from stores.layout_referrers import MANIFEST_LIMIT, referrers_tag
from stores.oci import VersionTaken
from stores.registry_client import RegistryClient, RegistryRefused, RegistryUnavailable
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

IMAGE_LIMIT = 4 * 1024**2
DOWNLOAD_TRIES = 5
SETTLE_TRIES = 20
UPLOAD_TRIES = 4
_UPLOAD_GONE = (400, 404, 416)  # unknown, or with part of the content in it already
_ACCEPT = {"Accept": f"{MANIFEST_TYPE}, {INDEX_TYPE}"}
_OWN_DIGITS = 32  # of a referrer's digest in its tag, which may have 128 characters


class HttpRepository:
    """One repository of a registry, as a `ReleaseRegistry`."""

    def __init__(self, client: RegistryClient, repository: str) -> None:
        self._client = client
        self._base = f"v2/{repository}"
        self._folder, _, self.name = repository.rpartition("/")

    def sibling(self, name: str) -> "HttpRepository":
        """Another repository beside this one, in the same registry."""
        return HttpRepository(self._client, f"{self._folder}/{name}".lstrip("/"))

    def resolve(self, reference: str) -> str:
        """The digest that a version (or ``name:version``) stands for now.

        Raises:
            ReleaseNotFound: there is none.
            RegistryUnavailable, RegistryRefused.
        """
        if re.fullmatch(DIGEST_PATTERN, reference):
            return reference
        tag = reference.removeprefix(f"{self.name}:")
        return _digest(self._manifest(tag, limit=IMAGE_LIMIT))

    def manifest_bytes(self, digest: str) -> bytes:
        """A manifest's bytes, checked against the digest.

        Raises:
            ReleaseNotFound: there is none.
            ReleaseCorrupt: the registry gave other bytes.
        """
        content = self._manifest(digest, limit=IMAGE_LIMIT)
        if _digest(content) != digest:
            raise ReleaseCorrupt(f"registry: {digest} came as {_digest(content)}")
        return content

    def image(self, digest: str) -> Manifest:
        """A release's manifest; an index of several images is refused, as it is no one image."""
        value = decode(self.manifest_bytes(digest))
        if value.get("mediaType") == INDEX_TYPE:
            raise ReleaseCorrupt(f"{digest} is an index of several images: name the one to run")
        try:
            return Manifest.model_validate(value)
        except ValueError as error:
            raise ReleaseCorrupt(f"manifest {digest}: {error}") from None

    def read_blob(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """A whole small blob, checked; raises `ReleaseCorrupt` and what `fetch_blob` raises."""
        if descriptor.size > limit:
            raise ReleaseCorrupt(f"blob {descriptor.digest}: over {limit} bytes")
        pieces = bytearray()
        self.fetch_blob(descriptor, pieces.extend, pieces.clear)
        return bytes(pieces)

    def fetch_blob(self, descriptor: Descriptor, take: Any, restart: Any) -> None:
        """Hand a blob to ``take`` piece by piece; a broken connection goes on where it broke.

        Args:
            restart: called when what was taken is to be forgotten, because the registry cannot go
                on in the middle.

        Raises:
            ReleaseCorrupt: other bytes than the digest's, or more than its size.
            RegistryUnavailable: it broke `DOWNLOAD_TRIES` times.
        """
        hashed, position = hashlib.sha256(), 0
        for attempt in range(1, DOWNLOAD_TRIES + 1):
            try:
                path = f"{self._base}/blobs/{descriptor.digest}"
                with self._client.stream(path, start=position) as (offset, pieces):
                    if offset != position:
                        hashed, position = hashlib.sha256(), 0
                        restart()
                    for piece in pieces:
                        position += len(piece)
                        if position > descriptor.size:
                            raise ReleaseCorrupt(f"blob {descriptor.digest}: larger than it says")
                        hashed.update(piece)
                        take(piece)
            except RegistryUnavailable:
                if attempt == DOWNLOAD_TRIES:
                    raise
                continue
            if position == descriptor.size:
                break
            if attempt == DOWNLOAD_TRIES:
                raise RegistryUnavailable(f"blob {descriptor.digest}: breaks off at {position}")
        if f"sha256:{hashed.hexdigest()}" != descriptor.digest:
            raise ReleaseCorrupt(f"blob {descriptor.digest}: came as sha256:{hashed.hexdigest()}")

    def has_blob(self, digest: str) -> bool:
        """Whether the registry has a blob already."""
        answer = self._client.send("HEAD", f"{self._base}/blobs/{digest}", allow=(404,))
        return bool(answer.is_success)

    def put_blob(self, content: bytes, media_type: str) -> Descriptor:
        """Keep a small blob; nothing is sent when it is there."""
        found = Descriptor(media_type=media_type, digest=_digest(content), size=len(content))
        self._upload(found, lambda: content)
        return found

    def put_file(self, descriptor: Descriptor, path: Path) -> None:
        """Keep a file as a blob; nothing is sent when it is there."""

        def pieces() -> Any:
            with path.open("rb") as file:
                yield from _chunks(file)

        self._upload(descriptor, pieces)

    def put_manifest(self, content: bytes) -> str:
        """Keep a manifest under its digest, which is returned."""
        self._put_manifest(content, _digest(content))
        return _digest(content)

    def give_tag(self, tag: str, content: bytes) -> None:
        """Let a version stand for a release; one that stands for another one stays.

        Raises:
            VersionTaken: it is another release's already.
        """
        try:
            present = self.resolve(tag)
        except ReleaseNotFound:
            self._put_manifest(content, tag)
            return
        if present != _digest(content):
            raise VersionTaken(f"version: {self.name}:{tag} is {present} in the registry")

    def attach(self, subject: str, bundle: bytes, predicate_type: str) -> str:
        """Keep a bundle with a release; the same bundle again changes nothing.

        Of writers at once none loses; see the module.

        Raises:
            ReleaseNotFound: there is no such release.
        """
        about = self.manifest_bytes(subject)
        layer = self.put_blob(bundle, BUNDLE_TYPE)
        self.put_blob(EMPTY, EMPTY_TYPE)
        described = Descriptor(media_type=MANIFEST_TYPE, digest=subject, size=len(about))
        content = referrer_manifest(described, layer, predicate_type)
        answer = self._put_manifest(content, _digest(content))
        if answer.headers.get("OCI-Subject") != subject:
            self._put_manifest(content, _own_tag(subject, _digest(content)))
            self._settle_index(subject)
        return _digest(content)

    def referrers(self, subject: str) -> Sequence[Referrer]:
        """All manifests that name a release as their subject, sorted by digest.

        Raises:
            ReleaseCorrupt: more than `MAX_REFERRERS`, or a listing that cannot be read.
        """
        answer = self._client.send("GET", f"{self._base}/referrers/{subject}", allow=(404,))
        found = _index(answer.content) if answer.is_success else self._fallback(subject)
        if len(found.manifests) > MAX_REFERRERS:
            raise ReleaseCorrupt(f"release {subject}: over {MAX_REFERRERS} referrers")
        return sorted(
            (
                Referrer(
                    each.digest,
                    each.size,
                    str((each.model_extra or {}).get("artifactType", "")),
                    each.annotations,
                )
                for each in found.manifests
            ),
            key=lambda referrer: referrer.digest,
        )

    def evidence(self, subject: str) -> Sequence[bytes]:
        """The bundles kept with a release, each one's subject checked.

        Raises:
            ReleaseCorrupt: a referrer is damaged, or is about another release.
        """
        bundles = []
        for referrer in self.referrers(subject):
            try:
                bundle = open_referrer(self.manifest_bytes(referrer.digest), subject)
            except EvidenceError as error:
                raise ReleaseCorrupt(f"{referrer.digest}: {error}") from None
            if bundle is not None:
                bundles.append(self.read_blob(bundle, limit=MAX_BUNDLE_BYTES))
        return bundles

    def _settle_index(self, subject: str) -> None:
        """Write the fallback index until it has all that it had, and all that has a tag.

        Of our own writers the last one sees every tag. What other tools listed has none, so that it
        stays only because it is read first.
        """
        for _ in range(SETTLE_TRIES):
            listed = self._fallback(subject)
            self._put_manifest(encode(listed), referrers_tag(subject), INDEX_TYPE)
            wanted = {each.digest for each in self._fallback(subject).manifests}
            if wanted == {each.digest for each in self._listed(subject).manifests}:
                return
        raise RegistryUnavailable(f"referrers of {subject}: other writers never come to an end")

    def _listed(self, subject: str) -> Index:
        """The fallback index as it is, which other tools write too."""
        answer = self._client.send(
            "GET", f"{self._base}/manifests/{referrers_tag(subject)}", allow=(404,), headers=_ACCEPT
        )
        return _index(answer.content) if answer.is_success else Index()

    def _fallback(self, subject: str) -> Index:
        """What the index lists, and what has a tag: the latter cannot be lost to a late writer."""
        index = self._listed(subject)
        known = {each.digest for each in index.manifests}
        own = [each for each in self._from_tags(subject).manifests if each.digest not in known]
        return index.model_copy(update={"manifests": [*index.manifests, *own]})

    def _from_tags(self, subject: str) -> Index:
        prefix = f"{referrers_tag(subject)}."
        manifests = []
        for tag in (each for each in self._tags() if each.startswith(prefix)):
            content = self._manifest(tag, limit=MANIFEST_LIMIT)
            digest = _digest(content)
            if tag != _own_tag(subject, digest):
                raise ReleaseCorrupt(f"registry: tag {tag} holds {digest}")
            kind = decode(content).get("annotations", {}).get(PREDICATE_ANNOTATION, "")
            manifests.append(
                {
                    "mediaType": MANIFEST_TYPE,
                    "digest": digest,
                    "size": len(content),
                    "artifactType": BUNDLE_TYPE,
                    "annotations": {PREDICATE_ANNOTATION: kind},
                }
            )
        return Index.model_validate({"schemaVersion": 2, "manifests": manifests})

    def _tags(self) -> list[str]:
        """Every tag of the repository, page by page."""
        found: list[str] = []
        path = f"{self._base}/tags/list?n=1000"
        while path:
            answer = self._client.send("GET", path, allow=(404,))
            if not answer.is_success:
                return []
            try:
                found += json.loads(answer.content)["tags"] or []
            except (ValueError, KeyError, TypeError):
                raise ReleaseCorrupt("registry: its list of tags cannot be read") from None
            following = answer.links.get("next", {}).get("url", "")
            path = "" if following == path or len(found) > 1_000_000 else following
        return sorted(found)

    def _manifest(self, reference: str, *, limit: int) -> bytes:
        path = f"{self._base}/manifests/{reference}"
        answer = self._client.send("GET", path, allow=(404,), headers=_ACCEPT)
        if not answer.is_success:
            raise ReleaseNotFound(f"release {self.name} {reference}: not in the registry")
        if len(answer.content) > limit:
            raise ReleaseCorrupt(f"manifest {reference}: over {limit} bytes")
        return bytes(answer.content)

    def _put_manifest(self, content: bytes, reference: str, kind: str = MANIFEST_TYPE) -> Any:
        return self._client.send(
            "PUT",
            f"{self._base}/manifests/{reference}",
            headers={"Content-Type": kind},
            content=lambda: content,
        )

    def _upload(self, descriptor: Descriptor, content: Any) -> None:
        """Upload from the start, and anew where the registry does not know the upload any more.

        It forgets one when it was restarted, and when it was done but its answer was lost.
        """
        for _ in range(UPLOAD_TRIES):
            if self.has_blob(descriptor.digest):
                return
            answer = self._upload_once(descriptor, content)
            if answer.is_success:
                return
        raise RegistryRefused(
            f"registry: blob {descriptor.digest}: {answer.status_code} {answer.text[:200]}"
        )

    def _upload_once(self, descriptor: Descriptor, content: Any) -> Any:
        started = self._client.send("POST", f"{self._base}/blobs/uploads/")
        where = str(started.headers["Location"])
        joined = "&" if "?" in where else "?"
        return self._client.send(
            "PUT",
            f"{where}{joined}digest={descriptor.digest}",
            allow=_UPLOAD_GONE,
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(descriptor.size),
            },
            content=content,
        )


def _own_tag(subject: str, referrer: str) -> str:
    return f"{referrers_tag(subject)}.{referrer.removeprefix('sha256:')[:_OWN_DIGITS]}"


def _chunks(file: BinaryIO) -> Any:
    while piece := file.read(1 << 20):
        yield piece


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _index(content: bytes) -> Index:
    if len(content) > MANIFEST_LIMIT:
        raise ReleaseCorrupt(f"referrers: over {MANIFEST_LIMIT} bytes")
    try:
        return Index.model_validate(decode(content))
    except ValueError as error:
        raise ReleaseCorrupt(f"referrers: {error}") from None
