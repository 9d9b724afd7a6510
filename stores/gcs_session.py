"""Requests to Google Cloud Storage that end by a deadline, and what their errors mean.

The client library retries an upload for 120 s, and checks its deadline only between two attempts,
so one hanging request may last much longer than what was asked for. Here the deadline is set when
the first attempt begins, and every attempt's own timeout is cut to what is left of it.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, BinaryIO

import requests
from google.api_core import exceptions as api
from google.api_core.retry import Retry
from google.auth import exceptions as auth
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage.exceptions import InvalidResponse

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that Google says to retry (Cloud Storage, "Retry strategy")."""
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
    return isinstance(error, requests.RequestException | ConnectionError | TimeoutError)


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

    def request(  # type: ignore[no-untyped-def]
        self, method, url, data=None, headers=None, max_allowed_time=None, timeout=10.0, **kwargs
    ):
        """Send one request; see the base class. ``timeout`` is in seconds."""
        return super().request(  # type: ignore[no-untyped-call]
            method, url, data, headers, max_allowed_time, min(timeout, _left()), **kwargs
        )


class BoundedSink:
    """Takes a download's bytes until the deadline: a server may send one byte at a time."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target

    def write(self, data: bytes, /) -> int:
        """Pass on what came.

        Raises:
            requests.Timeout: the deadline is over.
        """
        _left()
        return self._target.write(data)


def _left() -> float:
    deadline = _deadline.get()
    if deadline is None:
        return float("inf")
    left = deadline - time.monotonic()
    if left < _SHORTEST_S:
        raise requests.Timeout("the deadline is over")
    return left
