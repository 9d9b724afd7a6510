"""Where a process finds its configuration: ``$CHAINRING_HOME`` and the files below it."""

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from models.addresses import AuthorityAddress, ControlAddresses, RegionAddresses
from stores.pointer import PointerError, PrimaryPointer

_Model = TypeVar("_Model", bound=BaseModel)


class SettingsError(Exception):
    """A settings file is missing or wrong; the message names the file and the field."""


def home() -> Path:
    """The state directory: ``$CHAINRING_HOME``, else ``.chainring`` in the current directory."""
    return Path(os.environ.get("CHAINRING_HOME", ".chainring")).resolve()


def control_file() -> Path:
    """Written by ``chainring up``, or by hand from ``deploy/addresses/control.json.tera``."""
    return home() / "control" / "addresses.json"


def region_file(region: str) -> Path:
    """One file a region, so that a region's machine needs to hold no other region's."""
    return home() / "regions" / region / "addresses.json"


def authority_file() -> Path:
    """Written by ``chainring up`` where the configuration has the embedded authority."""
    return home() / "authority" / "addresses.json"


def load_authority() -> AuthorityAddress:
    """Where the embedded authority is; raises `SettingsError`."""
    return _load(authority_file(), AuthorityAddress)


def load_control() -> ControlAddresses:
    """What the control worker may reach.

    Raises:
        SettingsError: no such file, or it does not hold to ``ControlAddresses``.
    """
    return _load(control_file(), ControlAddresses)


def load_region(region: str) -> RegionAddresses:
    """What one region's processes may reach; raises `SettingsError`.

    The database is the region's primary, which a restore may have changed.
    """
    addresses = _load(region_file(region), RegionAddresses)
    try:
        primary = primary_pointer(region).read()
    except PointerError as error:
        raise SettingsError(str(error)) from None
    if primary is None:
        return addresses
    return addresses.model_copy(update={"database": primary.database})


def primary_pointer(region: str) -> PrimaryPointer:
    """Which store is the region's primary, once that is known."""
    return PrimaryPointer(region_file(region).with_name("primary.json"))


def known_regions() -> list[str]:
    """Regions that have an addresses file in this home, sorted."""
    return sorted(path.parent.name for path in home().glob("regions/*/addresses.json"))


def _load(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise SettingsError(
            f"{path} does not exist: is the stack set up? (`chainring up`)"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{path}: {field}: {first['msg']}") from None
