"""`chainring fleet`: lay the fleet out, and look at it region by region."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from models.ids import short
from models.seeding import FleetLayout
from stores.seeding import Seeded
from stores.sql import StoreUnavailable
from workers.cli.output import (
    OK,
    UNREACHABLE,
    console,
    emit_json,
    emit_table,
)
from workers.cli.regional import open_region, refusals, wanted_regions

app = typer.Typer(help="The fleet: regions, shards and what they run.", no_args_is_help=True)

JsonOpt = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


@app.command()
def seed(
    tenants: Annotated[int, typer.Option(help="Tenants in the whole fleet.")] = 10_000,
    shards: Annotated[int, typer.Option(help="Shards in the whole fleet.")] = 100,
    actor: Annotated[str, typer.Option(help="Who does this, for the receipts.")] = "operator",
    as_json: JsonOpt = False,
) -> None:
    """Create shards and tenants in all regions. Doing it again changes nothing.

    Example: chainring fleet seed --tenants 10000 --shards 100
    """
    with refusals():
        regions = wanted_regions(None)
        layout = FleetLayout(tenants, shards, regions)
        stores = [open_region(region).fleet for region in regions]
        for store in stores:  # all of them agree before the first is changed
            store.check_seed(layout)
        seeded = [store.seed(layout, actor=actor) for store in stores]
    if as_json:
        emit_json([asdict(region) for region in seeded])
    else:
        emit_table(
            ["region", "shards", "tenants", "digest", ""], [_seeded_row(one) for one in seeded]
        )


@app.command()
def show(
    region: Annotated[str | None, typer.Option(help="Only this region.")] = None,
    shards: Annotated[bool, typer.Option("--shards", help="Each shard in a row.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Show each region's shards, releases and generation. Exit code 3 if one does not answer.

    Example: chainring fleet show --region eu --shards
    """
    with refusals():
        found = [_describe(one) for one in wanted_regions(region)]
    if as_json:
        emit_json(found)
    else:
        _print_regions(found)
        if shards:
            _print_shards(found)
    raise typer.Exit(UNREACHABLE if any(one["problem"] for one in found) else OK)


def _seeded_row(seeded: Seeded) -> tuple[object, ...]:
    note = "was there already" if seeded.replayed else "created"
    return seeded.region, seeded.shards, seeded.tenants, seeded.digest[:12], note


def _describe(region: str) -> dict[str, Any]:
    try:
        stores = open_region(region)
        catalog = {shard.shard: shard for shard in stores.fleet.catalog()}
        return {
            "region": region,
            "problem": None,
            "generation": stores.shards.generation(),
            "epoch": stores.shards.epoch(),
            "tenants": sum(shard.tenants for shard in catalog.values()),
            "releases": stores.shards.active_releases(),
            "shards": [
                {
                    **asdict(shard),
                    "tenants": catalog[shard.id].tenants,
                    "weight": catalog[shard.id].weight,
                }
                for shard in stores.shards.shards()
            ],
        }
    except StoreUnavailable as error:
        return {"region": region, "problem": str(error), "shards": [], "releases": {}}


def _print_regions(found: list[dict[str, Any]]) -> None:
    rows = [
        (
            one["region"],
            len(one["shards"]),
            one.get("tenants", ""),
            ", ".join(f"{short(digest)} on {count}" for digest, count in one["releases"].items())
            or "-",
            one.get("generation", ""),
            one.get("epoch", ""),
        )
        for one in found
    ]
    emit_table(["region", "shards", "tenants", "releases", "generation", "epoch"], rows)
    for one in found:
        if one["problem"]:
            console.print(f"{one['region']}: {one['problem']}", style="red", markup=False)


def _print_shards(found: list[dict[str, Any]]) -> None:
    rows = [
        (
            shard["id"],
            shard["zone"],
            shard["tenants"],
            shard["weight"],
            "-" if shard["release"] is None else short(shard["release"]),
            shard["epoch"],
            "rolling" if shard["rolling"] else "",
        )
        for one in found
        for shard in one["shards"]
    ]
    emit_table(["shard", "zone", "tenants", "size", "release", "epoch", ""], rows)
