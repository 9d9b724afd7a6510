"""The one row of a region's database that says whose it is, and counts and fences its changes."""

from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select, update

from models.fleet import FleetError
from models.tables_fleet import RegionState
from stores.sql import table

_STATE = table(RegionState)


class StaleEpoch(Exception):
    """The change comes from a rollout that was superseded; nothing was changed.

    ``epoch`` is what the change carried, ``highest`` what ``where`` has accepted already.
    """

    def __init__(self, where: str, epoch: int, highest: int) -> None:
        super().__init__(
            f"epoch {epoch} is stale: {where} has accepted epoch {highest}, "
            "a later rollout or phase is in charge"
        )
        self.where = where
        self.epoch = epoch
        self.highest = highest

    def __reduce__(self) -> tuple[type["StaleEpoch"], tuple[str, int, int]]:
        return StaleEpoch, (self.where, self.epoch, self.highest)


def region_state(connection: Connection, region: str) -> RegionState:
    """The region's state; generation 0 and epoch 0 as long as nothing was ever changed.

    Raises:
        FleetError: the database is another region's.
    """
    row = connection.execute(select(_STATE)).mappings().first()
    if row is None:
        return RegionState(region=region, generation=0, epoch=0)
    if row["region"] != region:
        raise FleetError("region", f"this database is region {row['region']}'s, not {region}'s")
    return RegionState(**row)


def bump_generation(connection: Connection, region: str, *, tenants: bool) -> int:
    """Count one more change of the routes, within the transaction that makes it.

    ``tenants``: whether it changes which tenants are routed where, not only a shard's release.
    """
    generation = region_state(connection, region).generation + 1
    changed = {"placement": generation} if tenants else {}
    _set(connection, region, generation=generation, **changed)
    return generation


def jump_generation(connection: Connection, region: str, ahead: int) -> None:
    """Count on from far above, after a restore: tenants and shards may both have changed."""
    generation = region_state(connection, region).generation + ahead
    _set(connection, region, generation=generation, placement=generation)


def accept_epoch(connection: Connection, region: str, epoch: int) -> None:
    """Fence: refuse ``epoch`` if a higher one was accepted, and remember it.

    Raises:
        StaleEpoch: names both.
    """
    highest = region_state(connection, region).epoch
    if epoch < highest:
        raise StaleEpoch(f"region {region}", epoch, highest)
    if epoch > highest:
        _set(connection, region, epoch=epoch)


def as_utc(at: datetime) -> datetime:
    """A time as stored; SQLite gives it back without the zone, which is always UTC."""
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _set(connection: Connection, region: str, **values: int) -> None:
    changed = connection.execute(update(_STATE).where(_STATE.c.region == region).values(**values))
    if changed.rowcount == 0:
        first = RegionState(region=region).model_dump()
        connection.execute(insert(_STATE), first | values)
