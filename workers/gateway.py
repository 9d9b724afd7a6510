"""The gateway's process. `python -m workers gateway eu`."""

from gateway.serve import run_gateway
from models.addresses import RegionAddresses
from stores.primary import PrimaryFile
from workers.primary import require_primary
from workers.settings import load_region, primary_pointer


def serve_gateway(regions: list[str]) -> int:
    """Serve the regions' KV and routes until told to stop, each by whatever is its primary.

    Raises:
        SettingsError: a region's addresses are wrong, or its store is lost.
    """
    addresses = [load_region(region) for region in regions]
    for each in addresses:
        if not _buffers(each):
            require_primary(each)
    return run_gateway(addresses, primary_pointer)


def _buffers(addresses: RegionAddresses) -> bool:
    """Whether the region goes on without its store for now."""
    if addresses.recovery is None:
        return False
    return PrimaryFile(addresses.recovery, addresses.region).read().mode != "normal"
