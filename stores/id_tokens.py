"""Where a builder's OIDC id token comes from: a file, its issuer, or the machine it runs on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from models.addresses import AmbientToken, ClientToken, FileToken, TokenAddress
from stores.authority_tokens import AUDIENCE

TokenSource = Callable[[], str]
"""Gives an id token for Sigstore; raises `TokenUnavailable`."""

_TIMEOUT_S = 10.0


class TokenUnavailable(Exception):
    """There is no token; the message says why, and holds no secret."""


def token_source(address: TokenAddress, issuer: str) -> TokenSource:
    """The source that an address describes.

    Args:
        issuer: whose tokens are wanted; asked itself where a client has a secret there.
    """
    match address:
        case FileToken():
            return lambda: _from_file(address.file)
        case ClientToken():
            return lambda: _from_issuer(issuer, address.client, _from_file(address.secret_file))
        case AmbientToken():
            return _from_machine


def _from_file(path: Path) -> str:
    """A file that somebody else keeps fresh, as Kubernetes does with a projected token."""
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenUnavailable(f"{path}: {error}") from None
    if not text:
        raise TokenUnavailable(f"{path}: is empty")
    return text


def _from_issuer(issuer: str, client: str, secret: str) -> str:
    """The client credentials grant (RFC 6749, section 4.4) at the issuer's own address."""
    try:
        found = _json(httpx.get(f"{issuer}/.well-known/openid-configuration", timeout=_TIMEOUT_S))
        if found.get("issuer") != issuer:
            raise TokenUnavailable(f"{issuer}: says that it is {found.get('issuer')!r:.200}")
        asked = {"grant_type": "client_credentials", "audience": AUDIENCE, "scope": "openid"}
        answer = httpx.post(
            str(found.get("token_endpoint")), data=asked, auth=(client, secret), timeout=_TIMEOUT_S
        )
        token = _json(answer).get("id_token")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TokenUnavailable(f"{issuer}: {type(error).__name__}: {error}") from None
    if not isinstance(token, str):
        raise TokenUnavailable(f"{issuer}: its answer holds no id_token")
    return token


def _from_machine() -> str:
    """What the machine offers: GitHub Actions, GitLab, Buildkite, Google Cloud."""
    from sigstore.oidc import IdentityError, detect_credential  # noqa: PLC0415  # slow to import

    try:
        token = detect_credential(AUDIENCE)
    except IdentityError as error:
        raise TokenUnavailable(f"this machine: {error}") from None
    if token is None:
        raise TokenUnavailable("this machine offers no OIDC token")
    return token


def _json(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise TokenUnavailable(f"{answer.url}: {answer.status_code}: {answer.text:.200}")
    try:
        value = answer.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise TokenUnavailable(f"{answer.url}: does not answer with a JSON object")
    return value
