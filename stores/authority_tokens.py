"""The local OIDC issuer: id tokens for builders it knows by name, and what they are verified by."""

import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stores.files import file_lock, write_atomic

AUDIENCE = "sigstore"
"""Whom tokens are for: Sigstore's client id, whoever runs the CA."""
TOKEN_LIFETIME = timedelta(minutes=5)
_LEEWAY = timedelta(seconds=5)
_ALGORITHM = "ES256"
_CLAIMS = ["iss", "aud", "sub", "iat", "exp"]


class TokenRefused(Exception):
    """A token is not given, or not taken; the message says why."""


class Client(BaseModel):
    """One who may have tokens: as whom, and the hash of the secret that shows it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str = Field(
        max_length=512, pattern=r"^[!-~]+[:@][!-~]+$", description="a URI or an email address"
    )
    secret_sha256: str = Field(pattern="^[0-9a-f]{64}$")


_CLIENTS: TypeAdapter[dict[str, Client]] = TypeAdapter(dict[str, Client])


@dataclass(frozen=True)
class TokenIssuer:
    """Gives tokens to clients, and verifies them.

    Args:
        url: the issuer, as tokens and certificates name it.
    """

    key: ec.EllipticCurvePrivateKey
    url: str
    clients: Mapping[str, Client]
    clock: Callable[[], datetime]

    def issue(self, client: str, secret: str) -> str:
        """An id token for a client.

        Raises:
            TokenRefused: no such client, or another secret.
        """
        known = self.clients.get(client)
        given = sha256(secret.encode()).hexdigest()
        # Compared in any case, so that time does not tell who is known.
        right = hmac.compare_digest(given, known.secret_sha256 if known else "0" * 64)
        if known is None or not right:
            raise TokenRefused("client: unknown, or its secret is wrong")
        now = self.clock()
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": known.identity,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int((now + TOKEN_LIFETIME).timestamp()),
            "jti": secrets.token_hex(16),
        }
        return jwt.encode(claims, self.key, _ALGORITHM, headers={"kid": self._key_id})

    def verify(self, token: str) -> str:
        """Whom a token of this issuer names.

        Raises:
            TokenRefused: forged, expired, not yet valid, for another audience, of another issuer.
        """
        try:
            claims = jwt.decode(
                token,
                self.key.public_key(),
                algorithms=[_ALGORITHM],
                audience=AUDIENCE,
                issuer=self.url,
                # The times are judged below: the library has no clock but the system's.
                options={
                    "require": _CLAIMS,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
            subject = str(claims["sub"])
            begins, ends = float(claims.get("nbf", claims["iat"])), float(claims["exp"])
        except (jwt.PyJWTError, TypeError, ValueError) as error:
            raise TokenRefused(f"token: {error}") from None
        now, leeway = self.clock().timestamp(), _LEEWAY.total_seconds()
        if now >= ends + leeway:
            raise TokenRefused("token: it has expired")
        if now < begins - leeway:
            raise TokenRefused("token: it is not valid yet")
        return subject

    def keys(self) -> dict[str, Any]:
        """The issuer's JWKS (RFC 7517)."""
        key = jwt.get_algorithm_by_name(_ALGORITHM).to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{**key, "kid": self._key_id, "alg": _ALGORITHM, "use": "sig"}]}

    def configuration(self) -> dict[str, Any]:
        """What ``.well-known/openid-configuration`` says; there is nobody to log in."""
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "token_endpoint": f"{self.url}/token",
            "grant_types_supported": ["client_credentials"],
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [_ALGORITHM],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        }

    @property
    def _key_id(self) -> str:
        numbers = self.key.public_key().public_numbers()
        return sha256(f"{numbers.x:064x}{numbers.y:064x}".encode()).hexdigest()[:16]


def read_clients(path: Path) -> dict[str, Client]:
    """The clients of an issuer; none where there is no file.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        return _CLIENTS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def enrol(path: Path, client: str, identity: str, secret_file: Path) -> None:
    """Let a client have tokens; its secret is made, or kept where there is one already.

    Raises:
        ValueError: the identity is neither a URI nor an email address, or ``path`` holds
            something else.
        OSError: a file cannot be written.
    """
    with file_lock(path.with_suffix(".lock")):
        clients = read_clients(path)
        if not secret_file.exists() or not secret_file.stat().st_size:
            secret_file.parent.mkdir(parents=True, exist_ok=True)
            secret_file.touch(mode=0o600)
            secret_file.write_text(secrets.token_urlsafe(32))
        hashed = sha256(secret_file.read_text().strip().encode()).hexdigest()
        wanted = Client(identity=identity, secret_sha256=hashed)
        if clients.get(client) != wanted:
            write_atomic(path, _CLIENTS.dump_json(clients | {client: wanted}, indent=2))
