"""Probes at a steady pace, each in a thread of its own: one that hangs hides nothing.

A thread that hangs in a database call cannot be ended. It is left behind, counted, and taken up
again when the call comes back; there are never more than `models.probe.MOST_FLYING`.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from models.probe import Pace, Probe, next_begin


@dataclass
class _Flight:
    """A probe under way; ``lost``: it was said to be. ``dropped``: nobody waits for it any more."""

    at: datetime
    began: float
    lost: bool = False
    dropped: bool = False


class Probing:
    """Runs probes of one store, for one caller at a time.

    Args:
        probe: one probe; it is given its name, the time at which it begins.
    """

    def __init__(
        self,
        probe: Callable[[datetime], Probe],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._probe = probe
        self._clock = clock
        self._now = now
        self._answers: queue.SimpleQueue[tuple[_Flight, Probe]] = queue.SimpleQueue()
        self._flights: list[_Flight] = []
        self._last: float | None = None
        self._last_at: datetime | None = None

    def drop(self) -> None:
        """Begin anew: what is under way is not waited for, and its answers are not heard."""
        for each in self._flights:
            each.lost = each.dropped = True
        self._last = None

    def step(self, pace: Pace, wait: float) -> list[Probe]:
        """Begin a probe if one is due, and wait for news for ``wait`` seconds at most.

        Returns what was answered, and of each that was not within the pace's patience, once, that
        it is lost.
        """
        flying = [each.began for each in self._flights if not each.lost]
        hung = len(self._flights) - len(flying)
        due = next_begin(pace, self._last, flying, hung)
        now = self._clock()
        if due is not None and now >= due:
            self._begin(now)
            return self._news(pace, min(wait, pace.patience))
        until = [now + wait, *(began + pace.patience for began in flying)]
        return self._news(pace, min(until if due is None else [*until, due]) - now)

    def _begin(self, now: float) -> None:
        at = self._now()
        if self._last_at is not None and at <= self._last_at:  # the time is the probe's name
            at = self._last_at + timedelta(microseconds=1)
        flight = _Flight(at, now)
        self._last, self._last_at = now, at
        self._flights.append(flight)
        threading.Thread(target=self._fly, args=(flight,), name="probe", daemon=True).start()

    def _fly(self, flight: _Flight) -> None:
        self._answers.put((flight, self._probe(flight.at)))

    def _news(self, pace: Pace, wait: float) -> list[Probe]:
        found, wanted = [], self._clock() + max(0.0, wait)
        with contextlib.suppress(queue.Empty):
            flight, probe = self._answers.get(timeout=max(0.0, wait))
            self._flights.remove(flight)
            if not flight.dropped:
                found.append(probe)
        now = self._clock()
        if now > wanted + pace.beside:  # this process was stopped itself, and knows of no time
            self.drop()
            return []
        for each in self._flights:
            if not each.lost and now - each.began >= pace.patience:
                each.lost = True
                found.append(_lost(each, now))
        return found


def _lost(flight: _Flight, now: float) -> Probe:
    waited = now - flight.began
    return Probe(outcome="down", at=flight.at, seconds=waited, why=f"no answer in {waited:.1f} s")
