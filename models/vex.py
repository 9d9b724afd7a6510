"""What people say about a finding: VEX statements (CycloneDX, OpenVEX) and exceptions with an end.

A statement clears a finding only when it speaks of this vulnerability and this very product, says
``not_affected`` or ``fixed``, and where it says ``not_affected`` also why. Whatever does not
count is handed back with its reason, because a person believed that it would.

Sources: OpenVEX 0.2.0; CycloneDX 1.6, ``vulnerabilities[].analysis``.
"""

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from packageurl import PackageURL
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from models.ids import Actor, Digest, Reason
from models.strict_json import EvidenceError, read_object

MAX_STATEMENTS = 20_000

# CycloneDX's words for the states that OpenVEX has.
_CYCLONEDX_STATES = {
    "not_affected": "not_affected",
    "false_positive": "not_affected",
    "resolved": "fixed",
    "resolved_with_pedigree": "fixed",
    "exploitable": "affected",
    "in_triage": "under_investigation",
}


@dataclass(frozen=True)
class Product:
    """What a statement is about: a package URL, or a digest, exactly."""

    identifier: str

    def is_one_of(self, purl: str | None, release: str) -> bool:
        """Whether it is the component with this package URL, or the release with this digest."""
        if self.identifier.removeprefix("sha256:") == release.removeprefix("sha256:"):
            return True
        if not self.identifier.startswith("pkg:"):
            return False
        if self.identifier.startswith("pkg:oci/"):
            return f"sha256%3A{release.removeprefix('sha256:')}" in self.identifier.replace(
                "@sha256:", "@sha256%3A"
            )
        return purl is not None and _same_package(self.identifier, purl)


@dataclass(frozen=True)
class VexStatement:
    """One statement of one document."""

    vulnerability: frozenset[str]
    status: str
    justification: str
    products: tuple[Product, ...]
    source: str

    def refusal(self) -> str:
        """Why the statement clears nothing, whoever it is about; empty where it does."""
        if self.status == "not_affected" and not self.justification.strip():
            return "says not_affected without a justification"
        if self.status not in ("not_affected", "fixed"):
            return f"says {self.status}"
        return ""

    def words(self) -> str:
        """The statement in a line."""
        why = f": {self.justification}" if self.justification else ""
        return f"VEX {self.source}: {self.status}{why}"


class AcceptedRisk(BaseModel):
    """One accepted risk: who took it, why, for what, and until when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vulnerability: str = Field(min_length=3, max_length=128)
    purl: str | None = Field(default=None, max_length=2048)
    release: Digest | None = None
    author: Actor
    reason: Reason
    expires: AwareDatetime

    def words(self) -> str:
        """The exception in a line."""
        return f"exception of {self.author} until {self.expires:%Y-%m-%d}: {self.reason}"


class Exceptions(BaseModel):
    """The exceptions file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exception: list[AcceptedRisk] = Field(default=[], max_length=10_000)


@dataclass(frozen=True)
class Clearing:
    """What was said about one finding."""

    by: str = ""
    refused: tuple[str, ...] = ()


def clear(
    names: Iterable[str],
    purl: str | None,
    release: str,
    *,
    statements: Sequence[VexStatement],
    exceptions: Sequence[AcceptedRisk],
    at: datetime,
) -> Clearing:
    """Whether somebody's word clears a finding.

    Args:
        names: the vulnerability's id and aliases.
        purl, release: the component in which it was found, and the release that holds it.
    """
    known = set(names)
    refused: list[str] = []
    for statement in statements:
        if not statement.vulnerability & known:
            continue
        if not any(product.is_one_of(purl, release) for product in statement.products):
            refused.append(f"VEX {statement.source} is about another product")
        elif reason := statement.refusal():
            refused.append(f"VEX {statement.source} {reason}")
        else:
            return Clearing(statement.words())
    for exception in exceptions:
        if exception.vulnerability not in known:
            continue
        if reason := _does_not_hold(exception, purl, release, at):
            refused.append(f"the exception of {exception.author} {reason}")
        else:
            return Clearing(exception.words())
    return Clearing(refused=tuple(refused))


def _does_not_hold(exception: AcceptedRisk, purl: str | None, release: str, at: datetime) -> str:
    if exception.expires <= at:
        return f"ran out on {exception.expires:%Y-%m-%d}"
    if exception.release is not None and exception.release != release:
        return "is for another release"
    if exception.purl is not None and (purl is None or not _same_package(exception.purl, purl)):
        return "is for another component"
    return ""


def read_vex(data: bytes, source: str) -> list[VexStatement]:
    """Read an OpenVEX or CycloneDX document; raises `EvidenceError`.

    Args:
        source: how messages name the document.
    """
    what = f"VEX {source}"
    document = read_object(data, what=what)
    try:
        if "@context" in document:
            found = list(_openvex(document, source))
        elif document.get("bomFormat") == "CycloneDX":
            found = list(_cyclonedx(document, source))
        else:
            raise EvidenceError(f"{what}: neither OpenVEX nor CycloneDX")
    except (KeyError, TypeError, AttributeError) as error:
        raise EvidenceError(f"{what}: {type(error).__name__} {error}") from None
    if len(found) > MAX_STATEMENTS:
        raise EvidenceError(f"{what}: {len(found)} statements, the limit is {MAX_STATEMENTS}")
    return found


def _openvex(document: Any, source: str) -> Iterator[VexStatement]:
    for statement in document["statements"]:
        about = statement["vulnerability"]
        if isinstance(about, str):
            about = {"name": about}
        names = {str(about.get("name", "")), *map(str, about.get("aliases", []))} - {""}
        yield VexStatement(
            vulnerability=frozenset(names),
            status=str(statement["status"]),
            justification=str(
                statement.get("justification") or statement.get("impact_statement") or ""
            ),
            products=tuple(_openvex_products(statement.get("products", []))),
            source=source,
        )


def _openvex_products(products: Any) -> Iterator[Product]:
    """Subcomponents narrow a product: then they are what the statement is about."""
    for product in products:
        inner = product.get("subcomponents") if isinstance(product, dict) else None
        for each in inner or [product]:
            if isinstance(each, str):
                yield Product(each)
                continue
            if "@id" in each:
                yield Product(str(each["@id"]))
            yield from (Product(str(value)) for value in each.get("identifiers", {}).values())
            yield from (Product(str(value)) for value in each.get("hashes", {}).values())


def _cyclonedx(document: Any, source: str) -> Iterator[VexStatement]:
    purls = {
        str(component["bom-ref"]): str(component["purl"])
        for component in document.get("components", [])
        if "bom-ref" in component and "purl" in component
    }
    for found in document.get("vulnerabilities", []):
        analysis = found.get("analysis", {})
        aliases = [str(each["id"]) for each in found.get("references", [])]
        refs = [str(affected["ref"]) for affected in found.get("affects", [])]
        yield VexStatement(
            vulnerability=frozenset({str(found["id"]), *aliases}),
            status=_CYCLONEDX_STATES.get(str(analysis.get("state", "")), "unknown"),
            justification=str(analysis.get("justification") or analysis.get("detail") or ""),
            products=tuple(Product(purls.get(ref, ref)) for ref in refs),
            source=source,
        )


def read_exceptions(text: str) -> list[AcceptedRisk]:
    """Read the exceptions file (TOML); raises `EvidenceError` that names the wrong field."""
    try:
        return Exceptions.model_validate(tomllib.loads(text)).exception
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise EvidenceError(f"exceptions: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise EvidenceError(f"exceptions: {field}: {first['msg']}") from None


def _same_package(one: str, other: str) -> bool:
    """Whether two package URLs are one package in one version; qualifiers do not make another."""
    try:
        first, second = PackageURL.from_string(one), PackageURL.from_string(other)
    except ValueError:
        return False
    return (first.type, first.namespace, first.name, first.version) == (
        second.type,
        second.namespace,
        second.name,
        second.version,
    )
