"""A region's primary: seeing that it is there, and ending a process when another one takes over."""

import logging
import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path

from models.addresses import RegionAddresses
from stores.changelog import NotProtected, identity
from stores.pointer import PointerError
from stores.sql import open_engine
from workers.settings import SettingsError, primary_pointer

EVERY_S = 1.0

log = logging.getLogger("chainring")


def end_when_primary_changes(regions: Iterable[str]) -> None:
    """Have this process told to stop, as by its supervisor, when a restore was published."""
    began = {region: _epoch(region) for region in regions}

    def watch() -> None:
        pause = threading.Event()
        while not pause.wait(EVERY_S):
            for region, epoch in began.items():
                if _epoch(region) > epoch:
                    log.warning("region %s has another primary: starting again on it", region)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    threading.Thread(target=watch, name="primary-watch", daemon=True).start()


def require_primary(addresses: RegionAddresses) -> None:
    """See that the region's database is the store that it should be.

    Raises:
        SettingsError: it is gone, or another one: writing there would hide what was lost.
        StoreUnavailable: it does not answer.
    """
    primary = primary_pointer(addresses.region).read()
    if primary is None:
        return
    lost = f"region {addresses.region}: its store {primary.store[:12]} is "
    advice = f"; restore it (`chainring restore start {addresses.region}`)"
    if primary.database.startswith("sqlite:///"):
        path = Path(primary.database.removeprefix("sqlite:///"))
        if not path.exists():
            raise SettingsError(f"{lost}not at {path}{advice}")
    engine = open_engine(primary.database)
    try:
        found = identity(engine, addresses.region)
    except NotProtected as error:
        raise SettingsError(f"{lost}gone: {error}{advice}") from None
    finally:
        engine.dispose()
    if found.id != primary.store:
        raise SettingsError(f"{lost}gone: store {found.id[:12]} is in its place{advice}")


def _epoch(region: str) -> int:
    """The primary's epoch; 1 as long as nobody pointed at another one than the first."""
    try:
        found = primary_pointer(region).read()
    except PointerError:
        return 1
    return 1 if found is None else found.epoch
