"""All that a judgement rests on, as it was found: plain data, checked by nobody yet.

What could not be read is here too, as `Unread`, so that it cannot be mistaken for something that
is not there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.ids import Digest
from models.sbom import Sbom, sbom_of
from models.sbom_compare import SbomComparison
from models.signed_statement import SignedStatement
from models.statement import PROVENANCE, SBOM, SIGNATURE, TESTS
from models.strict_json import EvidenceError
from models.verification_policy import EvidenceKind

Severity = Literal["none", "low", "medium", "high", "critical", "unknown"]

PREDICATES: dict[EvidenceKind, str] = {
    "signature": SIGNATURE,
    "provenance": PROVENANCE,
    "sbom": SBOM,
    "tests": TESTS,
}


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Unread(_Fact):
    """Something that could not be read; asked again, it may be there or not."""

    why: str


class Artifact(_Fact):
    """What the registry has under the release's digest, every byte of it checked."""

    digest: Digest = Field(description="of the manifest's bytes as they are")
    media_type: str
    name: str = ""
    version: str = ""
    problems: list[str] = Field(default=[], description="blobs that are missing or altered")


class KnownVulnerability(_Fact):
    """One vulnerability that is known against one component."""

    id: str = Field(description="by which people know it: a CVE where there is one")
    component: str = Field(description="package URL, as the SBOM has it")
    severity: Severity
    known_exploited: bool = Field(default=False, description="in CISA's KEV catalogue")
    epss: float | None = Field(default=None, ge=0, le=1, description="probability of exploitation")
    fixed_in: list[str] = []
    cleared_by: str = Field(
        default="", description="the VEX statement or exception that holds now, in words"
    )
    not_cleared: list[str] = Field(
        default=[], description="statements and exceptions that do not count, each with its reason"
    )


class VulnerabilityReport(_Fact):
    """What is known against a release's components, and how old that knowledge is."""

    snapshot: Digest
    sources: dict[str, AwareDatetime | None] = Field(
        description="as of when each feed was loaded; none for one that was never"
    )
    records: int = Field(ge=0, description="advisories in the database")
    components: int = Field(ge=0, description="components that were looked up")
    unmatched: list[str] = Field(
        default=[], description="components of a kind that no feed covers: nothing is known of them"
    )
    found: list[KnownVulnerability] = []


class RefusedBundle(_Fact):
    """Evidence whose signature does not stand, and why (`models.signed_statement`)."""

    digest: Digest
    code: str
    detail: str


@dataclass(frozen=True)
class Evidence:
    """The evidence of one release.

    Attributes:
        release: the digest that was asked about.
        listing: why the registry's list of evidence could not be had, if it could not.
        damaged: why the list that is there cannot be trusted, if it cannot.
        statements, refused: every bundle that was found, by whether its signature stands.
        sboms: the bills of materials about the release, read once, by their bundles' digests; or
            why one cannot be read.
        comparisons: each readable SBOM against what is in the artifact, by its bundle's digest.
        vulnerabilities: what is known against the components of the SBOMs that count.
    """

    release: str
    artifact: Artifact | Unread
    vulnerabilities: VulnerabilityReport | Unread
    listing: Unread | None = None
    damaged: str = ""
    statements: tuple[SignedStatement, ...] = ()
    refused: tuple[RefusedBundle, ...] = ()
    sboms: Mapping[str, Sbom | EvidenceError] = field(default_factory=dict)
    comparisons: Mapping[str, SbomComparison | Unread] = field(default_factory=dict)

    def of_kind(self, kind: EvidenceKind) -> list[SignedStatement]:
        """Statements of one kind, whoever signed them and whatever they are about."""
        return [
            each for each in self.statements if each.statement.predicate_type == PREDICATES[kind]
        ]


def read_sboms(
    statements: Iterable[SignedStatement], release: str
) -> dict[str, Sbom | EvidenceError]:
    """The bills of materials among statements about a release, by their bundles' digests."""
    return {
        each.digest: _read_sbom(each)
        for each in statements
        if each.statement.predicate_type == SBOM and each.statement.is_about(release)
    }


def _read_sbom(signed: SignedStatement) -> Sbom | EvidenceError:
    try:
        return sbom_of(signed.statement.predicate)
    except EvidenceError as error:
        return error


def kind_of(predicate_type: str) -> EvidenceKind | None:
    """The kind of evidence that a predicate type is; exact, as a look-alike is another type."""
    return next((kind for kind, known in PREDICATES.items() if known == predicate_type), None)
