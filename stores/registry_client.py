"""HTTP to one OCI registry: deadlines, credentials, and what is tried again.

Tried again are answers that ask for it (429, 5xx) and connections that break; a refusal is final.
Whatever comes is only believed after its digest was checked, which is the caller's work.
"""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

from stores.blobs import ReleaseError

TRIES = 6
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
TIMEOUT = httpx.Timeout(20.0, connect=5.0)
"""Seconds for a connection, and for each silence within an answer."""


class RegistryUnavailable(OSError):
    """The registry does not answer, or not in time; trying again later may succeed."""


class RegistryRefused(ReleaseError):
    """The registry will not do it: no such thing, or no right to it."""


class RegistryClient:
    """One registry at ``url``.

    Args:
        credentials: file with ``user:password``, readable by its owner alone; or none.
        pause: how to wait between two tries, in seconds; tests give their own.
        tries: how often a request is made before the registry counts as unavailable.
    """

    def __init__(
        self,
        url: str,
        *,
        credentials: Path | None = None,
        pause: Callable[[float], None] = time.sleep,
        timeout: httpx.Timeout = TIMEOUT,
        tries: int = TRIES,
    ) -> None:
        self._url = url.rstrip("/") + "/"
        self._credentials = credentials
        self._pause = pause
        self._tries = tries
        self._token = ""
        self._client = httpx.Client(timeout=timeout, follow_redirects=True)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        allow: tuple[int, ...] = (),
        headers: Mapping[str, str] | None = None,
        content: Callable[[], Any] = lambda: None,
    ) -> httpx.Response:
        """One request with its whole answer.

        Args:
            path: below ``url``, or the absolute one that the registry gave.
            allow: statuses beside 2xx that the caller deals with.
            content: makes the body anew for each try.

        Raises:
            RegistryUnavailable, RegistryRefused.
        """
        return self._tried(lambda: self._once(method, path, allow, headers, content))

    @contextmanager
    def stream(self, path: str, *, start: int = 0) -> Iterator[tuple[int, Iterator[bytes]]]:
        """An answer piece by piece, from byte ``start`` on where the registry can do that.

        Yields:
            The offset at which it really starts, and the pieces.

        Raises:
            RegistryUnavailable, RegistryRefused: also while the pieces are taken.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = self._tried(lambda: self._open(path, headers))
        try:
            offset = start if response.status_code == httpx.codes.PARTIAL_CONTENT else 0
            yield offset, self._pieces(response)
        finally:
            response.close()

    def _pieces(self, response: httpx.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_raw()
        except httpx.TransportError as error:
            raise RegistryUnavailable(f"{self._url}: {type(error).__name__} {error}") from None

    def _open(self, path: str, headers: Mapping[str, str]) -> httpx.Response:
        request = self._client.build_request(
            "GET", urljoin(self._url, path), headers={**self._authorization(), **headers}
        )
        response = self._client.send(request, stream=True)
        if self._must_log_in(response):
            response.close()
            request.headers.update(self._authorization())
            response = self._client.send(request, stream=True)
        if not response.is_success:
            response.read()
        return self._checked(response, ())

    def _once(
        self,
        method: str,
        path: str,
        allow: tuple[int, ...],
        headers: Mapping[str, str] | None,
        content: Callable[[], Any],
    ) -> httpx.Response:
        def ask() -> httpx.Response:
            return self._client.request(
                method,
                urljoin(self._url, path),
                headers={**self._authorization(), **(headers or {})},
                content=content(),
            )

        response = ask()
        return self._checked(ask() if self._must_log_in(response) else response, allow)

    def _tried(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        pause = FIRST_PAUSE
        for attempt in range(1, self._tries + 1):
            try:
                return ask()
            except _TryAgain as again:
                if attempt == self._tries:
                    raise RegistryUnavailable(f"{self._url}: {again}") from None
                self._pause(min(LONGEST_PAUSE, again.after or pause))
            except httpx.TransportError as error:
                if attempt == self._tries:
                    raise RegistryUnavailable(
                        f"{self._url}: {type(error).__name__} {error}"
                    ) from None
                self._pause(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
        raise AssertionError("unreachable")

    def _checked(self, response: httpx.Response, allow: tuple[int, ...]) -> httpx.Response:
        status = response.status_code
        if response.is_success or status in allow:
            return response
        said = f"{response.request.method} {response.request.url.path}: {status}"
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise _TryAgain(said, _seconds(response.headers.get("Retry-After")))
        raise RegistryRefused(f"registry: {said} {response.text[:200]}".rstrip())

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}

    def _must_log_in(self, response: httpx.Response) -> bool:
        """Whether the answer asks for credentials that could be had since."""
        if response.status_code != httpx.codes.UNAUTHORIZED or self._credentials is None:
            return False
        challenge = response.headers.get("WWW-Authenticate", "")
        secret = self._credentials.read_text().strip()
        basic = "Basic " + base64.b64encode(secret.encode()).decode()
        if challenge.lower().startswith("bearer"):
            self._token = "Bearer " + self._fetch_token(challenge, basic)
        else:
            self._token = basic
        return True

    def _fetch_token(self, challenge: str, basic: str) -> str:
        """A token for what the challenge names (distribution specification, "Token")."""
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = fields.pop("realm", "")
        answer = self._client.get(realm, params=fields, headers={"Authorization": basic})
        try:
            said = json.loads(answer.content)
            return str(said.get("token") or said["access_token"])
        except (ValueError, KeyError, AttributeError):
            raise RegistryRefused(f"registry: {realm} gives no token") from None


class _TryAgain(Exception):
    """The registry asks to be asked again, after so many seconds if it said so."""

    def __init__(self, said: str, after: float | None) -> None:
        super().__init__(said)
        self.after = after


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isdecimal() else None
