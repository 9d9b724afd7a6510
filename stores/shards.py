"""Which release each shard of a region runs: changed behind a fence, one receipt for each change.

An activation is one transaction: the fence is checked, the shard's release is set, the region's
generation counts on, and the receipt that tells it all is appended. Whoever has the receipts can
rebuild the history of every shard from them alone.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError
from sqlalchemy import Connection, Engine, bindparam, func, select, update

from models.contracts import ShardActivation
from models.fleet import FleetError, RouteTable, Shard, ShardRoute, TenantState
from models.ids import Digest
from models.receipts import Draft
from models.tables_fleet import ShardRow, TenantRow
from stores.ledger import IdempotencyConflict, Ledger
from stores.region_state import StaleEpoch, accept_epoch, as_utc, bump_generation, region_state
from stores.sql import read, table, write

__all__ = ["ACTIVATED", "ShardStore", "StaleEpoch"]

ACTIVATED = "shard.activated"

_SHARD = table(ShardRow)
_TENANT = table(TenantRow)
_DIGEST: TypeAdapter[str] = TypeAdapter(Digest)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class ShardStore:
    """The shards of one region, in that region's database and ledger."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        region: str,
        *,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._region = region
        self._clock = clock
        self._placed: _Placed | None = None

    def activate(
        self, *, shard: str, release: str, epoch: int, draft: Draft
    ) -> tuple[ShardActivation, int]:
        """Let ``shard`` run ``release`` from now on, if ``epoch`` is not superseded.

        Args:
            draft: who asks, in which workflow, under which idempotency key. Kind, subject and the
                facts in the body are set here; what else the body holds is kept beside them.

        Returns:
            The activation and the first generation of the routes that contains it. Asked again
            under the same idempotency key, the recorded ones, and nothing is changed.

        Raises:
            StaleEpoch: a higher epoch was accepted, for the shard or the region.
            IdempotencyConflict: the key was used for something else.
            FleetError: no such shard, or not a digest.
            StoreUnavailable: nothing was changed.
        """
        _check_release(release)
        with write(self._engine) as connection:
            recorded = self._recorded(connection, draft.idempotency_key, shard, release)
            return recorded or self._activate(connection, shard, release, epoch, draft)

    def raise_epoch(self, epoch: int) -> None:
        """From now on accept nothing below ``epoch``, in the whole region.

        Raises:
            StaleEpoch: a higher one was accepted already.
        """
        with write(self._engine) as connection:
            accept_epoch(connection, self._region, epoch)

    def mark(self, shards: Sequence[str], rolling: bool) -> None:
        """Say whether the shards are being changed; a rolling shard's tenants cannot be moved.

        Raises:
            FleetError: no such shard; none was marked.
        """
        if not shards:
            return
        statement = update(_SHARD).where(_SHARD.c.id == bindparam("shard")).values(rolling=rolling)
        with write(self._engine) as connection:
            known = set(connection.execute(select(_SHARD.c.id)).scalars())
            for shard in shards:
                if shard not in known:
                    raise _no_such_shard(shard, self._region)
            connection.execute(statement, [{"shard": shard} for shard in shards])

    def routes(self) -> RouteTable:
        """What the gateway routes, as of one instant."""
        with read(self._engine) as connection:
            state = region_state(connection, self._region)
            shards = connection.execute(select(_SHARD.c.id, _SHARD.c.release)).all()
            placed = self._placed
            if placed is None or placed.placement != state.placement:
                placed = self._placed = _placed(connection, state.placement)
        return RouteTable(
            generation=state.generation,
            shards=[
                ShardRoute(shard, release, placed.active.get(shard, []))
                for shard, release in sorted(tuple(row) for row in shards)
            ],
            suspended=placed.suspended,
        )

    def generation(self) -> int:
        """The number of changes of the routes so far."""
        with read(self._engine) as connection:
            return region_state(connection, self._region).generation

    def epoch(self) -> int:
        """The highest fencing epoch that the region has accepted."""
        with read(self._engine) as connection:
            return region_state(connection, self._region).epoch

    def shards(self) -> list[Shard]:
        """All shards, sorted by id."""
        with read(self._engine) as connection:
            rows = connection.execute(select(_SHARD)).mappings().all()
        return sorted((_shard(dict(row)) for row in rows), key=lambda shard: shard.id)

    def active_releases(self) -> dict[str, int]:
        """How many shards run each release; shards that run none are not counted."""
        counted = (
            select(_SHARD.c.release, func.count().label("shards"))
            .where(_SHARD.c.release.is_not(None))
            .group_by(_SHARD.c.release)
        )
        with read(self._engine) as connection:
            return {row.release: row.shards for row in connection.execute(counted)}

    def last_good(self, shard: str, known_bad: Collection[str]) -> str | None:
        """The newest release that the shard ran and that is not known to be bad.

        Read from the receipts alone, newest first; None when there is none.
        """
        for stored in self._ledger.history(kind=ACTIVATED, subject=shard):
            release = str(stored.receipt.body["release"])
            if release not in known_bad:
                return release
        return None

    def _activate(
        self, connection: Connection, shard: str, release: str, epoch: int, draft: Draft
    ) -> tuple[ShardActivation, int]:
        row = self._find(connection, shard)
        if epoch < row.epoch:
            raise StaleEpoch(f"shard {shard}", epoch, row.epoch)
        accept_epoch(connection, self._region, epoch)
        generation = bump_generation(connection, self._region, tenants=False)
        facts: dict[str, JsonValue] = {
            "shard": shard,
            "previous": row.release,
            "release": release,
            "epoch": epoch,
            "generation": generation,
        }
        told = {"kind": ACTIVATED, "subject": shard, "body": {**draft.body, **facts}}
        receipt = Draft.model_validate({**draft.model_dump(), **told})
        [appended] = self._ledger.append([receipt], connection=connection)
        changed = {"release": release, "epoch": epoch, "activated_at": self._clock()}
        connection.execute(update(_SHARD).where(_SHARD.c.id == shard).values(**changed))
        activation = ShardActivation(
            shard=shard, previous=row.release, release=release, seq=appended.seq
        )
        return activation, generation

    def _find(self, connection: Connection, shard: str) -> Shard:
        found = connection.execute(select(_SHARD).where(_SHARD.c.id == shard)).mappings().first()
        if found is None:
            raise _no_such_shard(shard, self._region)
        return _shard(dict(found))

    def _recorded(
        self, connection: Connection, key: str, shard: str, release: str
    ) -> tuple[ShardActivation, int] | None:
        """What was done under ``key``, if anything."""
        stored = self._ledger.find(key, connection=connection)
        if stored is None:
            return None
        body = stored.receipt.body
        if stored.kind != ACTIVATED or (body["shard"], body["release"]) != (shard, release):
            raise IdempotencyConflict(
                f"idempotency_key: {key!r} was used for another change, receipt {stored.seq}"
            )
        previous, generation = body["previous"], body["generation"]
        assert isinstance(previous, str | None) and isinstance(generation, int)
        activation = ShardActivation(
            shard=shard, previous=previous, release=release, seq=stored.seq
        )
        return activation, generation


@dataclass(frozen=True)
class _Placed:
    """Where tenants are; kept between activations, which move no tenant."""

    placement: int
    active: dict[str, list[str]]
    suspended: list[str]


def _placed(connection: Connection, placement: int) -> _Placed:
    active: dict[str, list[str]] = {}
    suspended: list[str] = []
    tenants = select(_TENANT.c.shard, _TENANT.c.id, _TENANT.c.state).order_by(_TENANT.c.id)
    for shard, tenant, state in connection.execute(tenants):
        if state == TenantState.SUSPENDED:
            suspended.append(tenant)
        else:
            active.setdefault(shard, []).append(tenant)
    return _Placed(placement, active, suspended)


def _shard(row: dict[str, Any]) -> Shard:
    at = row.pop("activated_at")
    return Shard(**row, activated_at=None if at is None else as_utc(at))


def _check_release(release: str) -> None:
    try:
        _DIGEST.validate_python(release)
    except ValidationError:
        raise FleetError("release", f"{release!r} is not a digest (sha256:...)") from None


def _no_such_shard(shard: str, region: str) -> FleetError:
    return FleetError("shard", f"{shard} is not a shard of region {region}")
