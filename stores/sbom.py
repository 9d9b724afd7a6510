"""Make the bill of materials of a release: CycloneDX 1.6, bound to the release's digest.

The same release, sources and time give the same bytes. Packages that were seen in the release are
listed, and then every file that belongs to none of them; a lock file only adds hashes to what was
seen, unless nothing of its ecosystem can be seen.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.bom_ref import BomRef
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.tool import ToolRepository
from cyclonedx.schema import SchemaVersion
from cyclonedx.schema.schema import SchemaVersion1Dot6
from packageurl import PackageURL

from models.packages import Origin, Package, release_purl
from models.sbom import (
    FILE_PROPERTY,
    HASHED_PROPERTY,
    LINK_PROPERTY,
    MAX_COMPONENTS,
    ORIGIN_PROPERTY,
    PROPERTY_PREFIX,
    Scope,
)
from models.sbom_compare import Contents, ReleaseFile, purl_key
from models.strict_json import EvidenceError
from stores.sbom_contents import read_contents, read_lock_file
from stores.unpack import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from cyclonedx.validation.json import JsonStrictValidator

LEFT_OUT_PROPERTY = f"{PROPERTY_PREFIX}locked-but-not-in-the-release"
ALTERED_PROPERTY = f"{PROPERTY_PREFIX}altered"
ANY_OF_PROPERTY = f"{PROPERTY_PREFIX}any-of"
ROOT = "release"
BINARY = "binary that it is compiled into"
TOOL = "chainring"
SCHEMA_URI = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_PART = 50

_SERIALS = UUID("5a0c5f52-6e4d-5f0e-9c1b-3d8a53f1a0de")
"""The name space of serial numbers (RFC 9562, UUID version 5): one for each release digest."""

_STRENGTH: Sequence[Origin] = ("installed", "archive", "binary", "lock")


@dataclass(frozen=True)
class LockSource:
    """A lock file of the source tree: its path there, and its bytes."""

    name: str
    data: bytes


def make_sbom(
    root: Path,
    digest: str,
    *,
    name: str,
    version: str,
    now: datetime,
    sources: Iterable[LockSource] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """The bill of materials (CycloneDX 1.6, JSON) of the release that is unpacked at ``root``.

    Args:
        digest: the release's digest, ``sha256:...``; the bill names it as its subject.
        now: when the bill is made; aware, kept in whole seconds.
        sources: lock files of the source tree, for what they know of packages in the release.

    Raises:
        EvidenceError: the release or a lock file cannot be read, is beyond the limits, or what
            would come out is not valid by the schema.
        OSError: a file cannot be read.
    """
    locked = [package for each in sources for package in read_lock_file(each.data, each.name)]
    contents = read_contents(root, limits)
    return write_sbom(contents, locked, digest, name=name, version=version, now=now)


def write_sbom(
    contents: Contents,
    locked: Sequence[Package],
    digest: str,
    *,
    name: str,
    version: str,
    now: datetime,
) -> bytes:
    """The bill of materials of what was found in a release; see `make_sbom`."""
    packages, left_out = merge([*contents.packages, *locked])
    packages = [_with_hash(package, contents) for package in packages]
    loose = contents.loose_files
    if len(packages) + len(loose) > MAX_COMPONENTS:
        raise EvidenceError(f"SBOM: more than {MAX_COMPONENTS} components")
    root = _root(digest, name, version)
    components = _package_components(packages)
    bom = Bom(
        serial_number=uuid5(_SERIALS, digest),
        metadata=BomMetaData(
            timestamp=now.replace(microsecond=0),
            component=root,
            tools=ToolRepository(
                components=[Component(name=TOOL, type=ComponentType.APPLICATION, bom_ref=TOOL)]
            ),
            properties=[Property(name=LEFT_OUT_PROPERTY, value=str(left_out))] if left_out else [],
        ),
        components=[
            *components,
            *(_file_component(path, contents) for path in loose),
        ],
        dependencies=_dependencies(root, packages, components),
    )
    return _written(bom)


def merge(packages: Iterable[Package]) -> tuple[list[Package], int]:
    """One entry for each package and content; the count is of locked packages that are not there.

    Of several sightings the surest counts, and what it has no hash for the lock file may know.
    """
    found = sorted(packages, key=lambda each: (_STRENGTH.index(each.origin), each.source))
    told = {package.ecosystem for package in found if package.origin != "lock"}
    merged: dict[str, list[Package]] = {}
    left_out = set()
    for package in found:
        key = purl_key(package.purl)
        same = merged.get(key, [])
        if not same and package.origin == "lock" and package.local:
            continue  # the project itself, whose files are listed
        merged[key] = same
        if not same and package.origin == "lock" and package.ecosystem in told:
            left_out.add(key)
        elif not same or not any(_join(same, index, package) for index in range(len(same))):
            same.append(package)
    return [package for same in merged.values() for package in same], len(left_out)


def _with_hash(package: Package, contents: Contents) -> Package:
    """A crate in a binary of which no lock file knows the archive has the binary's own hash."""
    if package.hashes or package.origin != "binary":
        return package
    hashes = {"SHA-256": contents.files[package.source].sha256}
    return replace(package, hashes=hashes, hashed=BINARY)


def _join(same: list[Package], index: int, package: Package) -> bool:
    """Add a sighting to an entry that it does not contradict; whether that could be done."""
    first = same[index]
    weaker = package.origin != first.origin
    if not weaker and first.hashes != package.hashes:
        return False
    same[index] = replace(
        first,
        hashes=first.hashes or package.hashes,
        hashed=first.hashed or package.hashed,
        any_of=first.any_of or package.any_of,
        vcs=first.vcs or package.vcs,
        requires=first.requires or package.requires,
        files=tuple(sorted({*first.files, *package.files})),
        scope=first.scope if weaker else _wider(first, package),
    )
    return True


def _wider(one: Package, other: Package) -> Scope:
    order: tuple[Scope, ...] = ("required", "optional", "excluded")
    return min(one.scope, other.scope, key=order.index)


def _root(digest: str, name: str, version: str) -> Component:
    return Component(
        type=ComponentType.APPLICATION,
        name=name,
        version=version,
        bom_ref=ROOT,
        purl=PackageURL.from_string(release_purl(name, version, digest)),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))],
    )


def _package_components(packages: Sequence[Package]) -> list[Component]:
    taken: set[str] = set()
    components = []
    for package in packages:
        reference = package.purl
        if reference in taken:
            reference = f"{reference}#{package.location or package.source}"
        taken.add(reference)
        components.append(_package_component(package, reference))
    return components


def _package_component(package: Package, reference: str) -> Component:
    values = [
        (ORIGIN_PROPERTY, package.origin),
        (FILE_PROPERTY, package.location or package.source),
        *([(HASHED_PROPERTY, package.hashed)] if package.hashes else []),
        *((ANY_OF_PROPERTY, value) for value in package.any_of),
    ]
    return Component(
        type=ComponentType.LIBRARY,
        group=package.namespace or None,
        name=package.name,
        version=package.version,
        bom_ref=reference,
        purl=PackageURL.from_string(package.purl),
        scope=ComponentScope(package.scope),
        hashes=_hash_types(package.hashes),
        properties=[Property(name=key, value=value) for key, value in values],
    )


def _file_component(path: str, contents: Contents) -> Component:
    entry: ReleaseFile = contents.files[path]
    values = [(FILE_PROPERTY, path)]
    if entry.link is not None:
        values.append((LINK_PROPERTY, entry.link))
    if path in contents.altered:
        values.append((ALTERED_PROPERTY, "not what its package's RECORD says"))
    return Component(
        type=ComponentType.FILE,
        name=path,
        bom_ref=f"file:{path}",
        hashes=_hash_types({"SHA-256": entry.sha256}),
        properties=[Property(name=key, value=value) for key, value in values],
    )


def _hash_types(hashes: Mapping[str, str]) -> list[HashType]:
    return [HashType(alg=HashAlgorithm(name), content=value) for name, value in hashes.items()]


def _dependencies(
    root: Component, packages: Sequence[Package], components: Sequence[Component]
) -> list[Dependency]:
    """Who needs whom; the release itself needs what nobody else does.

    The library's own ``register_dependency`` searches all that are registered each time.
    """
    references: dict[str, BomRef] = {}
    for package, component in zip(packages, components, strict=True):
        references.setdefault(purl_key(package.purl), component.bom_ref)
    needed: set[str] = set()
    graph = []
    for package, component in zip(packages, components, strict=True):
        keys = {purl_key(purl) for purl in package.requires} - {purl_key(package.purl)}
        needed |= keys
        graph.append(_edges(component.bom_ref, keys & references.keys(), references))
    return [*graph, _edges(root.bom_ref, references.keys() - needed, references)]


def _edges(reference: BomRef, keys: Iterable[str], references: Mapping[str, BomRef]) -> Dependency:
    return Dependency(reference, [Dependency(references[key]) for key in keys])


def _written(bom: Bom) -> bytes:
    """The bill as JSON, after its schema accepted it.

    The library's ``JsonV1Dot6`` compares each component with each other, twice, which takes
    minutes for some thousands; what it checks (references are unique and lead somewhere) holds
    here by how the bill is put together, so only its serialisation is used.
    """
    value = json.loads(bom.as_json(view_=SchemaVersion1Dot6))  # type: ignore[attr-defined]
    value |= {"$schema": SCHEMA_URI, "bomFormat": "CycloneDX", "specVersion": "1.6"}
    _validate(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _validate(value: dict[str, Any]) -> None:
    """Validate a bill by the strict schema, in parts: a list's items are compared pair by pair."""
    validator = _validator()
    lists = {"components": "bom-ref", "dependencies": "ref"}
    rest = {key: item for key, item in value.items() if key not in lists}
    parts = [rest]
    for key, reference in lists.items():
        items = value.get(key, [])
        if len({item[reference] for item in items}) != len(items):
            raise EvidenceError(f"SBOM: a reference occurs twice in its {key}")
        parts += [{**rest, key: list(part)} for part in _batched(items, _PART)]
    for part in parts:
        problem = validator.validate_str(json.dumps(part))
        if problem is not None:
            raise EvidenceError(f"SBOM: not valid CycloneDX 1.6: {str(problem)[:500]}")


@cache
def _validator() -> "JsonStrictValidator":
    """Made once, when it is first needed: schemas and formats' grammars take seconds to build."""
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    return JsonStrictValidator(SchemaVersion.V1_6)


def _batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
