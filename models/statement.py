"""in-toto Statement v1: claims of one kind (the predicate) about artifacts by digest."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, field_validator

from models.strict_json import read_as, read_object

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
SIGNATURE = "https://sigstore.dev/cosign/sign/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SBOM = "https://cyclonedx.org/bom"
TESTS = "https://in-toto.io/attestation/test-result/v0.1"
DEPLOYMENT = "urn:chainring:deployment:v1"
RESTORE = "urn:chainring:restore:v1"

MAX_SUBJECTS = 1024
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,256}$")]


class Subject(BaseModel):
    """An artifact that a statement is about; its SHA-256 is required, other digests may follow."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(default="", max_length=2048)
    digest: dict[str, HexDigest] = Field(min_length=1, max_length=16)

    @field_validator("digest")
    @classmethod
    def _has_sha256(cls, digest: dict[str, str]) -> dict[str, str]:
        if _SHA256.match(digest.get("sha256", "")) is None:
            raise ValueError("needs a sha256 of 64 hex digits")
        return digest

    @property
    def sha256(self) -> str:
        """The digest as OCI writes it: ``sha256:<hex>``."""
        return f"sha256:{self.digest['sha256']}"


class Statement(BaseModel):
    """One in-toto statement."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[Subject] = Field(min_length=1, max_length=MAX_SUBJECTS)
    predicate_type: str = Field(alias="predicateType", min_length=1, max_length=512)
    predicate: dict[str, JsonValue] = {}

    def is_about(self, digest: str) -> bool:
        """Whether ``digest`` (``sha256:...``) is the statement's one subject."""
        return [each.sha256 for each in self.subject] == [digest]


def read_statement(payload: bytes) -> Statement:
    """Read a statement strictly; raises `EvidenceError`."""
    return read_as(Statement, read_object(payload, what="statement"), what="statement")


def write_statement(
    subjects: Sequence[tuple[str, str]], predicate_type: str, predicate: Mapping[str, Any]
) -> bytes:
    """A statement's bytes.

    Args:
        subjects: name and ``sha256:...`` digest of each artifact.
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
            for name, digest in subjects
        ],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
    return json.dumps(
        statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
