"""The control plane's own state: the fleet lease, releases known to be bad, catalog copies."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, Table, delete, insert, select, update
from sqlmodel import SQLModel

from models.contracts import ShardSummary
from models.receipts import Draft
from models.rollout import Claim
from models.tables_control import CatalogCopy, FleetLease, KnownBad
from stores.ledger import Ledger
from stores.sql import read, write


def _table(model: type[SQLModel]) -> Table:
    return SQLModel.metadata.tables[str(model.__tablename__)]


_LEASE = _table(FleetLease)
_BAD = _table(KnownBad)
_CATALOG = _table(CatalogCopy)


class NotTheHolder(Exception):
    """The rollout does not hold the fleet (any more): another one took it over."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class ControlStore:
    """Each method is one transaction, and repeating it changes nothing more."""

    def __init__(
        self, engine: Engine, ledger: Ledger, *, clock: Callable[[], datetime] = _utc_now
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._clock = clock

    def claim(self, fleet: str, rollout: str, run: str, *, instead_of: str = "") -> Claim:
        """Take the fleet for a rollout, under a new epoch.

        Args:
            instead_of: the holder that is known to have ended without giving the fleet back; only
                that one is replaced.

        Returns:
            The claim; its epoch is 0 and its holder named when another rollout has the fleet.
        """
        with write(self._engine) as connection:
            lease = self._lease(connection, fleet)
            if lease.holder == rollout and lease.run == run:
                return Claim(epoch=lease.epoch, holder=rollout)
            if lease.holder not in ("", rollout, instead_of):
                return Claim(epoch=0, holder=lease.holder)
            epoch = lease.epoch + 1
            self._set(connection, fleet, epoch=epoch, holder=rollout, run=run, phase="")
            return Claim(epoch=epoch, holder=rollout)

    def advance(self, fleet: str, rollout: str, phase: str) -> Claim:
        """A higher epoch for a new phase of the same rollout, so that what it did before is fenced.

        Raises:
            NotTheHolder: another rollout has the fleet.
        """
        with write(self._engine) as connection:
            lease = self._lease(connection, fleet)
            if lease.holder != rollout:
                holder = lease.holder or "nobody"
                raise NotTheHolder(f"{rollout} does not hold fleet {fleet}: {holder} does")
            if lease.phase == phase:
                return Claim(epoch=lease.epoch, holder=rollout)
            epoch = lease.epoch + 1
            self._set(connection, fleet, epoch=epoch, holder=rollout, run=lease.run, phase=phase)
            return Claim(epoch=epoch, holder=rollout)

    def release(self, fleet: str, rollout: str) -> None:
        """Give the fleet back; nothing happens when another rollout has it."""
        with write(self._engine) as connection:
            lease = self._lease(connection, fleet)
            if lease.holder == rollout:
                self._set(connection, fleet, epoch=lease.epoch, holder="", run="", phase="")

    def holder(self, fleet: str) -> str:
        """Workflow id of the rollout that has the fleet, or the empty string."""
        with read(self._engine) as connection:
            row = connection.execute(
                select(_LEASE.c.holder).where(_LEASE.c.fleet == fleet)
            ).scalar()
        return str(row or "")

    def condemn(self, release: str, rollout: str, why: str, draft: Draft) -> None:
        """Remember that a release is bad, together with the receipt that says so."""
        with write(self._engine) as connection:
            if not _is_bad(connection, release):
                row = {"release": release, "rollout": rollout, "why": why, "at": self._clock()}
                connection.execute(insert(_BAD), row)
            self._ledger.append([draft], connection=connection)

    def pardon(self, release: str, draft: Draft) -> bool:
        """Forget that a release is bad; whether it was. The receipt is written only then."""
        with write(self._engine) as connection:
            if not _is_bad(connection, release):
                return False
            connection.execute(delete(_BAD).where(_BAD.c.release == release))
            self._ledger.append([draft], connection=connection)
            return True

    def known_bad(self) -> dict[str, str]:
        """Releases known to be bad, each with the reason."""
        with read(self._engine) as connection:
            rows = connection.execute(select(_BAD.c.release, _BAD.c.why))
            return {row.release: row.why for row in rows}

    def keep_catalog(self, region: str, shards: Sequence[ShardSummary]) -> None:
        """Keep a region's catalog for the day it cannot be asked."""
        row = {
            "region": region,
            "shards": [shard.model_dump(mode="json") for shard in shards],
            "at": self._clock(),
        }
        with write(self._engine) as connection:
            connection.execute(delete(_CATALOG).where(_CATALOG.c.region == region))
            connection.execute(insert(_CATALOG), row)

    def catalog(self, region: str) -> list[ShardSummary]:
        """A region's last known catalog; empty when none was ever kept."""
        with read(self._engine) as connection:
            row = connection.execute(
                select(_CATALOG.c.shards).where(_CATALOG.c.region == region)
            ).scalar()
        return [ShardSummary.model_validate(shard) for shard in row or []]

    def _lease(self, connection: Connection, fleet: str) -> FleetLease:
        found = select(_LEASE).where(_LEASE.c.fleet == fleet).with_for_update()
        row = connection.execute(found).mappings().first()
        if row is not None:
            return FleetLease(**row)
        lease = FleetLease(fleet=fleet, epoch=0)
        connection.execute(insert(_LEASE), lease.model_dump())
        return lease

    def _set(self, connection: Connection, fleet: str, **values: object) -> None:
        connection.execute(update(_LEASE).where(_LEASE.c.fleet == fleet).values(**values))


def _is_bad(connection: Connection, release: str) -> bool:
    found = select(_BAD.c.release).where(_BAD.c.release == release)
    return connection.execute(found).first() is not None
