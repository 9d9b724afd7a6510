"""Sending a notice to an address of the operator's choice, signed, and safe to send again."""

import hashlib
import hmac
from pathlib import Path

import httpx

from models.canonical import canonical
from models.notices import Notice

TIMEOUT_S = 10.0
_AGAIN = frozenset({408, 425, 429})
"""Refusals that say to come back."""


class WebhookUnavailable(Exception):
    """It did not take the notice, and may later."""


class WebhookRefused(Exception):
    """It will not take the notice, however often it is sent."""


class Webhook:
    """An address that takes notices by POST as JSON.

    ``Idempotency-Key`` is the notice's id: what is sent again is the same. With a key,
    ``X-Chainring-Signature`` is ``sha256=`` and the HMAC of the body, hex.

    Args:
        key_file: the HMAC key; a line break at its end is not part of it.
    """

    def __init__(self, url: str, key_file: Path | None = None) -> None:
        self._url = url
        self._key_file = key_file

    def send(self, notice: Notice) -> None:
        """Send once.

        Raises:
            WebhookUnavailable, WebhookRefused: see there.
        """
        body = canonical(notice.model_dump(mode="json"))
        headers = {"Content-Type": "application/json", "Idempotency-Key": notice.id}
        if self._key_file is not None:
            headers["X-Chainring-Signature"] = f"sha256={self._signature(body)}"
        try:
            answer = httpx.post(self._url, content=body, headers=headers, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            raise WebhookUnavailable(f"{type(error).__name__}: {error}") from error
        if answer.is_success:
            return
        said = f"it answered {answer.status_code}"
        if answer.is_client_error and answer.status_code not in _AGAIN:
            raise WebhookRefused(said)
        raise WebhookUnavailable(said)

    def _signature(self, body: bytes) -> str:
        assert self._key_file is not None
        try:
            key = self._key_file.read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise WebhookUnavailable(f"{self._key_file}: {error.strerror}") from error
        if not key:
            raise WebhookUnavailable(f"{self._key_file}: holds no key")
        return hmac.new(key, body, hashlib.sha256).hexdigest()
