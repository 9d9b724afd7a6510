"""What the readers of lock files, environments and binaries find: packages, plainly.

A package URL is made from it in the canonical spelling of its ecosystem.
Source: the package URL specification and its types (``pypi``, ``cargo``, ``npm``, ``oci``).
"""

import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from packageurl import PackageURL

from models.sbom import HASH_DIGITS, Scope
from models.strict_json import EvidenceError

Origin = Literal["installed", "archive", "binary", "lock"]
"""How sure it is that a package is in the release.

``installed``: its files are there; ``archive``: in a package file that is there; ``binary``: a
binary says that it was compiled in; ``lock``: a lock file names it, which proves nothing: a lock
file lists what could be needed on any machine.
"""

MAX_PACKAGES = 50_000
"""Most packages that one file may name."""

_SRI = {"sha1": "SHA-1", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}


@dataclass(frozen=True)
class Package:
    """One package of an ecosystem.

    ``ecosystem`` is a package URL type. ``hashes`` are lower case hex by CycloneDX's names and
    ``hashed`` says of what; ``any_of`` holds the hashes of which an archive may have any one, as
    ``sha256:...``. ``source`` is the file or directory that told of it. ``files`` are the paths
    inside the release that belong to it, ``location`` is the directory they are in. ``requires``
    holds package URLs of what it needs directly, as far as they are known. ``vcs`` is the source
    repository and commit of a package that no registry holds. ``local``: a part of the project
    itself, from its own source tree.
    """

    ecosystem: str
    name: str
    version: str
    origin: Origin
    source: str
    namespace: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    hashed: str = ""
    any_of: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    location: str = ""
    requires: tuple[str, ...] = ()
    scope: Scope = "required"
    vcs: str = ""
    local: bool = False

    @property
    def purl(self) -> str:
        """The package URL in canonical form; raises `EvidenceError` if there can be none."""
        return purl_of(
            self.ecosystem, self.name, self.version, namespace=self.namespace, vcs=self.vcs
        )


def purl_of(ecosystem: str, name: str, version: str, *, namespace: str = "", vcs: str = "") -> str:
    """The canonical package URL of a package.

    Raises:
        EvidenceError: no package URL can be made of that.
    """
    try:
        qualifiers = {"vcs_url": vcs} if vcs else None
        purl = PackageURL(ecosystem, namespace or None, name, version or None, qualifiers)
        return purl.to_string()
    except ValueError as error:  # also of text that is not Unicode
        raise EvidenceError(f"package {name[:200]!r}: no package URL: {error}") from None


def release_purl(name: str, version: str, digest: str) -> str:
    """The package URL of a release: ``pkg:oci/name@sha256:...?tag=version``."""
    return PackageURL("oci", None, name, digest, {"tag": version} if version else None).to_string()


def normal_name(name: str) -> str:
    """A Python distribution's name as it is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hashes_of_integrity(text: str, *, what: str) -> dict[str, str]:
    """Hashes of a Subresource Integrity string (W3C SRI): ``sha512-`` and base64, by name.

    Raises:
        EvidenceError: not such a string; ``what`` names it in the message.
    """
    hashes: dict[str, str] = {}
    for part in text.split():
        algorithm, _, value = part.partition("-")
        name = _SRI.get(algorithm)
        try:
            digest = b64decode(value.split("?")[0], validate=True).hex()
        except ValueError:
            digest = ""
        if name is None or len(digest) != HASH_DIGITS[name]:
            raise EvidenceError(f"{what}: {part[:80]!r} is no integrity hash")
        if hashes.setdefault(name, digest) != digest:
            raise EvidenceError(f"{what}: two different hashes of one kind")
    return hashes
