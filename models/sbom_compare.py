"""Compare a bill of materials with the release it is about, and name what one of them lacks.

A bill can understate (a package or file of the release is not in it: a rule on packages cannot see
it) and overstate (a lock file lists what was never built in). Both are named; the first is never
right, the second is for a policy to judge.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from packageurl import PackageURL
from pydantic import BaseModel, ConfigDict

from models.packages import Package
from models.sbom import FILE_PROPERTY, Component, Sbom

MAX_NAMED = 1000
"""How many names a list of a comparison holds at most; the count is always right."""


@dataclass(frozen=True)
class ReleaseFile:
    """A file or symbolic link of a release: hash (hex) of its content, or of the link's text."""

    sha256: str
    size: int
    link: str | None = None


@dataclass(frozen=True)
class Contents:
    """What is in a release: each file by its path, and the packages that were recognised.

    ``altered`` are files of packages that are not what the package's own list says; they belong to
    no package.
    """

    files: Mapping[str, ReleaseFile]
    packages: tuple[Package, ...] = ()
    altered: tuple[str, ...] = field(default=())

    @property
    def loose_files(self) -> list[str]:
        """The files that belong to no package, in order."""
        owned = {path for package in self.packages for path in package.files}
        return sorted(path for path in self.files if path not in owned)


class Named(BaseModel):
    """A list of names that may be long: how many there are, and the first of them in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = 0
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.count > 0


class SbomComparison(BaseModel):
    """What a bill of materials and its release disagree on.

    ``unlisted_packages`` and ``unlisted_files``: in the release, not in the bill.
    ``absent_packages`` and ``absent_files``: in the bill, not in the release.
    ``unconfirmed_packages``: in the bill, and nothing in the release can tell.
    ``altered_files``: the hash in the bill is another. ``altered_packages``: likewise.
    ``subject_matches``: the bill says that it is about this release's digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject_matches: bool
    unlisted_packages: Named = Named()
    unlisted_files: Named = Named()
    absent_packages: Named = Named()
    absent_files: Named = Named()
    unconfirmed_packages: Named = Named()
    altered_packages: Named = Named()
    altered_files: Named = Named()

    @property
    def covers(self) -> bool:
        """Whether the bill accounts for all that is in the release, and says so of this release."""
        return self.subject_matches and not (
            self.unlisted_packages
            or self.unlisted_files
            or self.altered_packages
            or self.altered_files
        )

    @property
    def overstates(self) -> bool:
        """Whether the bill lists what the release shows not to have."""
        return bool(self.absent_packages or self.absent_files)

    def reasons(self) -> list[str]:
        """One sentence for each disagreement, for a verdict or a person."""
        found = [] if self.subject_matches else ["the SBOM is about another digest"]
        for text, named in (
            ("package of the release is not in the SBOM", self.unlisted_packages),
            ("file of the release is not in the SBOM", self.unlisted_files),
            ("package of the SBOM is not in the release", self.absent_packages),
            ("file of the SBOM is not in the release", self.absent_files),
            ("package has other hashes in the SBOM", self.altered_packages),
            ("file has another hash in the SBOM", self.altered_files),
        ):
            found += [f"{text}: {name}" for name in named.names[:3]]
            if named.count > 3:
                found.append(f"{text}: {named.count - 3} more")
        return found


def compare(sbom: Sbom, contents: Contents, *, digest: str) -> SbomComparison:
    """Compare ``sbom`` with what is in the release ``digest``."""
    listed: dict[str, list[Component]] = {}
    for component in sbom.packages:
        if component.purl:
            listed.setdefault(purl_key(component.purl), []).append(component)
    seen = [package for package in contents.packages if package.origin != "lock"]
    present = {purl_key(package.purl) for package in seen}
    # Of an ecosystem of which something was seen, all was: the rest of a lock file is not there.
    told = {package.ecosystem for package in seen}
    not_seen = [each[0] for key, each in listed.items() if key not in present]
    return SbomComparison(
        subject_matches=sbom.subject_digest == digest,
        unlisted_packages=_named(p.purl for p in seen if purl_key(p.purl) not in listed),
        absent_packages=_named(c.label for c in not_seen if _ecosystem(c) in told),
        unconfirmed_packages=_named(c.label for c in not_seen if _ecosystem(c) not in told),
        altered_packages=_named(
            package.purl
            for package in seen
            if (same := listed.get(purl_key(package.purl)))
            and all(_differs(component.hashes, package.hashes) for component in same)
        ),
        **_compare_files(sbom, contents, set(listed)),
    )


def _compare_files(sbom: Sbom, contents: Contents, listed: set[str]) -> dict[str, Named]:
    entries = {_path(component): component for component in sbom.files}
    owned = {
        path
        for package in contents.packages
        if purl_key(package.purl) in listed
        for path in package.files
    }
    unlisted = [path for path in contents.files if path not in entries and path not in owned]
    altered = [
        path
        for path, component in entries.items()
        if path in contents.files and component.hashes.get("SHA-256") != contents.files[path].sha256
    ]
    return {
        "unlisted_files": _named(unlisted),
        "absent_files": _named(path for path in entries if path not in contents.files),
        "altered_files": _named(altered),
    }


def _path(component: Component) -> str:
    paths = component.property_values(FILE_PROPERTY)
    return paths[0] if paths else component.name


def _differs(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return any(other[name] != value for name, value in one.items() if name in other)


def purl_key(purl: str) -> str:
    """What two package URLs must share to mean one package: qualifiers say where it came from."""
    try:
        parsed = PackageURL.from_string(purl)
    except ValueError:
        return purl
    return PackageURL(parsed.type, parsed.namespace, parsed.name, parsed.version).to_string()


def _ecosystem(component: Component) -> str:
    return (component.purl or "").removeprefix("pkg:").partition("/")[0].lower()


def _named(names: Iterable[str]) -> Named:
    found = sorted(set(names))
    return Named(count=len(found), names=tuple(name[:500] for name in found[:MAX_NAMED]))
