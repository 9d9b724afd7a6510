"""Read a CycloneDX software bill of materials, strictly and within limits.

The file may come from a stranger. What is read is what a judgement needs: the component the bill is
about, the components in it with package URL, hashes and scope, and which depends on which. Other
fields are left alone. Source: CycloneDX 1.6, JSON (ECMA-424); 1.4 and 1.5 write these fields alike.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from models.strict_json import EvidenceError, read_json

MAX_BYTES = 48 * 1024**2
"""The largest bill that is read; 50,000 components with hashes and properties have about 30 MB."""

MAX_COMPONENTS = 50_000
MAX_NESTING = 16
"""How deep a component may hold components."""

READABLE_VERSIONS = ("1.4", "1.5", "1.6")

PROPERTY_PREFIX = "chainring:sbom:"
"""Names of our own properties start with it."""

ORIGIN_PROPERTY = f"{PROPERTY_PREFIX}origin"
"""Where a component was seen: see `models.packages.Origin`."""

HASHED_PROPERTY = f"{PROPERTY_PREFIX}hashed"
"""What the component's hashes are the hashes of."""

FILE_PROPERTY = f"{PROPERTY_PREFIX}path"
"""The path inside the release of something that belongs to a component."""

LINK_PROPERTY = f"{PROPERTY_PREFIX}link"
"""The file is a symbolic link and this is its target; the hash is that of the target's text."""

HASH_DIGITS = {
    "MD5": 32,
    "SHA-1": 40,
    "SHA-256": 64,
    "SHA-384": 96,
    "SHA-512": 128,
    "SHA3-256": 64,
    "SHA3-384": 96,
    "SHA3-512": 128,
    "BLAKE2b-256": 64,
    "BLAKE2b-384": 96,
    "BLAKE2b-512": 128,
    "BLAKE3": 64,
}
"""CycloneDX names of hash algorithms, and how many hex digits a value has."""

Scope = Literal["required", "optional", "excluded"]
_Text = Annotated[str, StringConstraints(max_length=8192)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
_SERIAL = re.compile(
    r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII
)
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


@dataclass(frozen=True)
class Component:
    """One part of a release.

    ``kind`` is CycloneDX's type (``library``, ``application``, ``file``, ...); ``hashes`` are lower
    case hex by the names of `HASH_DIGITS`; ``purl`` is the text that stood there, which may be
    malformed (`models.package_names.purl_doubts` tells) or missing. ``properties`` keeps each
    value of a name that is there more than once.
    """

    kind: str
    name: str
    version: str = ""
    purl: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    scope: Scope = "required"
    bom_ref: str = ""
    group: str = ""
    properties: tuple[tuple[str, str], ...] = ()

    def property_values(self, name: str) -> tuple[str, ...]:
        """All values of the properties with this name, in their order."""
        return tuple(value for key, value in self.properties if key == name)

    @property
    def label(self) -> str:
        """How a message names the component: its package URL, or its name and version."""
        return self.purl or f"{self.name} {self.version}".rstrip()


@dataclass(frozen=True)
class Sbom:
    """A bill of materials; nested components are among ``components``, after their parent.

    ``subject`` is the component that the bill describes (``metadata.component``), if it says so.
    ``dependencies`` maps a ``bom_ref`` to those it depends on directly.
    """

    spec_version: str
    serial_number: str
    version: int
    created_at: datetime | None
    subject: Component | None
    components: tuple[Component, ...]
    dependencies: Mapping[str, tuple[str, ...]]

    @property
    def subject_digest(self) -> str | None:
        """The release digest (``sha256:...``) that the bill says it is about."""
        value = self.subject.hashes.get("SHA-256") if self.subject else None
        return None if value is None else f"sha256:{value}"

    @property
    def packages(self) -> tuple[Component, ...]:
        """The components that are not single files."""
        return tuple(component for component in self.components if component.kind != "file")

    @property
    def files(self) -> tuple[Component, ...]:
        """The single files: what no package accounts for."""
        return tuple(component for component in self.components if component.kind == "file")


def read_sbom(data: bytes) -> Sbom:
    """Read a CycloneDX JSON document.

    Raises:
        EvidenceError: too large, not strict JSON, not CycloneDX, a field that is wrong (the message
            names it), more than `MAX_COMPONENTS` components, a ``bom-ref`` that occurs twice, or a
            dependency on something that is not in the bill.
    """
    value = read_json(data, what="SBOM", max_bytes=MAX_BYTES, max_depth=4 * MAX_NESTING)
    return sbom_of(value)


def sbom_of(value: object) -> Sbom:
    """The bill of materials in a JSON value, such as a statement's predicate.

    Raises:
        EvidenceError: see `read_sbom`.
    """
    try:
        document = _Document.model_validate(value)
    except ValidationError as error:
        raise EvidenceError(f"SBOM: {_first_error(error)}") from None
    components = tuple(_flat(document.components, "components", 1))
    if len(components) > MAX_COMPONENTS:
        raise EvidenceError(f"SBOM: components: more than {MAX_COMPONENTS}")
    metadata = document.metadata
    subject = metadata and metadata.component and _component(metadata.component, "metadata")
    references = _references([*([subject] if subject else []), *components])
    return Sbom(
        spec_version=document.spec_version,
        serial_number=_serial(document.serial_number),
        version=document.version,
        created_at=_moment(metadata.timestamp) if metadata and metadata.timestamp else None,
        subject=subject or None,
        components=components,
        dependencies=_dependencies(document.dependencies, references),
    )


class _Read(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Hash(_Read):
    alg: _Name
    content: _Name


class _Property(_Read):
    name: _Text
    value: _Text = ""


class _Component(_Read):
    kind: Annotated[_Name, Field(alias="type")]
    name: _Name
    version: _Text = ""
    group: _Text = ""
    purl: _Text | None = None
    scope: Scope = "required"
    bom_ref: Annotated[_Text, Field(alias="bom-ref")] = ""
    hashes: list[_Hash] = Field(default_factory=list, max_length=32)
    properties: list[_Property] = Field(default_factory=list)
    components: list["_Component"] = Field(default_factory=list)


class _Metadata(_Read):
    timestamp: _Text | None = None
    component: _Component | None = None


class _Dependency(_Read):
    ref: _Name
    depends_on: Annotated[list[_Name], Field(alias="dependsOn")] = []


class _Document(_Read):
    bom_format: Annotated[Literal["CycloneDX"], Field(alias="bomFormat")]
    spec_version: Annotated[Literal["1.4", "1.5", "1.6"], Field(alias="specVersion")]
    serial_number: Annotated[_Text | None, Field(alias="serialNumber")] = None
    version: Annotated[int, Field(ge=1, le=2**31)] = 1
    metadata: _Metadata | None = None
    components: list[_Component] = []
    dependencies: Annotated[list[_Dependency], Field(max_length=MAX_COMPONENTS + 1)] = []


def _flat(components: Sequence[_Component], where: str, depth: int) -> Iterator[Component]:
    if depth > MAX_NESTING:
        raise EvidenceError(f"SBOM: {where}: nested too deeply")
    for index, component in enumerate(components):
        here = f"{where}[{index}]"
        yield _component(component, here)
        yield from _flat(component.components, f"{here}.components", depth + 1)


def _component(read: _Component, where: str) -> Component:
    return Component(
        kind=read.kind,
        name=read.name,
        version=read.version,
        purl=read.purl or None,
        hashes=_hashes(read.hashes, where),
        scope=read.scope,
        bom_ref=read.bom_ref,
        group=read.group,
        properties=tuple((each.name, each.value) for each in read.properties),
    )


def _hashes(read: Sequence[_Hash], where: str) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for entry in read:
        digits = HASH_DIGITS.get(entry.alg)
        if digits is None:
            raise EvidenceError(f"SBOM: {where}.hashes: {entry.alg[:40]!r} is no hash algorithm")
        content = entry.content.lower()
        if len(content) != digits or _HEX.fullmatch(content) is None:
            raise EvidenceError(f"SBOM: {where}.hashes: {entry.alg} is not {digits} hex digits")
        if hashes.setdefault(entry.alg, content) != content:
            raise EvidenceError(f"SBOM: {where}.hashes: two different values for {entry.alg}")
    return hashes


def _references(components: Sequence[Component]) -> set[str]:
    references: set[str] = set()
    for component in components:
        if component.bom_ref and component.bom_ref in references:
            raise EvidenceError(f"SBOM: bom-ref {component.bom_ref[:200]!r} occurs twice")
        references.add(component.bom_ref)
    return references - {""}


def _dependencies(
    read: Sequence[_Dependency], references: set[str]
) -> Mapping[str, tuple[str, ...]]:
    graph: dict[str, tuple[str, ...]] = {}
    for entry in read:
        if entry.ref in graph:
            raise EvidenceError(f"SBOM: dependencies: {entry.ref[:200]!r} occurs twice")
        for name in (entry.ref, *entry.depends_on):
            if name not in references:
                raise EvidenceError(f"SBOM: dependencies: {name[:200]!r} is not in the bill")
        graph[entry.ref] = tuple(entry.depends_on)
    return graph


def _serial(text: str | None) -> str:
    if text and _SERIAL.fullmatch(text.lower()) is None:
        raise EvidenceError("SBOM: serialNumber: not urn:uuid: and a UUID")
    return (text or "").lower()


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise EvidenceError(f"SBOM: metadata.timestamp: {text[:40]!r} is not a time") from None


def _first_error(error: ValidationError) -> str:
    """The first problem of a pydantic error as ``field: message``; a value is never repeated."""
    first = error.errors(include_url=False, include_input=False)[0]
    field_name = ".".join(str(part) for part in first["loc"]) or "document"
    return f"{field_name[:300]}: {first['msg'][:300]}"
