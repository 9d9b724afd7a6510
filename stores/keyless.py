"""Signing without a key of one's own: an OIDC token, and a certificate that lasts for minutes.

For each statement sigstore-python makes a key that never leaves memory, has a certificate
authority bind it to the token's identity, signs, gets a timestamp and logs the signature. Where
those services are is said by Sigstore's ClientTrustConfig; `stores.authority` is all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from pydantic import JsonValue, ValidationError
from requests.adapters import HTTPAdapter
from sigstore.dsse import Statement
from sigstore.models import ClientTrustConfig
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext

from models.canonical import canonical
from models.signed_statement import SignatureRefused
from models.statement import read_statement
from models.strict_json import EvidenceError, read_object
from models.trust import MAX_TRUST_BYTES, KeylessAuthority, TrustRoot
from stores.authority_tokens import AUDIENCE
from stores.bundle_verifier import verify_bundle
from stores.id_tokens import TokenSource, TokenUnavailable
from stores.ledger import utc_now
from stores.signing import SigningFailed

TIMEOUT_S = 30.0
"""How long any of the services may take to answer; a log answers once the entry is in it."""


@dataclass(frozen=True)
class SigstoreServices:
    """Where to sign, and what the answers are verified against."""

    config: ClientTrustConfig
    trusted_root: dict[str, JsonValue]


def read_services(path: Path) -> SigstoreServices:
    """Read a ClientTrustConfig (Sigstore's JSON).

    Raises:
        SigningFailed: it cannot be read, or is something else.
    """
    try:
        value = read_object(path.read_bytes(), what=str(path), max_bytes=MAX_TRUST_BYTES)
        config = ClientTrustConfig.from_json(canonical(value).decode())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SigningFailed(f"{path}: {place}: {first['msg']}") from None
    except (OSError, EvidenceError, ValueError) as error:
        raise SigningFailed(f"{path}: {error}") from None
    root = value["trustedRoot"]
    assert isinstance(root, dict)
    return SigstoreServices(config, root)


class KeylessSigner:
    """Signs as whom an OIDC issuer says we are.

    Args:
        tokens: gives an id token; asked anew for each statement.
        issuer: whose tokens they must be; the certificate must name it.

    Raises:
        SigningFailed: the trusted root lacks a part.
    """

    def __init__(self, services: SigstoreServices, tokens: TokenSource, issuer: str) -> None:
        self._services, self._tokens, self._issuer = services, tokens, issuer
        try:
            authority = KeylessAuthority(
                name="services", trusted_root=services.trusted_root, issuers=[issuer]
            )
        except ValidationError as error:
            raise SigningFailed(f"trustedRoot: {error.errors()[0]['msg']}") from None
        self._trust = TrustRoot(keyless_authorities=[authority])

    def sign(self, statement: bytes) -> bytes:
        """See `stores.signing.StatementSigner.sign`."""
        read_statement(statement)
        token = self._token()
        try:
            with self._context().signer(token) as signer:
                made = signer.sign_dsse(Statement(statement)).to_json()
        except Exception as error:  # of the library, and of all that it calls
            raise SigningFailed(f"keyless: {_words(error)}") from None
        data = canonical(read_object(made.encode(), what="bundle"))
        try:
            verify_bundle(data, self._trust, now=utc_now())
        except SignatureRefused as refused:
            raise SigningFailed(f"keyless: what was signed does not stand: {refused}") from None
        return data

    def _token(self) -> IdentityToken:
        try:
            raw = self._tokens()
        except TokenUnavailable as error:
            raise SigningFailed(f"token: {error}") from None
        try:
            token = IdentityToken(raw, AUDIENCE)
        except Exception as error:  # the library's own, and of what it parses with
            raise SigningFailed(f"token: {_words(error)}") from None
        if token.federated_issuer != self._issuer:
            raise SigningFailed(
                f"token: it is of {token.federated_issuer!a}, not of {self._issuer} "
                "(signing.oidc_provider)"
            )
        return token

    def _context(self) -> SigningContext:
        """The services' clients, which would wait for ever if nobody told them otherwise."""
        services = self._services.config.signing_config
        fulcio, log = services.get_fulcio(), services.get_tlogs()[0]
        for session in (fulcio.session, getattr(log, "_session", None)):
            if isinstance(session, requests.Session):
                session.mount("http://", _Patience())
                session.mount("https://", _Patience())
        return SigningContext(
            fulcio=fulcio,
            rekor=log,
            trusted_root=self._services.config.trusted_root,
            tsa_clients=services.get_tsas(),
        )


class _Patience(HTTPAdapter):
    """Gives every request an end."""

    def send(self, *arguments: Any, **named: Any) -> Any:
        """As the base does, within `TIMEOUT_S`."""
        named["timeout"] = named.get("timeout") or TIMEOUT_S
        return super().send(*arguments, **named)


def _words(error: Exception) -> str:
    """What went wrong, and what a service had to say about it; no request, and so no token."""
    words = [f"{type(each).__name__}: {each}".rstrip(": ") for each in _causes(error)]
    answers = [
        each.response.text[:300]
        for each in _causes(error)
        if isinstance(each, requests.HTTPError) and each.response is not None
    ]
    return "; ".join([*dict.fromkeys(words), *answers])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
