"""SLSA provenance v1: who built a release, how, when, and from what.

Source: SLSA v1.0, "Provenance". Fields that begin with ``chainring_`` are extensions of ours, as
the specification admits them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from models.strict_json import read_as

BUILD_TYPE = "urn:chainring:build:v1"
COMMIT_PATTERN = r"^[0-9a-f]{40}$"
MAX_MATERIALS = 2000
MAX_DIFFERENCES = 50

Commit = Annotated[str, StringConstraints(pattern=COMMIT_PATTERN)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,256}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Material(_Part):
    """One thing that went into a build, with its digests: SLSA's ResourceDescriptor."""

    uri: Annotated[str, StringConstraints(max_length=2048)] = ""
    name: Annotated[str, StringConstraints(max_length=2048)] = ""
    digest: dict[str, Hex] = Field(min_length=1, max_length=16)


class CommitSignature(_Part):
    """Whose signature on the commit git itself found good."""

    kind: Literal["ssh", "gpg"]
    principal: Text
    fingerprint: Text


class Reproducibility(_Part):
    """What a second build, in another directory, came out as."""

    identical: bool
    first: Text = Field(description="digest of the packed release")
    second: Text
    differences: list[str] = Field(
        default=[], max_length=MAX_DIFFERENCES + 1, description="files, and how they differ"
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> "Reproducibility":
        if self.identical != (self.first == self.second):
            raise ValueError("identical: does not fit the two digests")
        return self


class Provenance(_Part):
    """What is said about a build, whichever builder said it."""

    build_type: Text
    builder_id: Text
    repository: Text
    commit: Commit
    ref: str = ""
    recipe: str = ""
    build_file: str = ""
    materials: list[Material] = Field(default=[], max_length=MAX_MATERIALS)
    commit_signature: CommitSignature | None = None
    invocation_id: str = ""
    started_on: AwareDatetime
    finished_on: AwareDatetime
    byproducts: list[Material] = []
    reproducibility: Reproducibility | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> "Provenance":
        if self.finished_on < self.started_on:
            raise ValueError("finishedOn: before startedOn")
        commits = [
            each.digest["gitCommit"] for each in self.materials if "gitCommit" in each.digest
        ]
        if self.commit not in commits:
            raise ValueError("resolvedDependencies: the commit that was built is not among them")
        return self


class _Lenient(BaseModel):
    """Others' provenance may say more than we read."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class _Descriptor(_Lenient):
    uri: str = ""
    name: str = ""
    digest: dict[str, Hex] = {}


class _Parameters(_Lenient):
    repository: Text
    commit: Commit
    ref: str = ""
    recipe: str = ""
    build_file: str = Field(default="", alias="buildFile")


class _Internal(_Lenient):
    commit_signature: CommitSignature | None = Field(default=None, alias="commitSignature")


class _Definition(_Lenient):
    build_type: Text = Field(alias="buildType")
    external: _Parameters = Field(alias="externalParameters")
    internal: _Internal = Field(default=_Internal(), alias="internalParameters")
    materials: list[_Descriptor] = Field(
        default=[], alias="resolvedDependencies", max_length=MAX_MATERIALS
    )


class _Builder(_Lenient):
    id: Text


class _Metadata(_Lenient):
    invocation_id: str = Field(default="", alias="invocationId")
    started_on: AwareDatetime = Field(alias="startedOn")
    finished_on: AwareDatetime = Field(alias="finishedOn")
    reproducibility: Reproducibility | None = Field(default=None, alias="chainring_reproducibility")


class _Run(_Lenient):
    builder: _Builder
    metadata: _Metadata
    byproducts: list[_Descriptor] = Field(default=[], max_length=MAX_MATERIALS)


class _Predicate(_Lenient):
    definition: _Definition = Field(alias="buildDefinition")
    run: _Run = Field(alias="runDetails")


def read_provenance(predicate: Mapping[str, JsonValue]) -> Provenance:
    """Read a provenance predicate; dependencies without a digest are left out.

    Raises:
        EvidenceError: a field is missing or wrong, or the parts contradict each other.
    """
    read = read_as(_Predicate, dict(predicate), what="provenance")
    definition, run = read.definition, read.run
    values: dict[str, Any] = {
        "build_type": definition.build_type,
        "builder_id": run.builder.id,
        **definition.external.model_dump(),
        "materials": _with_digests(definition.materials),
        "commit_signature": definition.internal.commit_signature,
        **dict(run.metadata),
        "byproducts": _with_digests(run.byproducts),
    }
    return read_as(Provenance, values, what="provenance")


def write_provenance(provenance: Provenance) -> dict[str, JsonValue]:
    """The predicate that `read_provenance` reads."""
    said = provenance.model_dump(mode="json")
    external = {"repository": said["repository"], "commit": said["commit"]}
    for ours, theirs in (("ref", "ref"), ("recipe", "recipe"), ("build_file", "buildFile")):
        if said[ours]:
            external[theirs] = said[ours]
    metadata = {
        "invocationId": said["invocation_id"],
        "startedOn": said["started_on"],
        "finishedOn": said["finished_on"],
    }
    if said["reproducibility"] is not None:
        metadata["chainring_reproducibility"] = said["reproducibility"]
    internal = {"commitSignature": said["commit_signature"]} if said["commit_signature"] else {}
    return {
        "buildDefinition": {
            "buildType": said["build_type"],
            "externalParameters": external,
            "internalParameters": internal,
            "resolvedDependencies": [_plain(each) for each in said["materials"]],
        },
        "runDetails": {
            "builder": {"id": said["builder_id"]},
            "metadata": metadata,
            "byproducts": [_plain(each) for each in said["byproducts"]],
        },
    }


def _with_digests(found: list[_Descriptor]) -> list[dict[str, Any]]:
    return [each.model_dump() for each in found if each.digest]


def _plain(material: dict[str, Any]) -> dict[str, JsonValue]:
    return {key: value for key, value in material.items() if value}
