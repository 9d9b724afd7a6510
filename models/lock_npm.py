"""Read package-lock.json of npm 7 and later (lockfileVersion 2 and 3).

Source: npm documentation, "package-lock.json": ``packages`` maps a location relative to the project
to what is installed there. Integrity strings are the hashes of the package archives.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from models.packages import MAX_PACKAGES, Package, hashes_of_integrity, purl_of
from models.sbom import Scope
from models.strict_json import EvidenceError, read_as, read_json

LOCK_BYTES = 32 * 1024**2
ARCHIVE = "package archive, as package-lock.json says"
FOLDER = "node_modules/"
MAX_LOCATION = 2048

_Text = Annotated[str, StringConstraints(max_length=4096)]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    name: _Text = ""
    version: _Text = ""
    resolved: _Text | bool = ""
    integrity: _Text = ""
    link: bool = False
    dev: bool = False
    optional: bool = False
    dev_optional: Annotated[bool, Field(alias="devOptional")] = False
    dependencies: dict[str, str] = Field(default_factory=dict)
    optional_dependencies: Annotated[dict[str, str], Field(alias="optionalDependencies")] = Field(
        default_factory=dict
    )


class _Lock(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    version: Annotated[int, Field(alias="lockfileVersion", ge=2, le=3)]
    packages: dict[str, _Entry] = Field(max_length=MAX_PACKAGES)


def read_package_lock(data: bytes, source: str = "package-lock.json") -> list[Package]:
    """The packages that a lock file names, without the project itself and links to its parts.

    Each has its ``location`` relative to the lock file's directory.

    Raises:
        EvidenceError: too large, not strict JSON, an old version, or a field is wrong.
    """
    value = read_json(data, what=source, max_bytes=LOCK_BYTES)
    entries = read_as(_Lock, value, what=source).packages
    found = []
    for location, entry in entries.items():
        if location == "" or entry.link:
            continue
        if len(location) > MAX_LOCATION or ".." in location.split("/") or location[0] == "/":
            raise EvidenceError(f"{source}: packages: {location[:200]!r} is no location")
        found.append(_package(location, entry, entries, source))
    return found


def split_name(name: str) -> tuple[str, str]:
    """Namespace and name of an npm package: ``@scope/name`` has the namespace ``@scope``."""
    scope, slash, rest = name.partition("/")
    return (scope, rest) if slash and scope.startswith("@") else ("", name)


def _package(location: str, entry: _Entry, entries: Mapping[str, _Entry], source: str) -> Package:
    namespace, name = _name(location, entry, source)
    if not entry.version:
        raise EvidenceError(f"{source}: {location[:200]}: version: missing")
    hashes = hashes_of_integrity(entry.integrity, what=f"{source}: {location[:200]}: integrity")
    resolved = entry.resolved if isinstance(entry.resolved, str) else ""
    return Package(
        ecosystem="npm",
        name=name,
        version=entry.version,
        origin="lock",
        source=source,
        namespace=namespace,
        hashes=hashes,
        hashed=ARCHIVE if hashes else "",
        location=location,
        requires=_requires(location, entry, entries, source),
        scope=_scope(entry),
        local=FOLDER not in location,
        vcs=resolved.replace("#", "@", 1) if resolved.startswith("git+") else "",
    )


def _name(location: str, entry: _Entry, source: str) -> tuple[str, str]:
    """An alias is installed under another name than its own, which the entry gives then."""
    namespace, name = split_name(entry.name or location.rpartition(FOLDER)[2])
    if not name:
        raise EvidenceError(f"{source}: {location[:200]!r} names no package")
    return namespace, name


def _scope(entry: _Entry) -> Scope:
    if entry.dev:
        return "excluded"
    return "optional" if entry.optional or entry.dev_optional else "required"


def _requires(
    location: str, entry: _Entry, entries: Mapping[str, _Entry], source: str
) -> tuple[str, ...]:
    found = []
    for name in (*entry.dependencies, *entry.optional_dependencies):
        target = _resolve(location, name, entries)
        if target is not None and entries[target].version and not entries[target].link:
            namespace, plain = _name(target, entries[target], source)
            found.append(purl_of("npm", plain, entries[target].version, namespace=namespace))
    return tuple(found)


def _resolve(location: str, name: str, entries: Mapping[str, _Entry]) -> str | None:
    """Where Node.js would find ``name`` from ``location``: the nearest ``node_modules`` upwards."""
    directory = location
    while True:
        candidate = f"{directory}/{FOLDER}{name}" if directory else f"{FOLDER}{name}"
        if candidate in entries:
            return candidate
        if not directory:
            return None
        directory = directory.rpartition("/")[0]
