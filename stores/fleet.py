"""The tenant manager of one region: who the tenants are, and in which shard they live.

Every change is one transaction with its receipt and a new generation of the routes. A change
carries the idempotency key of the request it comes from: asked again under the same key, what the
receipt recorded is returned. A change that is so already (suspending the suspended) does nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pydantic import JsonValue
from sqlalchemy import Connection, Engine, RowMapping, func, insert, select, update

from models.fleet import FleetError, Tenant, TenantState
from models.ids import ACTOR_PATTERN, is_tenant_id
from models.receipts import Draft, StoredReceipt
from models.seeding import FleetLayout
from models.tables_fleet import ShardRow, TenantRow
from stores.fleet_reader import FleetReader, find_tenant
from stores.ledger import IdempotencyConflict, Ledger
from stores.region_state import bump_generation
from stores.seeding import Seeded, Seeder
from stores.sql import table, write

CREATED = "tenant.created"
SUSPENDED = "tenant.suspended"
RESUMED = "tenant.resumed"
MOVED = "tenant.moved"

LARGEST_SIZE = 2**31 - 1

_SHARD = table(ShardRow)
_TENANT = table(TenantRow)

_Changer = Callable[[Connection], tuple[Tenant, bool]]


@dataclass(frozen=True)
class Asked:
    """Who asks for a change, why, and the key that tells a repeated request from a new one."""

    actor: str
    key: str
    reason: str = ""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class FleetStore(FleetReader):
    """The tenants of one region, in that region's database and ledger.

    Every change raises `FleetError` naming the field that is wrong, `IdempotencyConflict` for a
    key that was used for another change, and `StoreUnavailable`. Whatever is raised, nothing was
    changed.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        region: str,
        *,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        super().__init__(engine, region)
        self._ledger = ledger
        self._clock = clock
        self._seeder = Seeder(engine, ledger, region, clock)

    def check_seed(self, layout: FleetLayout) -> Seeded | None:
        """What `seed` would find: the same fleet, or nothing; raises for another fleet."""
        return self._seeder.check(layout)

    def seed(self, layout: FleetLayout, *, actor: str) -> Seeded:
        """Write this region's part of a whole fleet; seeding the same again changes nothing."""
        _check_actor(actor)
        return self._seeder.seed(layout, actor)

    def create_tenant(
        self, tenant: str, asked: Asked, *, shard: str | None = None, size: int = 1
    ) -> Tenant:
        """Add a tenant, in the region's least loaded shard when none is named.

        The least loaded shard is the one with the smallest sum of sizes, then the fewest tenants.
        """
        if not 1 <= size <= LARGEST_SIZE:
            raise FleetError("size", f"must be from 1 to {LARGEST_SIZE}, not {size}")

        def create(connection: Connection) -> tuple[Tenant, bool]:
            if (there := find_tenant(connection, tenant)) is not None:
                raise FleetError("tenant", f"{tenant} exists already, in shard {there.shard}")
            home = self._shard(connection, shard or self._least_loaded(connection))
            made = Tenant(
                id=tenant,
                shard=home["id"],
                region=self._region,
                zone=home["zone"],
                size=size,
                state=TenantState.ACTIVE,
                created_at=self._clock(),
            )
            connection.execute(insert(_TENANT), {**vars(made), "state": made.state.value})
            return made, True

        wanted: dict[str, object] = {"size": size}
        if shard is not None:
            wanted["shard"] = shard
        return self._change(CREATED, tenant, asked, create, wanted)

    def suspend(self, tenant: str, asked: Asked) -> Tenant:
        """Let the gateway refuse the tenant's requests; its data stays."""
        return self._set_state(SUSPENDED, tenant, asked, TenantState.SUSPENDED)

    def resume(self, tenant: str, asked: Asked) -> Tenant:
        """Serve a suspended tenant again."""
        return self._set_state(RESUMED, tenant, asked, TenantState.ACTIVE)

    def move(self, tenant: str, asked: Asked, *, to: str) -> Tenant:
        """Move a tenant to another shard of the region, unless either of the two is rolling."""

        def move(connection: Connection) -> tuple[Tenant, bool]:
            before = self._existing(connection, tenant)
            source, target = self._shard(connection, before.shard), self._shard(connection, to)
            if before.shard == to:
                return before, False
            for shard in (source, target):
                if shard["rolling"]:
                    message = f"{shard['id']} is rolling; move {tenant} when it is done"
                    raise FleetError("shard", message)
            after = replace(before, shard=to, zone=target["zone"])
            _update(connection, tenant, shard=after.shard, zone=after.zone)
            return after, True

        return self._change(MOVED, tenant, asked, move, {"shard": to})

    def _set_state(self, kind: str, tenant: str, asked: Asked, state: TenantState) -> Tenant:
        def set_state(connection: Connection) -> tuple[Tenant, bool]:
            before = self._existing(connection, tenant)
            if before.state is state:
                return before, False
            _update(connection, tenant, state=state.value)
            return replace(before, state=state), True

        return self._change(kind, tenant, asked, set_state, {"state": state})

    def _change(
        self, kind: str, tenant: str, asked: Asked, change: _Changer, wanted: dict[str, object]
    ) -> Tenant:
        """Run ``change`` in one transaction with its receipt and the next generation.

        ``wanted`` is what the request says of the outcome: a receipt under the same key that
        says something else comes from another request.
        """
        if not is_tenant_id(tenant):
            raise FleetError("tenant", f"{tenant!r} is not a tenant id (one DNS label, lower case)")
        _check_asked(asked)
        with write(self._engine) as connection:
            stored = self._ledger.find(asked.key, connection=connection)
            if stored is not None:
                return _recorded(stored, kind, tenant, wanted)
            after, changed = change(connection)
            if changed:
                generation = bump_generation(connection, self._region, tenants=True)
                draft = _draft(kind, after, asked, generation)
                self._ledger.append([draft], connection=connection)
            return after

    def _existing(self, connection: Connection, tenant: str) -> Tenant:
        found = find_tenant(connection, tenant)
        if found is None:
            raise FleetError("tenant", f"region {self._region} has no tenant {tenant}")
        return found

    def _shard(self, connection: Connection, shard: str) -> RowMapping:
        found = select(_SHARD).where(_SHARD.c.id == shard)
        row = connection.execute(found).mappings().first()
        if row is None:
            raise FleetError("shard", f"{shard!r} is not a shard of region {self._region}")
        return row

    def _least_loaded(self, connection: Connection) -> str:
        loads = (
            select(_SHARD.c.id)
            .join(_TENANT, _TENANT.c.shard == _SHARD.c.id, isouter=True)
            .group_by(_SHARD.c.id)
            .order_by(
                func.coalesce(func.sum(_TENANT.c.size), 0), func.count(_TENANT.c.id), _SHARD.c.id
            )
        )
        shard = connection.execute(loads.limit(1)).scalar()
        if shard is None:
            raise FleetError("shard", f"region {self._region} has none; seed the fleet first")
        return str(shard)


def _update(connection: Connection, tenant: str, **values: str) -> None:
    connection.execute(update(_TENANT).where(_TENANT.c.id == tenant).values(**values))


def _draft(kind: str, tenant: Tenant, asked: Asked, generation: int) -> Draft:
    body: dict[str, JsonValue] = {
        **vars(tenant),
        "state": tenant.state.value,
        "created_at": tenant.created_at.isoformat(),
        "generation": generation,
        "reason": asked.reason,
    }
    return Draft(
        kind=kind, actor=asked.actor, subject=tenant.id, idempotency_key=asked.key, body=body
    )


def _recorded(stored: StoredReceipt, kind: str, tenant: str, wanted: dict[str, object]) -> Tenant:
    """The tenant as it was after the change that wrote the receipt."""
    receipt = stored.receipt
    if (stored.kind, receipt.subject) == (kind, tenant):
        after = _from_body(receipt.body)
        if wanted.items() <= vars(after).items():
            return after
    raise IdempotencyConflict(
        f"idempotency_key: {receipt.idempotency_key!r} was used for another change, "
        f"receipt {stored.seq}"
    )


def _from_body(body: dict[str, JsonValue]) -> Tenant:
    return Tenant(
        id=str(body["id"]),
        shard=str(body["shard"]),
        region=str(body["region"]),
        zone=str(body["zone"]),
        size=int(str(body["size"])),
        state=TenantState(str(body["state"])),
        created_at=datetime.fromisoformat(str(body["created_at"])),
    )


def _check_asked(asked: Asked) -> None:
    _check_actor(asked.actor)
    if not 1 <= len(asked.key) <= 512 or not asked.key.isprintable():
        raise FleetError("idempotency_key", "must be 1 to 512 printable characters")
    if len(asked.reason) > 500 or not asked.reason.isprintable():
        raise FleetError("reason", "must be at most 500 printable characters")


def _check_actor(actor: str) -> None:
    if not re.fullmatch(ACTOR_PATTERN, actor) or actor.endswith("\n"):
        raise FleetError("actor", f"{actor!r} is not a name of an actor")
