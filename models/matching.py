"""Is a component affected by an advisory? OSV's evaluation, with each ecosystem's own order.

Source: OSV schema, "Evaluation". A version counts as affected when it is listed, or within a range.
Where the order of versions cannot be told, the answer is that it cannot be told: it is never "no".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

from packageurl import PackageURL
from univers.versions import (
    AlpineLinuxVersion,
    ComposerVersion,
    DebianVersion,
    GolangVersion,
    InvalidVersion,
    MavenVersion,
    NugetVersion,
    PypiVersion,
    RpmVersion,
    RubygemsVersion,
    SemverVersion,
    Version,
)

from models.advisory import Affected, Range

Answer = Literal["yes", "no", "unknown"]

MAX_VERSION = 256

# purl type -> (OSV ecosystem, how versions are ordered). Source: OSV schema, "Defined ecosystems".
_ECOSYSTEMS: dict[str, tuple[str, type[Version]]] = {
    "pypi": ("PyPI", PypiVersion),
    "npm": ("npm", SemverVersion),
    "cargo": ("crates.io", SemverVersion),
    "golang": ("Go", GolangVersion),
    "maven": ("Maven", MavenVersion),
    "gem": ("RubyGems", RubygemsVersion),
    "nuget": ("NuGet", NugetVersion),
    "composer": ("Packagist", ComposerVersion),
    "deb": ("Debian", DebianVersion),
    "apk": ("Alpine", AlpineLinuxVersion),
    "rpm": ("Red Hat", RpmVersion),
    "hex": ("Hex", SemverVersion),
    "pub": ("Pub", SemverVersion),
}
_STRICT_SEMVER = re.compile(
    r"v?(0|[1-9]\d{0,17})\.(0|[1-9]\d{0,17})\.(0|[1-9]\d{0,17})(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?\Z"
)
_SEMVER_LIKE = (SemverVersion, GolangVersion)
_BY_VALUE = (PypiVersion, SemverVersion)

Key = Any
"""A version that can be compared with others of its ecosystem."""


@dataclass(frozen=True)
class Package:
    """A component as advisories name it."""

    ecosystem: str
    name: str
    version: str
    order: type[Version]


def package_of(purl: str) -> Package | None:
    """The package that a package URL means; None for a kind that no database covers.

    Raises:
        ValueError: not a package URL, or one without a version.
    """
    parsed = PackageURL.from_string(purl)
    known = _ECOSYSTEMS.get(parsed.type)
    if known is None:
        return None
    if not parsed.version:
        raise ValueError(f"{purl}: has no version")
    ecosystem, order = known
    name = parsed.name if not parsed.namespace else _joined(parsed)
    return Package(ecosystem, normal_name(ecosystem, name), parsed.version, order)


def _joined(parsed: PackageURL) -> str:
    if parsed.type == "maven":
        return f"{parsed.namespace}:{parsed.name}"
    if parsed.type in ("deb", "apk", "rpm"):  # the namespace is the distribution
        return parsed.name
    return f"{parsed.namespace}/{parsed.name}"


def normal_name(ecosystem: str, name: str) -> str:
    """The one spelling of a name by which packages and advisories are joined."""
    base = base_ecosystem(ecosystem)
    if base == "PyPI":  # PEP 503
        return re.sub(r"[-_.]+", "-", name).lower()
    if base in ("NuGet", "Packagist", "npm"):
        return name.lower()
    return name.replace("_", "-") if base == "crates.io" else name


def base_ecosystem(ecosystem: str) -> str:
    """``Debian:12`` without its release: ``Debian``."""
    return ecosystem.partition(":")[0]


def is_affected(package: Package, affected: Affected) -> Answer:
    """Whether a package is affected by what an advisory says about a package of its name."""
    if package.version in affected.versions:
        return "yes"
    answers = [
        in_range(package.version, each, package.order)
        for each in affected.ranges
        if each.type != "GIT"  # commits have no order that a version could be found in
    ]
    if "yes" in answers:
        return "yes"
    if not answers and not affected.versions:
        return "unknown"  # only commits, or nothing: it may well be affected
    if affected.versions and package.order is PypiVersion:
        answers.append(_among(package, affected.versions))
    return "yes" if "yes" in answers else "unknown" if "unknown" in answers else "no"


def _among(package: Package, versions: Sequence[str]) -> Answer:
    """Whether a version is listed in another spelling: 1.0 and 1.0.0 are one version in PyPI."""
    own = version_key(package.version, package.order)
    if own is None:
        return "unknown"
    listed = (version_key(each, package.order) for each in versions)
    return "yes" if any(each == own for each in listed if each is not None) else "no"


def in_range(version: str, affected: Range, order: type[Version]) -> Answer:
    """Walk the events of one range up to a version."""
    if not affected.events:
        return "unknown"
    own = version_key(version, order)
    if own is None:
        return "unknown"
    keyed = []
    for kind, at in affected.events:
        key = None if at == "0" else version_key(at, order)
        if key is None and at not in ("0", "*"):
            return "unknown"
        keyed.append((kind, at, key))
    bounds = [(at, key) for kind, at, key in keyed if kind == "limit"]
    unlimited = not bounds or any(at == "*" for at, _ in bounds)
    if not unlimited and not any(key is not None and own < key for _, key in bounds):
        return "no"
    return "yes" if _walk(own, keyed) else "no"


def _walk(own: Key, events: Sequence[tuple[str, str, Key | None]]) -> bool:
    """OSV's algorithm; of two events at one version the end counts last, as it is written."""
    walked = [(kind, key) for kind, _, key in events if kind != "limit"]
    vulnerable = any(kind == "introduced" for kind, key in walked if key is None)
    later = [(key, kind) for kind, key in walked if key is not None]
    later.sort(key=itemgetter(0))
    for key, kind in later:
        if (kind == "introduced" and own >= key) or (kind == "after" and own > key):
            vulnerable = True
        elif (kind == "fixed" and own >= key) or (kind == "last_affected" and own > key):
            vulnerable = False
    return vulnerable


def fixed_versions(affected: Affected) -> list[str]:
    """Versions in which it is fixed, as the advisory gives them."""
    return [
        at
        for each in affected.ranges
        if each.type != "GIT"
        for kind, at in each.events
        if kind == "fixed"
    ]


def version_key(version: str, order: type[Version]) -> Key | None:
    """A version in its ecosystem's order; None when it is not of its form."""
    return _version_key(version, order.__name__)


_ORDERS = {order.__name__: order for _, order in _ECOSYSTEMS.values()}


@lru_cache(maxsize=65_536)
def _version_key(version: str, named: str) -> Key | None:
    order = _ORDERS[named]
    if len(version) > MAX_VERSION:
        return None
    if order in _SEMVER_LIKE and _STRICT_SEMVER.match(_three_parts(version)) is None:
        return None
    try:
        built = order(_three_parts(version) if order in _SEMVER_LIKE else version)
        # The library compares its versions by this value, and takes several times as long for it.
        return built.value if order in _BY_VALUE else built
    except (InvalidVersion, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return None


def _three_parts(version: str) -> str:
    """``1`` and ``1.2``, which advisories use, as the semantic versions they stand for."""
    head = re.match(r"v?\d+(\.\d+)?(?=$|[-+])", version)
    if head is None:
        return version
    missing = 2 - head[0].count(".")
    return head[0] + ".0" * missing + version[head.end() :]
