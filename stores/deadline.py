"""A bound on calls that a hung database would hold for ever."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from stores.sql import StoreUnavailable

_T = TypeVar("_T")


def within(seconds: float, work: Callable[[], _T]) -> _T:
    """What ``work`` returns or raises. What has not ended in time goes on by itself.

    Raises:
        StoreUnavailable: it has not ended; whether it does later is unknown.
    """
    result: Future[_T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # is raised where it is waited for
            result.set_exception(error)

    threading.Thread(target=run, name="within", daemon=True).start()
    try:
        return result.result(timeout=seconds)
    except TimeoutError as error:
        if result.done():
            raise  # its own
        raise StoreUnavailable("unreachable", f"no answer in {seconds:g} s") from error
