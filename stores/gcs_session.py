"""Requests to Google Cloud Storage that end by a deadline, and what their errors mean.

The client library retries an upload for 120 s, and checks its deadline only between two attempts,
so one hanging request may last much longer than what was asked for. Here the deadline is set when
the first attempt begins, and every attempt's own timeout is cut to what is left of it.
"""

import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from http.client import HTTPException
from typing import Any

import requests
import urllib3
from google.api_core import exceptions as api
from google.api_core.retry import Retry
from google.auth import exceptions as auth
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage.exceptions import InvalidResponse

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that Google says to retry (Cloud Storage, "Retry strategy")."""
TRANSPORT = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,  # a raw download lets them through
    HTTPException,
    ConnectionError,
    TimeoutError,
)
"""Errors of the connection."""
ATTEMPT_S = 10.0
"""How long one attempt may wait for the service where nobody says otherwise."""
_SHORTEST_S = 0.001

_deadline: ContextVar[float | None] = ContextVar("gcs_deadline", default=None)


def passing(error: BaseException | None) -> bool:
    """Whether an error of the client library may be gone at the next attempt."""
    if isinstance(error, api.RetryError):
        return True
    if isinstance(error, api.GoogleAPICallError):
        return error.code in _PASSING
    if isinstance(error, InvalidResponse):
        return error.response.status_code in _PASSING
    if isinstance(error, auth.GoogleAuthError):
        return isinstance(error, auth.TransportError) or bool(getattr(error, "retryable", False))
    return isinstance(error, TRANSPORT) and not isinstance(error, ValueError)  # as a wrong URL


class BoundedRetry(Retry):
    """A retry policy whose deadline also binds the attempts made under it (`BoundedSession`)."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__(
            predicate=passing, initial=0.1, maximum=5.0, multiplier=2.0, timeout=deadline_s
        )
        self._seconds = deadline_s

    def __call__(
        self, func: Callable[..., Any], on_error: Callable[[Exception], None] | None = None
    ) -> Callable[..., Any]:
        """Wrap a call; see the base class."""
        retried = super().__call__(func, on_error)

        def bounded(*args: Any, **kwargs: Any) -> Any:
            token = _deadline.set(time.monotonic() + self._seconds)
            try:
                return retried(*args, **kwargs)
            finally:
                _deadline.reset(token)

        return bounded


class BoundedSession(AuthorizedSession):
    """Sends requests, and gives none of them more time than is left until the deadline."""

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send one request; see the base class. ``timeout`` is in seconds."""
        kwargs["timeout"] = min(kwargs.get("timeout", ATTEMPT_S), _left())
        response: Any = super().request(*args, **kwargs)  # type: ignore[no-untyped-call]
        if kwargs.get("stream"):
            response.raw.stream = partial(_as_it_comes, response.raw)
        return response


def _as_it_comes(raw: Any, amount: int, decode_content: bool | None = None) -> Iterator[bytes]:
    """A download's bytes as each packet brings them, until the deadline.

    Otherwise a server that sends one byte at a time is waited for until a whole block is there.
    """
    while data := raw.read1(amount, decode_content=decode_content):
        _left()
        yield data


def _left() -> float:
    deadline = _deadline.get()
    if deadline is None:
        return float("inf")
    left = deadline - time.monotonic()
    if left < _SHORTEST_S:
        raise requests.Timeout("the deadline is over")
    return left
