"""Builds as people see them: what to build, how far it is, what came of it."""

import re
from enum import StrEnum
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from models.build_file import BUILD_FILE, RelativePath
from models.ids import Actor, Digest, short
from models.provenance import Commit, CommitSignature, Material, Reproducibility
from models.release import ReleaseName, ReleaseVersion
from models.statement import PROVENANCE, SBOM, SIGNATURE, TESTS

EVIDENCE = {"signature": SIGNATURE, "provenance": PROVENANCE, "sbom": SBOM, "tests": TESTS}
"""Predicate types of what `BuildRelease` attests, in the words of the verification policy."""

EvidenceKind = Literal["signature", "provenance", "sbom", "tests"]
ATTESTED: tuple[EvidenceKind, ...] = ("sbom", "tests", "provenance", "signature")
"""The order in which evidence is attached; the signature last, when the rest is there."""

SCHEMES = ("file", "ssh", "https")
_SCP_FORM = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^:].*\Z")
_REF = re.compile(r"refs/[A-Za-z0-9._/+@-]+\Z")


def _repository(value: str) -> str:
    """A path, a URL or ssh's ``user@host:path``; passwords have no place in a history."""
    if value != value.strip() or not value.isprintable() or value.startswith("-"):
        raise ValueError("must be an absolute path or a URL")
    if value.startswith("/") or _SCP_FORM.match(value):
        return value
    parts = urlsplit(value)
    if parts.scheme not in SCHEMES or "::" in value:
        raise ValueError(f"must be an absolute path, or a URL of {', '.join(SCHEMES)}")
    if parts.password is not None or (parts.username and parts.scheme == "https"):
        raise ValueError("must not hold a user or password; the builder's git has its credentials")
    return value


def _ref(value: str) -> str:
    if (
        _REF.match(value) is None
        or ".." in value
        or value.endswith(("/", ".lock"))
        or "@{" in value
    ):
        raise ValueError("must be a full name, as refs/heads/main")
    return value


Repository = Annotated[
    str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_repository)
]
Ref = Annotated[str, StringConstraints(max_length=500), AfterValidator(_ref)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BuildRequest(_Message):
    """Input of the workflow ``BuildRelease``; ``repository`` and ``commit`` are required."""

    repository: Repository
    commit: Commit = Field(description="all 40 hex digits: a name could move")
    ref: Ref | None = Field(default=None, description="the commit must be reachable from it")
    build_file: RelativePath = BUILD_FILE
    reproducible: bool = Field(default=False, description="build twice and compare")
    actor: Actor = "operator"
    reason: str = Field(default="", max_length=500)


class BuildState(StrEnum):
    """Where a build is, in the words of the search attribute ``ChainringState``."""

    FETCHING = "fetching"
    BUILDING = "building"
    TESTING = "testing"
    COMPARING = "building again"
    ATTESTING = "attesting"
    NAMING = "naming"
    BUILT = "built"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Fetched(_Message):
    """A commit that passed the source checks."""

    name: ReleaseName
    version: ReleaseVersion
    recipe: str
    commit_time: int = Field(ge=0, description="seconds since 1970, as the committer says")
    signature: CommitSignature | None
    materials: list[Material]


class Ran(_Message):
    """Commands that were run to their good end."""

    started: AwareDatetime
    ended: AwareDatetime
    log: Digest = Field(description="of the captured output")


class Built(Ran):
    """What a build came out as."""

    release: Digest


class Tested(Ran):
    """What the tests came out as; the results in full are in the attestation."""

    result: Literal["PASSED", "WARNED", "FAILED"]
    words: str
    results: Digest


class BuildResult(_Message):
    """A release in the registry, with its evidence."""

    release: Digest
    name: ReleaseName
    version: ReleaseVersion
    commit: Commit
    evidence: dict[EvidenceKind, Digest] = Field(description="referrers, by kind")
    tests: str = ""
    reproducibility: Reproducibility | None = None
    receipt: int = Field(ge=0, description="``release.built`` in the control ledger")


class BuildStatus(BaseModel):
    """Answer of the query ``status``."""

    id: str
    state: BuildState = BuildState.FETCHING
    why: str = ""
    repository: str
    commit: str
    name: str = ""
    version: str = ""
    release: Digest | None = None
    signed_by: str = ""
    materials: int = 0
    tests: str = ""
    reproducible: bool | None = None
    differences: list[str] = []
    evidence: dict[EvidenceKind, Digest] = {}
    attempts: int = Field(default=1, description="times it began anew, after a builder was lost")
    receipt: int | None = None


class BuildKey(_Message):
    """Which build a step belongs to; its work directory is named after it."""

    workflow: str
    run: str
    attempt: int = 1


class FetchSource(_Message):
    """Fetch a commit, and check where it comes from and what it is made of."""

    key: BuildKey
    request: BuildRequest


class BuildStep(_Message):
    """A step on a commit that was fetched."""

    key: BuildKey
    request: BuildRequest
    fetched: Fetched


class AfterBuild(BuildStep):
    """A step on what was built and tested."""

    built: Built
    tested: Tested
    reproducibility: Reproducibility | None = None


class CompareBuilds(BuildStep):
    """Build again elsewhere and compare."""

    built: Built


class AttestRelease(AfterBuild):
    """Attest one thing about a release."""

    kind: EvidenceKind


class NameRelease(_Message):
    """Give a release the name it says it has."""

    release: Digest
    evidence: dict[EvidenceKind, Digest]


def render_build(status: BuildStatus) -> str:
    """The current details for Temporal's web UI, in Markdown."""
    title = f"{status.name} {status.version}".strip() or status.id
    lines = [f"## {title}: {status.state}", ""]
    if status.why:
        lines += [status.why, ""]
    lines.append(f"- commit `{status.commit}` of {status.repository}")
    if status.name:
        lines.append(f"- signed by {status.signed_by}" if status.signed_by else "- not signed")
        lines.append(f"- {status.materials} materials")
    if status.tests:
        lines.append(f"- tests: {status.tests}")
    if status.release is not None:
        lines.append(f"- release `{short(status.release)}`")
    if status.reproducible is not None:
        lines.append(f"- built twice: {'identical' if status.reproducible else '**different**'}")
        lines += [f"  - {each}" for each in status.differences[:10]]
    lines += [f"- {kind}: `{short(digest)}`" for kind, digest in status.evidence.items()]
    if status.receipt is not None:
        lines.append(f"- receipt {status.receipt}")
    return "\n".join(lines)
