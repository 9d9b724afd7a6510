"""What a region knows of its tenants: read only, each answer as of one instant."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, RowMapping, func, select

from models.contracts import ShardSummary
from models.fleet import FleetError, Tenant, TenantState
from models.ids import is_tenant_id
from models.tables_fleet import ShardRow, TenantRow
from stores.region_state import as_utc
from stores.sql import read, table

LARGEST_PAGE = 1_000

_SHARD = table(ShardRow)
_TENANT = table(TenantRow)


@dataclass(frozen=True)
class TenantPage:
    """Some tenants in order of their ids; ``after`` continues the list, None at its end."""

    tenants: Sequence[Tenant]
    after: str | None


@dataclass(frozen=True)
class FleetStats:
    """A region's tenants in numbers; ``size`` is the sum of all sizes."""

    region: str
    shards: int
    tenants: int
    suspended: int
    size: int
    largest: int
    fewest_in_a_shard: int
    most_in_a_shard: int


class FleetReader:
    """The tenants of one region; every method raises `StoreUnavailable`."""

    def __init__(self, engine: Engine, region: str) -> None:
        self._engine = engine
        self._region = region

    def find(self, tenant: str) -> Tenant | None:
        """The tenant, or None when the region has none of that name."""
        if not is_tenant_id(tenant):
            return None
        with read(self._engine) as connection:
            return find_tenant(connection, tenant)

    def catalog(self) -> list[ShardSummary]:
        """Each shard with the number and the summed sizes of its tenants, sorted by id."""
        with read(self._engine) as connection:
            return self._catalog(connection)

    def stats(self) -> FleetStats:
        """The region in numbers."""
        suspended = select(func.count()).where(_TENANT.c.state == TenantState.SUSPENDED.value)
        with read(self._engine) as connection:
            catalog = self._catalog(connection)
            stopped = connection.execute(suspended).scalar_one()
            largest = connection.execute(select(func.max(_TENANT.c.size))).scalar_one()
        counts = [shard.tenants for shard in catalog]
        return FleetStats(
            region=self._region,
            shards=len(catalog),
            tenants=sum(counts),
            suspended=stopped,
            size=sum(shard.weight for shard in catalog),
            largest=largest or 0,
            fewest_in_a_shard=min(counts, default=0),
            most_in_a_shard=max(counts, default=0),
        )

    def _catalog(self, connection: Connection) -> list[ShardSummary]:
        counted = select(_TENANT.c.shard, func.count(), func.sum(_TENANT.c.size)).group_by(
            _TENANT.c.shard
        )
        loads = {shard: (count, int(size)) for shard, count, size in connection.execute(counted)}
        shards = connection.execute(select(_SHARD.c.id, _SHARD.c.release))
        releases = {row.id: row.release for row in shards}
        return [
            ShardSummary(
                shard=shard,
                region=self._region,
                tenants=loads.get(shard, (0, 0))[0],
                weight=loads.get(shard, (0, 0))[1],
                release=releases[shard],
            )
            for shard in sorted(releases)
        ]

    def list(
        self,
        *,
        shard: str | None = None,
        zone: str | None = None,
        state: TenantState | None = None,
        prefix: str = "",
        after: str | None = None,
        limit: int = 100,
    ) -> TenantPage:
        """Tenants that match all that is given, in order of their ids.

        Args:
            prefix: what the id begins with, taken literally.
            after: `TenantPage.after` of the page before.

        Raises:
            FleetError: names the argument.
        """
        if not 1 <= limit <= LARGEST_PAGE:
            raise FleetError("limit", f"must be from 1 to {LARGEST_PAGE}, not {limit}")
        if not re.fullmatch(r"[a-z0-9-]{0,63}", prefix):
            raise FleetError("prefix", f"{prefix!r} begins no tenant id")
        query = select(_TENANT).order_by(_TENANT.c.id).limit(limit + 1)
        for column, value in ((_TENANT.c.shard, shard), (_TENANT.c.zone, zone)):
            if value is not None:
                query = query.where(column == value)
        if state is not None:
            query = query.where(_TENANT.c.state == state.value)
        if prefix:
            query = query.where(_TENANT.c.id.startswith(prefix, autoescape=True))
        if after is not None:
            query = query.where(_TENANT.c.id > after)
        with read(self._engine) as connection:
            found = [tenant_of(row) for row in connection.execute(query).mappings()]
        more = len(found) > limit
        return TenantPage(found[:limit], found[limit - 1].id if more else None)


def find_tenant(connection: Connection, tenant: str) -> Tenant | None:
    """The tenant as the caller's transaction sees it."""
    row = connection.execute(select(_TENANT).where(_TENANT.c.id == tenant)).mappings().first()
    return None if row is None else tenant_of(row)


def tenant_of(row: RowMapping) -> Tenant:
    """A row of the table ``tenant`` as plain data."""
    return Tenant(
        id=row["id"],
        shard=row["shard"],
        region=row["region"],
        zone=row["zone"],
        size=row["size"],
        state=TenantState(row["state"]),
        created_at=as_utc(row["created_at"]),
    )
