"""What a verified bundle says: a statement, who signed it, and when by a clock that is trusted."""

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.ids import Digest
from models.statement import Statement


class SignatureRefused(Exception):
    """A bundle does not show that a trusted signer signed its statement.

    ``code`` is one of: ``malformed`` (the bundle or statement cannot be read), ``payload-type``,
    ``signature-count``, ``key-missing`` (no key is named), ``key-unknown``, ``key-conflict`` (two
    are named), ``wrong-signature``, ``timestamp-missing``, ``timestamp-untrusted``, ``future``,
    ``key-not-valid`` (signed before or after the key's time), ``key-revoked``;
    those of certificates are listed in `stores.keyless_verifier`.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type["SignatureRefused"], tuple[str, str]]:
        return type(self), (self.code, self.detail)


class Signer(BaseModel):
    """Who signed: a key of the trust root by its identity, or an OIDC identity of one issuer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["key", "oidc"]
    identity: str
    issuer: str = Field(default="", description="of an OIDC identity; empty for a key")


class SignedStatement(BaseModel):
    """A statement whose signature stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    statement: Statement
    signer: Signer
    signed_at: AwareDatetime = Field(
        description="by an RFC 3161 authority or a log that is trusted; the payload has no say"
    )
    key_id: str = Field(description="SHA-256 of the public key's DER, hex")
    digest: Digest = Field(description="of the bundle's bytes")
