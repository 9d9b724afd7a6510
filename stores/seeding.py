"""Seed a region's part of a whole fleet: streamed, in bulk, once, with one receipt.

SQLite takes batches of prepared rows, PostgreSQL a binary COPY; either way at most one batch is in
memory, and rows and receipt commit together or not at all.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from models.fleet import FleetError, TenantState
from models.receipts import Draft
from models.seeding import FleetLayout, SeedTenant
from models.tables_fleet import ShardRow, TenantRow
from stores.bulk import insert_rows
from stores.ledger import Ledger
from stores.region_state import bump_generation, region_state
from stores.sql import read, table, write

SEEDED = "fleet.seeded"

_SHARD = table(ShardRow)
_TENANT = table(TenantRow)
_SHARD_COLUMNS = ("id", "region", "zone", "release", "epoch", "rolling")
_TENANT_COLUMNS = ("id", "shard", "region", "zone", "size", "state", "created_at")


@dataclass(frozen=True)
class Seeded:
    """What a region holds since it was seeded.

    ``digest`` is SHA-256 over one line for each tenant, in order: id, shard, zone and size with
    commas between them. ``replayed``: it was seeded before, and nothing was changed now.
    """

    region: str
    shards: int
    tenants: int
    digest: str
    replayed: bool


class Seeder:
    """Seeds one region's database."""

    def __init__(
        self, engine: Engine, ledger: Ledger, region: str, clock: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._region = region
        self._clock = clock
        self._key = f"{SEEDED}/{region}"

    def check(self, layout: FleetLayout) -> Seeded | None:
        """What was seeded before, if it was the same; None when the region is empty.

        Raises:
            FleetError: the region holds another fleet; names what differs.
        """
        with read(self._engine) as connection:
            return self._before(connection, layout)

    def seed(self, layout: FleetLayout, actor: str) -> Seeded:
        """Write the region's shards and tenants, unless they are there already.

        Raises:
            FleetError: the region holds another fleet; nothing was changed.
            StoreUnavailable: nothing was changed.
        """
        digest = hashlib.sha256()
        with write(self._engine) as connection:
            if (before := self._before(connection, layout)) is not None:
                return before
            shards = insert_rows(connection, _SHARD, _SHARD_COLUMNS, self._shard_rows(layout))
            now = _stored_time(connection, self._clock())
            rows = self._tenant_rows(layout, now, digest.update)
            tenants = insert_rows(connection, _TENANT, _TENANT_COLUMNS, rows)
            seeded = Seeded(self._region, shards, tenants, digest.hexdigest(), replayed=False)
            generation = bump_generation(connection, self._region, tenants=True)
            draft = self._draft(layout, seeded, generation, actor)
            self._ledger.append([draft], connection=connection)
        return seeded

    def _before(self, connection: Connection, layout: FleetLayout) -> Seeded | None:
        if self._region not in layout.regions:
            raise FleetError("regions", f"{self._region} is not among them")
        receipt = self._ledger.find(self._key, connection=connection)
        if receipt is not None:
            return self._same(layout, receipt.receipt.body)
        self._check_empty(connection)
        return None

    def _check_empty(self, connection: Connection) -> None:
        region_state(connection, self._region)
        for field, rows in (("shards", _SHARD), ("tenants", _TENANT)):
            count = connection.execute(select(func.count()).select_from(rows)).scalar_one()
            if count:
                raise FleetError(field, f"region {self._region} has {count} already")

    def _same(self, layout: FleetLayout, body: dict[str, Any]) -> Seeded:
        asked = {
            "tenants": layout.tenants,
            "shards": layout.shards,
            "regions": list(layout.regions),
        }
        for field, value in asked.items():
            if body[field] != value:
                raise FleetError(field, f"the fleet was seeded with {body[field]}, not {value}")
        counts = body["region_shards"], body["region_tenants"]
        return Seeded(self._region, *counts, body["digest"], replayed=True)

    def _shard_rows(self, layout: FleetLayout) -> Iterator[tuple[Any, ...]]:
        for shard in layout.shards_of(self._region):
            yield (shard.id, self._region, shard.zone, None, 0, False)

    def _tenant_rows(
        self, layout: FleetLayout, now: object, digest: Callable[[bytes], None]
    ) -> Iterator[tuple[Any, ...]]:
        state = TenantState.ACTIVE.value
        for tenant in layout.tenants_of(self._region):
            digest(_line(tenant))
            yield (tenant.id, tenant.shard, self._region, tenant.zone, tenant.size, state, now)

    def _draft(self, layout: FleetLayout, seeded: Seeded, generation: int, actor: str) -> Draft:
        return Draft(
            kind=SEEDED,
            actor=actor,
            subject=self._region,
            idempotency_key=self._key,
            body={
                "tenants": layout.tenants,
                "shards": layout.shards,
                "regions": list(layout.regions),
                "region_shards": seeded.shards,
                "region_tenants": seeded.tenants,
                "digest": seeded.digest,
                "generation": generation,
            },
        )


def _line(tenant: SeedTenant) -> bytes:
    return f"{tenant.id},{tenant.shard},{tenant.zone},{tenant.size}\n".encode()


def _stored_time(connection: Connection, at: datetime) -> object:
    """A time as the driver takes it, once for all rows."""
    kind = _TENANT.c.created_at.type.dialect_impl(connection.dialect)
    convert = kind.bind_processor(connection.dialect)
    utc = at.astimezone(UTC)
    return utc if convert is None else convert(utc)
