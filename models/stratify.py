"""Order a fleet's shards so that every beginning of the order looks like the whole.

Take any first k shards: each region's part of them differs from its exact share by less than one
shard, and within a region each size class's part differs by less than one from its share of the
region's. Inside a stratum (region x size class) the shards with the smallest tenants come first.

The rule: of n turns, a stratum with m shards gets its i-th turn after its exact share m*k/n has
passed i-1 and before it falls behind i, that is in the turns from ``(i-1)*n // m + 1`` to
``ceil(i*n / m)``. Each turn goes to the stratum whose limit comes first. One turn at a time, all
limits can be met (R. Tijdeman, "The chairman assignment problem", Discrete Mathematics 32, 1980).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from models.contracts import ShardSummary
from models.fleet import SizeClass, Terciles, terciles


@dataclass(frozen=True)
class _Sized:
    """A shard with what decides its place."""

    shard: ShardSummary
    mean: float
    size_class: SizeClass

    @property
    def rank(self) -> tuple[float, str]:
        return self.mean, self.shard.shard


class _Turns:
    """The turns of one stratum of ``size`` among ``total``."""

    def __init__(self, size: int, total: int) -> None:
        self._size = size
        self._total = total
        self._taken = 0

    def take(self) -> None:
        self._taken += 1

    @property
    def left(self) -> bool:
        return self._taken < self._size

    @property
    def first(self) -> int:
        """The earliest turn that its next may be."""
        return self._taken * self._total // self._size + 1

    @property
    def limit(self) -> int:
        """The latest turn that its next may be."""
        return -(-(self._taken + 1) * self._total // self._size)


class _Region:
    """One region's shards by size class, smallest tenants first, taken from the front."""

    def __init__(self, shards: Iterable[_Sized], total: int) -> None:
        strata: dict[SizeClass, list[_Sized]] = defaultdict(list)
        for sized in sorted(shards, key=lambda sized: sized.rank, reverse=True):
            strata[sized.size_class].append(sized)
        count = sum(len(stratum) for stratum in strata.values())
        self._strata = strata
        self._class_turns = {name: _Turns(len(strata[name]), count) for name in strata}
        self._turn = 1
        self.turns = _Turns(count, total)

    def next(self, fleet: dict[SizeClass, _Turns]) -> _Sized:
        """What the region would give now; ties go to the class that the fleet misses most."""
        turns = self._class_turns
        due = [name for name in turns if turns[name].left and turns[name].first <= self._turn]
        chosen = min(
            due,
            key=lambda name: (turns[name].limit, fleet[name].limit, self._strata[name][-1].rank),
        )
        return self._strata[chosen][-1]

    def take(self, sized: _Sized) -> None:
        self._strata[sized.size_class].pop()
        self._class_turns[sized.size_class].take()
        self._turn += 1
        self.turns.take()


def mean_size(shard: ShardSummary) -> float:
    """Mean size of the shard's tenants; it must have some."""
    return shard.weight / shard.tenants


def size_limits(shards: Sequence[ShardSummary]) -> Terciles:
    """What counts as small, medium and large among ``shards``, which must all have tenants."""
    return terciles([mean_size(shard) for shard in shards])


def stratified(shards: Sequence[ShardSummary]) -> list[ShardSummary]:
    """All ``shards`` in the order above; the order they come in makes no difference.

    Every shard must have tenants. Time grows with shards x regions.
    """
    if not shards:
        return []
    limits = size_limits(shards)
    sized = [_Sized(shard, mean_size(shard), limits.classify(mean_size(shard))) for shard in shards]
    by_region: dict[str, list[_Sized]] = defaultdict(list)
    by_class: dict[SizeClass, int] = defaultdict(int)
    for one in sized:
        by_region[one.shard.region].append(one)
        by_class[one.size_class] += 1
    total = len(shards)
    regions = [_Region(by_region[name], total) for name in sorted(by_region)]
    fleet = {name: _Turns(count, total) for name, count in by_class.items()}
    return [_take_turn(turn, regions, fleet) for turn in range(1, total + 1)]


def _take_turn(
    turn: int, regions: Sequence[_Region], fleet: dict[SizeClass, _Turns]
) -> ShardSummary:
    due = [region for region in regions if region.turns.left and region.turns.first <= turn]
    limit = min(region.turns.limit for region in due)
    candidates = [
        (fleet[sized.size_class].limit, sized.rank, index)
        for index, region in enumerate(due)
        if region.turns.limit == limit
        for sized in [region.next(fleet)]
    ]
    region = due[min(candidates)[2]]
    sized = region.next(fleet)
    region.take(sized)
    fleet[sized.size_class].take()
    return sized.shard
