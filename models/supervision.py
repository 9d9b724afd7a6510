"""When a release process is restarted, after how long, and when the host gives up on it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartPolicy:
    """Times in seconds.

    Attributes:
        first_delay: before the first restart; doubles with each further failure.
        max_delay: the delay stops growing here.
        reset_after: a process that was healthy this long starts with a clean slate.
        start_crashes: a release that has never been healthy is given up after this many crashes.
    """

    first_delay: float = 0.2
    max_delay: float = 30.0
    reset_after: float = 30.0
    start_crashes: int = 3


@dataclass(frozen=True)
class Life:
    """How one run of a process ended.

    Attributes:
        reason: for a person.
        healthy_seconds: from the first healthy answer to the end; 0 when there was none.
        ended_itself: it exited or could not be started, rather than being stopped by the host.
    """

    reason: str
    healthy_seconds: float
    ended_itself: bool


@dataclass(frozen=True)
class NextStep:
    """Restart after ``delay``, or give up when that is None."""

    failures: int
    delay: float | None


def next_step(policy: RestartPolicy, *, failures: int, proven: bool, life: Life) -> NextStep:
    """Decide what follows ``life``, the latest after ``failures`` failures in a row.

    A release that has been healthy once (``proven``) may carry traffic, so it is restarted for
    ever. One that never was is given up at once when it ran but did not become healthy in time,
    and after ``start_crashes`` when it crashed.
    """
    failures = 1 if life.healthy_seconds >= policy.reset_after else failures + 1
    if not proven and (not life.ended_itself or failures >= policy.start_crashes):
        return NextStep(failures, delay=None)
    exponent = min(failures - 1, 32)  # far past max_delay, and no float overflow
    return NextStep(failures, delay=min(policy.max_delay, policy.first_delay * 2.0**exponent))
