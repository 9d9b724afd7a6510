"""Long work that gives way to short work: after each piece of it a pause."""

import time
from collections.abc import Callable

LONGEST_S = 1.0
"""No single pause is longer, however long a piece took: it may have waited for a network."""

TOGETHER_S = 600.0
"""All pauses together; what is still to do after that is done without any."""


class Pace:
    """Keeps a share of the time free for others, as long as that delays the work only so much.

    A piece of work is timed by the clock and not by the processor: where others keep the machine
    busy it takes longer, and so does the pause after it. The threads of the process go on within a
    pause, which a low priority would not let them: a thread that is not scheduled keeps the
    interpreter's lock.

    Args:
        share: of the time that is worked, above 0 and up to 1: never a pause.
        most_s: seconds that all pauses may take together.
    """

    def __init__(
        self,
        share: float,
        *,
        most_s: float = TOGETHER_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._pause = (1 - share) / share
        self._left = most_s
        self._clock = clock
        self._sleep = sleep
        self._since = clock()

    def rest(self) -> None:
        """Between two pieces of work: a pause that goes with the first."""
        worked = self._clock() - self._since
        pause = min(worked * self._pause, LONGEST_S, self._left)
        if pause > 0:
            self._left -= pause
            self._sleep(pause)
        self._since = self._clock()
