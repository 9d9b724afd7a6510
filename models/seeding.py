"""How a whole fleet is laid out at its start: from its numbers alone, the same every time.

Shards go to the regions in turn, tenants to the shards in equal blocks, both counted from the
first name on. Everything is produced as a stream, so that a million tenants need no memory.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from models.fleet import FleetError
from models.ids import REGION_PATTERN

ZONES = ("a", "b", "c")
LARGEST_SIZE = 10_000
MOST_TENANTS = 100_000_000
MOST_SHARDS = 1_000_000


class SeedShard(NamedTuple):
    """A shard as a new fleet begins with it: no release, not rolling."""

    id: str
    zone: str


class SeedTenant(NamedTuple):
    """A tenant as a new fleet begins with it: active, in its shard's zone."""

    id: str
    shard: str
    zone: str
    size: int


@dataclass(frozen=True)
class FleetLayout:
    """A fleet of ``tenants`` in ``shards`` over ``regions``.

    Raises:
        FleetError: the numbers make no fleet; names the field.
    """

    tenants: int
    shards: int
    regions: Sequence[str]

    def __post_init__(self) -> None:
        _check_regions(self.regions)
        if not 1 <= self.shards <= MOST_SHARDS:
            raise FleetError("shards", f"must be from 1 to {MOST_SHARDS}, not {self.shards}")
        if not 1 <= self.tenants <= MOST_TENANTS:
            raise FleetError("tenants", f"must be from 1 to {MOST_TENANTS}, not {self.tenants}")
        if self.shards > self.tenants:
            raise FleetError("shards", f"{self.shards} shards for {self.tenants} tenants")

    def shards_of(self, region: str) -> Iterator[SeedShard]:
        """The region's shards in order of their ids, the zones in turn."""
        for local, _ in self._numbered(region):
            yield SeedShard(self._shard_id(region, local), ZONES[local % len(ZONES)])

    def tenants_of(self, region: str) -> Iterator[SeedTenant]:
        """The region's tenants in order of their ids."""
        width = max(6, len(str(self.tenants)))
        for local, number in self._numbered(region):
            shard = self._shard_id(region, local)
            zone = ZONES[local % len(ZONES)]
            for tenant_number in self._block(number):
                tenant = f"t-{tenant_number:0{width}d}"
                yield SeedTenant(tenant, shard, zone, tenant_size(tenant))

    def home_of(self, tenant: str) -> tuple[str, str] | None:
        """The region and shard that a tenant begins in; None for a name that the fleet has not."""
        width = max(6, len(str(self.tenants)))
        number = int(tenant[2:]) if re.fullmatch(r"t-[0-9]{6,9}", tenant, re.ASCII) else 0
        if not 1 <= number <= self.tenants or tenant != f"t-{number:0{width}d}":
            return None
        each, more = divmod(self.tenants, self.shards)
        larger = more * (each + 1)  # tenants of the first shards, which have one more
        index = number - 1
        shard = index // (each + 1) if index < larger else more + (index - larger) // each
        region = self.regions[shard % len(self.regions)]
        return region, self._shard_id(region, shard // len(self.regions))

    def _numbered(self, region: str) -> Iterator[tuple[int, int]]:
        """Each shard's number within its region, and within the fleet."""
        first = self.regions.index(region)
        return enumerate(range(first, self.shards, len(self.regions)))

    def _shard_id(self, region: str, local: int) -> str:
        width = max(3, len(str((self.shards - 1) // len(self.regions))))
        return f"{region}-{local:0{width}d}"

    def _block(self, number: int) -> range:
        """The tenants' numbers, from 1, of the fleet's shard ``number``."""
        each, more = divmod(self.tenants, self.shards)
        start = number * each + min(number, more) + 1
        return range(start, start + each + (number < more))


def tenant_size(tenant: str) -> int:
    """A heavy-tailed size from 1 to `LARGEST_SIZE`: a share 1/s of all names gets s or more.

    That is the Pareto distribution of index 1, drawn by the name's hash in whole numbers, so that
    every machine draws the same.
    """
    drawn = int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:8], "big")
    return min(LARGEST_SIZE, (1 << 64) // (drawn + 1))


def _check_regions(regions: Sequence[str]) -> None:
    if not regions:
        raise FleetError("regions", "none given")
    for region in regions:
        if not re.fullmatch(REGION_PATTERN, region):
            raise FleetError("regions", f"{region!r} is not a region code")
    if len(set(regions)) != len(regions):
        raise FleetError("regions", "one is named twice")
