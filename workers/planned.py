"""One line of the operations calendar."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio.client import ScheduleCalendarSpec

from workers.temporal_setup import CONTROL_QUEUE

CATCH_UP = timedelta(hours=1)
"""A start that was missed while Temporal was down is made up for when it is not older."""


@dataclass(frozen=True)
class Planned:
    """One line of the calendar."""

    id: str
    workflow: str
    note: str
    every: timedelta | None = None
    offset: timedelta = timedelta(0)
    at: ScheduleCalendarSpec | None = None
    input: dict[str, Any] = field(default_factory=dict)
    queue: str = CONTROL_QUEUE
    catch_up: timedelta = CATCH_UP
    wanted: bool = True
    """Whether the configuration has it; else it is taken out of the calendar."""

    @property
    def rhythm(self) -> str:
        """How often, for people."""
        return str(self.every) if self.every is not None else str(self.at and self.at.comment)
