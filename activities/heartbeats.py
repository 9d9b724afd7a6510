"""Heartbeats of a step that is held up where it cannot give them: by a network, or a hash."""

import contextlib
import contextvars
import threading
from collections.abc import Iterator

from temporalio import activity

EVERY_S = 2.0


@contextlib.contextmanager
def beating() -> Iterator[None]:
    """Heartbeat in the background until the end; outside of an activity nothing happens."""
    if not activity.in_activity():
        yield
        return
    over = threading.Event()

    def beat_on() -> None:
        while not over.wait(EVERY_S):
            activity.heartbeat()

    activity.heartbeat()
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(beat_on,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
