"""A registry as the one place of all releases: by ``name:version``, and by digest alone.

A registry finds a digest within one repository only, and each release name has its own. So one
repository more, `LOCATIONS`, has a tag for each digest that says which one it is. What it says is a
hint and no more: whatever is read there is checked against the digest.
"""

import re
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from models.ids import DIGEST_PATTERN
from models.oci import MANIFEST_TYPE, decode, encode
from models.release import NAME_PATTERN, TITLE_LABEL
from stores.blobs import ReleaseCorrupt, ReleaseNotFound
from stores.http_registry import HttpRepository
from stores.registry_client import RegistryClient
from stores.release_registry import EMPTY, EMPTY_TYPE, Referrer

LOCATIONS = "chainring/digests"
"""A release's name has no slash, so that no release can have this repository."""

LOCATION_TYPE = "application/vnd.chainring.release-location.v1"


class RegistrySource:
    """All releases below one address; a `ReleaseRegistry`.

    Args:
        url: ``http(s)://host[:port][/prefix]``.
        client: makes the client for the registry's root; it is shared by all repositories.
    """

    def __init__(self, url: str, client: Callable[[str], RegistryClient] = RegistryClient) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"registry: {url!r} is not http(s)://host[/prefix]")
        self._client = client(f"{parts.scheme}://{parts.netloc}")
        self._prefix = parts.path.strip("/")
        self._names: dict[str, str] = {}

    def repository(self, name: str) -> HttpRepository:
        """The repository of a release name."""
        return HttpRepository(self._client, "/".join(filter(None, (self._prefix, name))))

    def locate(self, digest: str) -> HttpRepository:
        """The repository that has a release.

        Raises:
            ReleaseNotFound: nobody has published it here.
            ReleaseCorrupt: what is written about its place cannot be understood.
            RegistryUnavailable, RegistryRefused.
        """
        name = self._names.get(digest)
        if name is None:
            name = self._names[digest] = self._read_location(digest)
        return self.repository(name)

    def note(self, digest: str, name: str) -> None:
        """Let a release be found by its digest; it can be before its name can."""
        note_location(self.repository(name), digest)
        self._names[digest] = name

    def resolve(self, reference: str) -> str:
        """The digest that ``name:version`` or a digest stands for now.

        Raises:
            ReleaseNotFound, RegistryUnavailable, RegistryRefused.
        """
        if re.fullmatch(DIGEST_PATTERN, reference):
            return reference
        name, colon, version = reference.partition(":")
        if not colon or re.fullmatch(NAME_PATTERN, name) is None:
            raise ReleaseNotFound(f"release {reference!r}: neither name:version nor a digest")
        return self.repository(name).resolve(version)

    def manifest_bytes(self, digest: str) -> bytes:
        """A manifest's bytes, checked; raises what `locate` and `HttpRepository` raise."""
        return self.locate(digest).manifest_bytes(digest)

    def attach(self, subject: str, bundle: bytes, predicate_type: str) -> str:
        """Keep a bundle with a release; the same bundle again changes nothing."""
        return self.locate(subject).attach(subject, bundle, predicate_type)

    def referrers(self, subject: str) -> Sequence[Referrer]:
        """All manifests that name a release as their subject, sorted by digest."""
        return self.locate(subject).referrers(subject)

    def evidence(self, subject: str) -> Sequence[bytes]:
        """The bundles kept with a release, each one's subject checked."""
        return self.locate(subject).evidence(subject)

    def _read_location(self, digest: str) -> str:
        if re.fullmatch(DIGEST_PATTERN, digest) is None:
            raise ReleaseNotFound(f"release {digest!r}: a digest is sha256: and 64 hex digits")
        places = self.repository(LOCATIONS)
        try:
            found = places.resolve(_tag(digest))
            said = decode(places.manifest_bytes(found)).get("annotations")
        except ReleaseNotFound:
            raise ReleaseNotFound(
                f"release {digest}: not in the registry (`chainring releases push`)"
            ) from None
        except ValueError as error:
            raise ReleaseCorrupt(f"release {digest}: its place: {error}") from None
        name = said.get(TITLE_LABEL) if isinstance(said, dict) else None
        if not isinstance(name, str) or re.fullmatch(NAME_PATTERN, name) is None:
            raise ReleaseCorrupt(f"release {digest}: its place is no release's name: {name!r:.80}")
        return name


def note_location(repository: HttpRepository, digest: str) -> None:
    """Write down beside a repository that it has a release; doing it again changes nothing."""
    places = repository.sibling(LOCATIONS)
    empty = places.put_blob(EMPTY, EMPTY_TYPE).model_dump(by_alias=True, mode="json")
    content = encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": LOCATION_TYPE,
            "config": empty,
            "layers": [empty],
            "annotations": {TITLE_LABEL: repository.name},
        }
    )
    places.give_tag(_tag(digest), content)


def _tag(digest: str) -> str:
    return f"release-{digest.removeprefix('sha256:')}"
