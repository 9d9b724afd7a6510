"""`chainring tenants`: the tenant manager."""

import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from models.fleet import FleetError, Tenant, TenantState
from stores.fleet import Asked, FleetStore
from workers.cli.output import NEGATIVE, emit_json, emit_table, fail
from workers.cli.regional import open_region, refusals, wanted_regions

app = typer.Typer(
    help="Tenants: create, suspend, resume, move, find and count.", no_args_is_help=True
)

TenantArg = Annotated[str, typer.Argument(help="Tenant id.")]
RegionOpt = Annotated[
    str | None, typer.Option(help="The tenant's region; all are searched without it.")
]
ActorOpt = Annotated[str, typer.Option(help="Who does this, for the receipt.")]
ReasonOpt = Annotated[str, typer.Option(help="Why, for the receipt.")]
KeyOpt = Annotated[
    str, typer.Option(help="Idempotency key: repeated with the same key, nothing happens again.")
]
JsonOpt = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]

_COLUMNS = ["tenant", "region", "shard", "zone", "size", "state", "created"]


@app.command()
def create(
    tenant: TenantArg,
    region: Annotated[str, typer.Option(help="Where the tenant lives.")],
    shard: Annotated[str | None, typer.Option(help="Default: the least loaded.")] = None,
    size: Annotated[int, typer.Option(help="Weight, 1 is the smallest.")] = 1,
    actor: ActorOpt = "operator",
    reason: ReasonOpt = "",
    key: KeyOpt = "",
    as_json: JsonOpt = False,
) -> None:
    """Add a tenant to a region.

    Example: chainring tenants create acme --region eu --size 40
    """
    with refusals():
        wanted_regions(region)
        asked = _asked(actor, reason, key)
        made = open_region(region).fleet.create_tenant(tenant, asked, shard=shard, size=size)
    _emit(made, as_json)


@app.command()
def suspend(
    tenant: TenantArg,
    region: RegionOpt = None,
    actor: ActorOpt = "operator",
    reason: ReasonOpt = "",
    key: KeyOpt = "",
    as_json: JsonOpt = False,
) -> None:
    """Refuse a tenant's requests from now on; its data stays.

    Example: chainring tenants suspend acme --reason "unpaid"
    """
    asked = _asked(actor, reason, key)
    _change(tenant, region, as_json, lambda store: store.suspend(tenant, asked))


@app.command()
def resume(
    tenant: TenantArg,
    region: RegionOpt = None,
    actor: ActorOpt = "operator",
    reason: ReasonOpt = "",
    key: KeyOpt = "",
    as_json: JsonOpt = False,
) -> None:
    """Serve a suspended tenant again.

    Example: chainring tenants resume acme
    """
    asked = _asked(actor, reason, key)
    _change(tenant, region, as_json, lambda store: store.resume(tenant, asked))


@app.command()
def move(
    tenant: TenantArg,
    to: Annotated[str, typer.Option(help="Shard of the same region.")],
    region: RegionOpt = None,
    actor: ActorOpt = "operator",
    reason: ReasonOpt = "",
    key: KeyOpt = "",
    as_json: JsonOpt = False,
) -> None:
    """Move a tenant to another shard; refused while either of the two is rolling.

    Example: chainring tenants move acme --to eu-003
    """
    asked = _asked(actor, reason, key)
    _change(tenant, region, as_json, lambda store: store.move(tenant, asked, to=to))


@app.command("list")
def list_tenants(
    region: Annotated[str, typer.Option(help="Region to list.")],
    shard: Annotated[str | None, typer.Option(help="Only this shard.")] = None,
    zone: Annotated[str | None, typer.Option(help="Only this zone.")] = None,
    state: Annotated[TenantState | None, typer.Option(help="Only this state.")] = None,
    prefix: Annotated[str, typer.Option(help="Only ids that begin so.")] = "",
    after: Annotated[str | None, typer.Option(help="Go on after this id.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, up to 1000.")] = 100,
    as_json: JsonOpt = False,
) -> None:
    """List a region's tenants, a page at a time.

    Example: chainring tenants list --region eu --state suspended
    """
    with refusals():
        wanted_regions(region)
        page = open_region(region).fleet.list(
            shard=shard, zone=zone, state=state, prefix=prefix, after=after, limit=limit
        )
    if as_json:
        emit_json({"tenants": [asdict(one) for one in page.tenants], "after": page.after})
        return
    more = f"more: --after {page.after}" if page.after else ""
    emit_table(_COLUMNS, [_row(one) for one in page.tenants], title=more)


@app.command()
def find(tenant: TenantArg, region: RegionOpt = None, as_json: JsonOpt = False) -> None:
    """Say where a tenant lives. Exit code 1 when there is none of that name.

    Example: chainring tenants find t-000042
    """
    with refusals():
        found = [one for _, one in _search(tenant, region)]
    if not found:
        fail(f"tenant: {tenant!r} is in no region that was searched", NEGATIVE)
    if as_json:
        emit_json([asdict(one) for one in found])
    else:
        emit_table(_COLUMNS, [_row(one) for one in found])


@app.command()
def stats(
    region: Annotated[str | None, typer.Option(help="Only this region.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Count tenants and sizes, region by region.

    Example: chainring tenants stats --json
    """
    with refusals():
        counted = [open_region(one).fleet.stats() for one in wanted_regions(region)]
    if as_json:
        emit_json([asdict(one) for one in counted])
        return
    columns = ["region", "shards", "tenants", "suspended", "size", "largest", "tenants in a shard"]
    rows = [
        (
            one.region,
            one.shards,
            one.tenants,
            one.suspended,
            one.size,
            one.largest,
            f"{one.fewest_in_a_shard} to {one.most_in_a_shard}",
        )
        for one in counted
    ]
    emit_table(columns, rows)


def _asked(actor: str, reason: str, key: str) -> Asked:
    return Asked(actor=actor, reason=reason, key=key or f"cli/{uuid.uuid4()}")


def _search(tenant: str, region: str | None) -> list[tuple[FleetStore, Tenant]]:
    """Every region's tenant of that name, with the store that has it."""
    stores = [open_region(one).fleet for one in wanted_regions(region)]
    found = [(store, store.find(tenant)) for store in stores]
    return [(store, one) for store, one in found if one is not None]


def _change(
    tenant: str, region: str | None, as_json: bool, change: Callable[[FleetStore], Tenant]
) -> None:
    with refusals():
        found = _search(tenant, region)
        if not found:
            raise FleetError("tenant", f"{tenant!r} is in no region that was searched")
        if len(found) > 1:
            regions = ", ".join(one.region for _, one in found)
            raise FleetError("region", f"{tenant} is in several, name one: {regions}")
        changed = change(found[0][0])
    _emit(changed, as_json)


def _emit(tenant: Tenant, as_json: bool) -> None:
    if as_json:
        emit_json(asdict(tenant))
    else:
        emit_table(_COLUMNS, [_row(tenant)])


def _row(tenant: Tenant) -> tuple[object, ...]:
    return (
        tenant.id,
        tenant.region,
        tenant.shard,
        tenant.zone,
        tenant.size,
        tenant.state.value,
        f"{tenant.created_at:%Y-%m-%d %H:%M:%S}Z",
    )
