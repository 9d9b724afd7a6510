"""Desired and reported state of the release processes of a region.

Two writers, two halves: a deploy target calls `want` and `unwant`, the release host calls `report`.
A report names the attempt it is about, so a late one cannot overwrite what was wanted since.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Engine, Row, Table, insert, select, update
from sqlmodel import SQLModel

from models.tables_processes import ReleaseProcessRow
from stores.sql import read, write

Desired = Literal["running", "stopped"]
State = Literal["starting", "healthy", "unhealthy", "failed", "stopped"]

_LOCK = "processes"  # independent of the fleet's rows and receipts
_TABLE: Table = SQLModel.metadata.tables[str(ReleaseProcessRow.__tablename__)]


@dataclass(frozen=True)
class ReleaseProcess:
    """One release in this region.

    Attributes:
        attempt: grows each time the release is wanted anew.
        proven: it has been healthy in this attempt; the host then never gives up on it.
        port: on the loopback interface; kept over restarts.
        pid: of the running process; None when there is none.
        restarts: starts after the first one, in this attempt.
        source: incarnation of the process; a change means its counters began at zero. Empty before
            the first start of the attempt.
    """

    release: str
    desired: Desired
    attempt: int
    state: State
    proven: bool
    port: int | None
    pid: int | None
    restarts: int
    detail: str
    source: str


class ProcessStore:
    """The table ``release_process`` of one region's database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def want(self, release: str) -> ReleaseProcess:
        """Ask for the release to run. A new attempt begins if it was stopped or had failed.

        Raises:
            StoreUnavailable: nothing was changed.
        """
        with write(self._engine, lock=_LOCK) as connection:
            row = connection.execute(select(_TABLE).where(_TABLE.c.release == release)).first()
            if row is not None and row.desired == "running" and row.state != "failed":
                return _process(row)
            fresh = _fresh_attempt(release, row)
            if row is None:
                connection.execute(insert(_TABLE), fresh)
            else:
                connection.execute(
                    update(_TABLE).where(_TABLE.c.release == release).values(**fresh)
                )
        return ReleaseProcess(**fresh)

    def unwant(self, release: str) -> None:
        """Ask for the release to be stopped; nothing happens if it was never wanted."""
        with write(self._engine, lock=_LOCK) as connection:
            connection.execute(
                update(_TABLE).where(_TABLE.c.release == release).values(desired="stopped")
            )

    def report(self, release: str, attempt: int, **seen: Any) -> bool:
        """Write what the host sees (any of the fields after ``attempt`` in `ReleaseProcess`).

        Returns:
            False when the release has been wanted anew since: the report was dropped.
        """
        with write(self._engine, lock=_LOCK) as connection:
            result = connection.execute(
                update(_TABLE)
                .where(_TABLE.c.release == release, _TABLE.c.attempt == attempt)
                .values(**seen)
            )
            return result.rowcount == 1

    def get(self, release: str) -> ReleaseProcess | None:
        """One release's row, if it was ever wanted here."""
        with read(self._engine) as connection:
            row = connection.execute(select(_TABLE).where(_TABLE.c.release == release)).first()
        return None if row is None else _process(row)

    def list(self) -> list[ReleaseProcess]:
        """Every release ever wanted here, in order of digest."""
        with read(self._engine) as connection:
            rows = connection.execute(select(_TABLE).order_by(_TABLE.c.release)).all()
        return [_process(row) for row in rows]

    def live(self) -> Sequence[ReleaseProcess]:
        """Those that are wanted, or not stopped yet: all that the host has to look at."""
        is_live = (_TABLE.c.desired == "running") | (_TABLE.c.state != "stopped")
        with read(self._engine) as connection:
            rows = connection.execute(select(_TABLE).where(is_live)).all()
        return [_process(row) for row in rows]


def _fresh_attempt(release: str, before: Row[Any] | None) -> dict[str, Any]:
    """A new attempt keeps the port: gateways may still know it."""
    return {
        "release": release,
        "desired": "running",
        "attempt": 1 if before is None else before.attempt + 1,
        "state": "starting",
        "proven": False,
        "port": None if before is None else before.port,
        "pid": None if before is None else before.pid,
        "restarts": 0,
        "detail": "",
        "source": "",
    }


def _process(row: Row[Any]) -> ReleaseProcess:
    return ReleaseProcess(**row._asdict())
