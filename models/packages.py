"""What the readers of lock files, environments and binaries find: packages, plainly.

A package URL is made from it by `purl_of`, in the canonical spelling of its ecosystem.
Source: the package URL specification and its types (``pypi``, ``cargo``, ``npm``, ``oci``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from packageurl import PackageURL

from models.strict_json import EvidenceError

Origin = Literal["installed", "archive", "binary", "lock"]
"""How sure it is that a package is in the release.

``installed``: its files are there; ``archive``: in a package file that is there; ``binary``: a
binary says that it was compiled in; ``lock``: a lock file names it, which proves nothing: a lock
file lists what could be needed on any machine.
"""

SEEN: tuple[Origin, ...] = ("installed", "archive", "binary")
"""Origins that show that a package is in the release."""

MAX_PACKAGES = 50_000
"""Most packages that one file may name."""


@dataclass(frozen=True)
class Package:
    """One package of an ecosystem.

    ``ecosystem`` is a package URL type. ``hashes`` are lower case hex by CycloneDX's names;
    ``hashed`` says of what. ``source`` is the file or directory that told of it, inside the
    release. ``files`` are the paths inside the release that belong to it. ``requires`` holds
    package URLs of what it needs directly, as far as they are known.
    """

    ecosystem: str
    name: str
    version: str
    origin: Origin
    source: str
    namespace: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    hashed: str = ""
    files: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    optional: bool = False

    @property
    def purl(self) -> str:
        """The package URL in canonical form."""
        return purl_of(self.ecosystem, self.name, self.version, namespace=self.namespace)


def purl_of(ecosystem: str, name: str, version: str, *, namespace: str = "") -> str:
    """The canonical package URL of a package.

    Raises:
        EvidenceError: no package URL can be made of that.
    """
    try:
        purl = PackageURL(ecosystem, namespace or None, name, version or None)
    except ValueError as error:
        raise EvidenceError(f"package {name[:200]!r}: no package URL: {error}") from None
    return purl.to_string()


def release_purl(name: str, version: str, digest: str) -> str:
    """The package URL of a release: ``pkg:oci/name@sha256%3A...?tag=version``."""
    qualifiers = {"tag": version} if version else None
    return PackageURL("oci", None, name, digest, qualifiers).to_string()
