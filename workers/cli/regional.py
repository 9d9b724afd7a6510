"""Open the regions' stores for a command, and say what is wrong in one line when they refuse."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from models.fleet import FleetError
from stores.fleet import FleetStore
from stores.ledger import Ledger, LedgerError
from stores.shards import ShardStore
from stores.sql import StoreUnavailable, create_all, engine_for
from workers.cli.output import UNREACHABLE, USAGE, fail
from workers.settings import SettingsError, known_regions, load_region


@dataclass(frozen=True)
class RegionStores:
    """What a command may do in one region."""

    region: str
    fleet: FleetStore
    shards: ShardStore


def open_region(region: str) -> RegionStores:
    """The stores of one region of this home; raises `SettingsError` and `StoreUnavailable`."""
    engine = engine_for(load_region(region).database)
    create_all(engine)
    ledger = Ledger(engine, region)
    return RegionStores(
        region, FleetStore(engine, ledger, region), ShardStore(engine, ledger, region)
    )


def wanted_regions(region: str | None) -> list[str]:
    """The one region that was named, or all of this home.

    Raises:
        FleetError: the home has no such region, or none at all.
    """
    known = known_regions()
    if region is not None and region not in known:
        raise FleetError("region", f"{region!r} is not one of: {', '.join(known) or 'none'}")
    if not known:
        raise SettingsError("this home has no regions: is the stack set up? (`chainring up`)")
    return known if region is None else [region]


@contextmanager
def refusals() -> Iterator[None]:
    """End the command with one line and the right exit code when a store refuses."""
    try:
        yield
    except (FleetError, LedgerError) as error:
        fail(str(error), USAGE)
    except (SettingsError, StoreUnavailable) as error:
        fail(str(error), UNREACHABLE)
