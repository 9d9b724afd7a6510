"""What a copy of a tenant is: an in-toto statement about the file of its keys and values."""

from collections.abc import Sequence
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from models.canonical import canonical
from models.checkpoint import PublicKey, origin
from models.region_statement import open_envelope, sign_payload, signer_of
from models.state_head import state_ledger
from models.statement import STATEMENT_TYPE
from models.strict_json import EvidenceError, read_as, read_object
from models.tenant_restore import CopyReport
from models.verifier import Refused


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class CopyPredicate(_Part):
    """Whose keys these are, from when, who asked for them and why."""

    report: CopyReport
    actor: str
    reason: str
    workflow: str
    code_version: str


class _Digest(_Part):
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _File(_Part):
    name: Literal["entries.jsonl"] = "entries.jsonl"
    digest: _Digest


class CopyStatement(_Part):
    """The statement; its subject is the file of entries."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT_TYPE, alias="_type")
    subject: tuple[_File]
    predicate_type: Literal["urn:chainring:tenant-copy:v1"] = Field(
        default="urn:chainring:tenant-copy:v1", alias="predicateType"
    )
    predicate: CopyPredicate

    @property
    def file_digest(self) -> str:
        """SHA-256 of the file of entries."""
        return self.subject[0].digest.sha256


def sign_copy(predicate: CopyPredicate, file_digest: str, key: Ed25519PrivateKey) -> bytes:
    """The signed statement about a file of entries."""
    statement = CopyStatement(
        subject=(_File(digest=_Digest(sha256=file_digest)),), predicate=predicate
    )
    payload = canonical(statement.model_dump(mode="json", by_alias=True))
    return sign_payload(payload, predicate.report.region, key)


def open_copy(data: bytes, keys: Sequence[PublicKey]) -> CopyStatement:
    """Check and read a statement.

    Raises:
        models.verifier.Refused: malformed, wrong-type, unknown-key, bad-signature, retired-key.
    """
    envelope = open_envelope(data, what="statement")
    key = signer_of(envelope, keys)
    try:
        statement = read_as(
            CopyStatement, read_object(envelope.payload, what="statement"), what="statement"
        )
    except EvidenceError as error:
        raise Refused("malformed", str(error)) from None
    region = statement.predicate.report.region
    if key.name != origin(region):
        raise Refused("unknown-key", f"region: {region}, but {key.name} has signed")
    report = statement.predicate.report
    if not key.vouches(origin(state_ledger(region, report.source_store)), report.expected_seq):
        raise Refused("retired-key", f"{key.vkey()} was retired before {report.expected_seq}")
    return statement
