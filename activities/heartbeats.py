"""Heartbeats of a step that is held up where it cannot give them: by a network, or a hash."""

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from temporalio import activity

EVERY_S = 2.0

_P = ParamSpec("_P")
_R = TypeVar("_R")
_newest: contextvars.ContextVar[list[tuple[object, ...]]] = contextvars.ContextVar("newest")


def beat(*details: object) -> None:
    """Heartbeat with how far it is, which `beating` goes on to say until there is something newer.

    Raises:
        RuntimeError: this is no activity.
    """
    newest = _newest.get(None)
    if newest is not None:
        newest[:] = [details]
    activity.heartbeat(*details)


def alive(work: Callable[_P, _R]) -> Callable[_P, _R]:
    """Have an activity heartbeat for as long as it runs.

    What its process took with it when it was killed is then tried again at once, and not when all
    the time is over that it might have taken.
    """

    @functools.wraps(work)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with beating():
            return work(*args, **kwargs)

    return run


@contextlib.contextmanager
def beating() -> Iterator[None]:
    """Heartbeat in the background until the end; outside of an activity nothing happens."""
    if not activity.in_activity():
        yield
        return
    over = threading.Event()
    newest: list[tuple[object, ...]] = [()]
    token = _newest.set(newest)

    def beat_on() -> None:
        while not over.wait(EVERY_S):
            activity.heartbeat(*newest[0])

    activity.heartbeat()
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(beat_on,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _newest.reset(token)
