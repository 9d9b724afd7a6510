"""What evidence a release needs before it may run: the verification policy, one typed TOML file.

The policy says who may sign what, where a release may come from, and what its contents may hold.
Everything is exact: a name matches the name that is written down, or it does not match. Where a
pattern cannot be avoided it has a key of its own and must be anchored. What the policy does not
allow is refused, and an empty list allows nothing.

>>> load_policy("[signature]\\nsigners = 1").signature
Traceback (most recent call last):
    ...
models.verification_policy.PolicyError: signature.signers: input should be a valid list (got 1)
"""

import hashlib
import re
import tomllib
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from models.canonical import canonical

EvidenceKind = Literal["signature", "provenance", "sbom", "tests"]
EVIDENCE_KINDS: tuple[EvidenceKind, ...] = ("signature", "provenance", "sbom", "tests")

Rule = Literal["block", "allow"]
MAX_POLICY_BYTES = 256 * 1024


class PolicyError(ValueError):
    """The policy does not hold; one line for each problem, each naming its key."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _plain_text(value: str) -> str:
    """Printable ASCII alone: a look-alike letter in a policy would allow somebody else."""
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise ValueError(f"must be printable ASCII without surrounding space: {value!a}")
    return value


def _anchored(pattern: str) -> str:
    """A pattern that says where it begins and ends, and holds no unescaped alternative outside."""
    if not (pattern.startswith("^") and pattern.endswith("$")):
        raise ValueError('must be anchored: begin with "^" and end with "$"')
    inner = pattern[1:-1]
    try:
        re.compile(inner)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    if _has_bare_alternative(inner):
        raise ValueError('has an alternative outside of parentheses: "^a|b$" is not anchored')
    return pattern


def _has_bare_alternative(pattern: str) -> bool:
    depth, in_class, escaped = 0, False, False
    for letter in pattern:
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = True
        elif in_class:
            in_class = letter != "]"
        elif letter == "[":
            in_class = True
        elif letter in "()":
            depth += 1 if letter == "(" else -1
        elif letter == "|" and depth == 0:
            return True
    return False


Exact = Annotated[
    str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_plain_text)
]
Pattern = Annotated[str, StringConstraints(max_length=500), AfterValidator(_anchored)]
Days = Annotated[float, Field(gt=0, le=36_500)]


class AllowedSigner(_Section):
    """One who may sign: a key of the trust root by its name, or an OIDC identity of one issuer.

    ``identity_pattern`` is for identities that hold a changing part, as a workflow's file at a tag.
    """

    kind: Literal["key", "oidc"]
    identity: Exact | None = None
    identity_pattern: Pattern | None = None
    issuer: Exact | None = Field(default=None, description="of an OIDC identity; exact")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.identity is None) == (self.identity_pattern is None):
            raise ValueError("needs either identity or identity_pattern")
        if self.kind == "oidc" and self.issuer is None:
            raise ValueError("issuer: an OIDC identity means nothing without its issuer")
        if self.kind == "key" and self.issuer is not None:
            raise ValueError("issuer: a key has none")
        if self.kind == "key" and self.identity is None:
            raise ValueError("identity: a key is named exactly")
        return self

    def allows(self, kind: str, identity: str, issuer: str) -> bool:
        """Whether a verified signer is this one."""
        if kind != self.kind or issuer != (self.issuer or ""):
            return False
        if self.identity is not None:
            return identity == self.identity
        assert self.identity_pattern is not None
        # Of a pattern too, only plain text can be meant: see `_plain_text`.
        plain = identity.isascii() and identity.isprintable()
        return plain and re.fullmatch(self.identity_pattern[1:-1], identity) is not None

    def words(self) -> str:
        """Who this is, in a line for a person."""
        who = self.identity or f"/{self.identity_pattern}/"
        return f"{self.kind} {who}" + (f" of {self.issuer}" if self.issuer else "")


Signers = Annotated[list[AllowedSigner], Field(max_length=1000)]


class SignaturePolicy(_Section):
    """The signature over the release itself."""

    signers: Signers = []


class Source(_Section):
    """A repository that releases may be built from, and the refs of it that may be."""

    repository: Exact
    refs: list[Exact] = Field(min_length=1, description="full names, as refs/heads/main")

    @model_validator(mode="after")
    def _full_refs(self) -> Self:
        for ref in self.refs:
            if not ref.startswith("refs/"):
                raise ValueError(f"refs: {ref!r} is not a full name, as refs/heads/main")
        return self


class ProvenancePolicy(_Section):
    """Who built the release, how, and from what."""

    signers: Signers = []
    builders: list[Exact] = Field(default=[], description="exact builder ids")
    build_types: list[Exact] = Field(default=[], description="exact build types")
    sources: list[Source] = Field(default=[], max_length=10_000)
    require_signed_commit: bool = True


class SbomPolicy(_Section):
    """The list of what the release is made of."""

    signers: Signers = []
    minimum_components: Annotated[int, Field(ge=1)] = 1
    require_hashes: bool = Field(
        default=True, description="every required component has a SHA-256 or stronger hash"
    )
    allow_overstated: bool = Field(
        default=False, description="whether it may list what the artifact does not hold"
    )
    allow_doubtful_names: list[Exact] = Field(
        default=[], description="codes of `models.package_names` that do not count"
    )


class TestPolicy(_Section):
    """The tests that the release passed."""

    __test__ = False  # no test case, whatever its name says

    signers: Signers = []
    minimum_passed: Annotated[int, Field(ge=1)] = 1
    required: list[Exact] = Field(default=[], description="tests that must be among the passed")
    allow_skipped: list[Exact] = Field(default=[], description="tests that may be skipped")


class SeverityRules(_Section):
    """What a finding of each severity does, unless VEX or an exception speaks to it."""

    critical: Literal["block"] = "block"
    high: Rule = "block"
    medium: Rule = "allow"
    low: Rule = "allow"
    none: Rule = "allow"
    unknown: Rule = Field(default="block", description="a severity that nobody has given")


class VulnerabilityPolicy(_Section):
    """What may be known against the components of a release."""

    severities: SeverityRules = SeverityRules()
    block_known_exploited: bool = True
    block_epss_from: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="EPSS probability from which a finding blocks"
    )
    uncovered: Rule = Field(
        default="block",
        description="components of which nothing can be known, as no loaded feed covers their "
        "kind: an answer that nobody gave is no clean one",
    )
    allow_uncovered: list[Exact] = Field(
        default=[], description="such components that may be, without their versions"
    )
    max_data_age_hours: Annotated[float, Field(gt=0, le=24 * 366)] = 48.0
    required_sources: list[Exact] = Field(
        default=[], description="feeds that must be loaded and fresh, beside the configuration's"
    )


class AgePolicy(_Section):
    """How old things may be, in days, by trusted time; and none may be from the future."""

    max_artifact_days: Days = Field(default=365.0, description="since the build ended")
    max_evidence_days: Days = Field(default=365.0, description="since it was signed")
    clock_skew_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0


class RolloutPolicy(_Section):
    """What happens when a release is refused that is on part of the fleet already."""

    refused_midway: Literal["roll_back", "stop"] = Field(
        default="roll_back", description="stop: the shards that have it keep it"
    )


class RollbackPolicy(_Section):
    """What happens when the release to go back to would itself be refused today."""

    target_refused: Literal["warn", "refuse"] = Field(
        default="warn", description="warn: go back, say it loudly, receipt it; see ADR 0010"
    )


class VerificationPolicy(_Section):
    """The whole policy. Build it with `load_policy`, which names what is wrong."""

    name: Exact = "default"
    signature: SignaturePolicy = SignaturePolicy()
    provenance: ProvenancePolicy = ProvenancePolicy()
    sbom: SbomPolicy = SbomPolicy()
    tests: TestPolicy = TestPolicy()
    vulnerabilities: VulnerabilityPolicy = VulnerabilityPolicy()
    ages: AgePolicy = AgePolicy()
    rollout: RolloutPolicy = RolloutPolicy()
    rollback: RollbackPolicy = RollbackPolicy()

    def signers(self, kind: EvidenceKind) -> Sequence[AllowedSigner]:
        """Who may sign evidence of a kind."""
        signers: Sequence[AllowedSigner] = getattr(self, kind).signers
        return signers

    def to_bytes(self) -> bytes:
        """The whole policy, defaults included, as canonical JSON (RFC 8785)."""
        return canonical(self.model_dump(mode="json"))

    def digest(self) -> str:
        """SHA-256 of `to_bytes`, ``sha256:<hex>``: the version of this policy.

        Two texts that mean the same have one digest; a default that changes makes another one.
        """
        return "sha256:" + hashlib.sha256(self.to_bytes()).hexdigest()


def load_policy(text: str) -> VerificationPolicy:
    """The policy that a TOML text describes; absent keys take their defaults, which allow nobody.

    Raises:
        PolicyError: the text is not TOML, or a key is unknown or wrong; all problems are listed.
    """
    if len(text) > MAX_POLICY_BYTES:
        raise PolicyError(f"over {MAX_POLICY_BYTES} bytes: not a policy")
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PolicyError(f"not valid TOML: {error}") from None
    return _validated(tree)


def read_policy(data: bytes) -> VerificationPolicy:
    """The policy that `VerificationPolicy.to_bytes` wrote.

    Raises:
        PolicyError: it did not.
    """
    try:
        return VerificationPolicy.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise PolicyError(_words(error)) from None


def _validated(tree: dict[str, object]) -> VerificationPolicy:
    try:
        return VerificationPolicy.model_validate(tree, strict=True)
    except ValidationError as error:
        raise PolicyError(_words(error)) from None


def _words(error: ValidationError) -> str:
    lines = []
    for detail in error.errors():
        key = ".".join(str(part) for part in detail["loc"]) or "policy"
        if detail["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key")
            continue
        reason = detail["msg"].removeprefix("Value error, ")
        given = "" if isinstance(detail["input"], dict) else f" (got {detail['input']!r:.80})"
        lines.append(f"{key}: {reason[:1].lower()}{reason[1:]}{given}")
    return "\n".join(lines)
