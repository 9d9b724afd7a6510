"""The plan of a rollout: which shards change in which ring, decided before anything changes.

The canary takes whole shards, in the order of `models.stratify`, until it has at least its share
of the tenants; each ring goes on from there to its own cumulative share. The blast radius is the
largest share of tenants on a release that no gate has passed, which is what the first ring takes.
"""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from models.contracts import ShardSummary
from models.fleet import SizeClass
from models.ids import Digest, RegionCode, ShardId
from models.stratify import mean_size, size_limits, stratified

CANARY = "canary"
EMPTY_CLASS = "empty"


class PlanRefused(ValueError):
    """No plan can be made; names the field of the configuration or the catalog, and why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[type["PlanRefused"], tuple[str, str]]:
        return PlanRefused, (self.field, self.message)


class _Planned(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RingPlan(_Planned):
    """One ring: the shards that it adds to those of the rings before it."""

    name: str
    target_percent: float = Field(description="share of all tenants to reach with this ring")
    shards: list[ShardId] = Field(description="new in this ring, in the order to change them")
    by_region: dict[RegionCode, list[ShardId]]
    tenants: int
    cumulative_tenants: int
    cumulative_percent: float
    size_classes: dict[str, int] = Field(
        description="new shards by mean tenant size: small, medium, large, empty"
    )
    ungated_percent: float = Field(
        description="share of tenants that see the release before any gate has passed it"
    )


class Plan(_Planned):
    """What a rollout of ``release`` will do; every shard of the fleet is in exactly one ring."""

    release: Digest
    total_tenants: int
    total_shards: int
    rings: list[RingPlan]
    blast_radius_percent: float
    notes: list[str] = Field(description="in plain words: where the plan is not as asked, and why")


def plan_rollout(
    shards: Sequence[ShardSummary],
    release: str,
    *,
    canary_percent: float,
    rings: Sequence[float],
    max_blast_radius_percent: float,
) -> Plan:
    """Plan a rollout of ``release`` to all ``shards``.

    The same catalog gives the same plan, in whatever order it comes.

    Args:
        canary_percent: share of the tenants that the canary covers at least.
        rings: cumulative shares of tenants in percent, strictly increasing, the last one 100.
        max_blast_radius_percent: the largest share that the first ring may take.

    Raises:
        PlanRefused: names the field.
    """
    _check_release(release)
    _check_shares(canary_percent, rings, max_blast_radius_percent)
    _check_catalog(shards)
    planned = _cut(shards, canary_percent, rings)
    blast_radius = planned[0].cumulative_percent
    if blast_radius > max_blast_radius_percent:
        raise PlanRefused(
            "max_blast_radius_percent", _too_wide(planned[0], max_blast_radius_percent)
        )
    return Plan(
        release=release,
        total_tenants=sum(shard.tenants for shard in shards),
        total_shards=len(shards),
        rings=planned,
        blast_radius_percent=blast_radius,
        notes=_notes(shards, release, planned),
    )


def _check_release(release: str) -> None:
    try:
        TypeAdapter(Digest).validate_python(release)
    except ValidationError:
        raise PlanRefused("release", f"{release!r} is not a digest (sha256:...)") from None


def _check_shares(canary: float, rings: Sequence[float], blast_radius: float) -> None:
    for field, share in (
        ("canary_percentage", canary),
        *(("rollout_rings", ring) for ring in rings),
        ("max_blast_radius_percent", blast_radius),
    ):
        if not (math.isfinite(share) and 0 < share <= 100):
            raise PlanRefused(field, f"must be above 0 and at most 100, not {share}")
    if not rings:
        raise PlanRefused("rollout_rings", "there are none")
    for lower, upper in pairwise(rings):
        if upper <= lower:
            raise PlanRefused("rollout_rings", f"must increase, but {upper:g} follows {lower:g}")
    if rings[-1] != 100:
        raise PlanRefused("rollout_rings", f"must end at 100, not {rings[-1]:g}")
    if canary > rings[0]:
        raise PlanRefused(
            "canary_percentage", f"{canary:g} is more than the first ring's {rings[0]:g}"
        )


def _check_catalog(shards: Sequence[ShardSummary]) -> None:
    if not shards:
        raise PlanRefused("shards", "the fleet has none")
    name, times = Counter(shard.shard for shard in shards).most_common(1)[0]
    if times > 1:
        raise PlanRefused("shards", f"{name} is in the catalog {times} times")
    if not any(shard.tenants for shard in shards):
        raise PlanRefused("tenants", "no shard has any")


def _cut(shards: Sequence[ShardSummary], canary: float, rings: Sequence[float]) -> list[RingPlan]:
    """Cut the stratified order into rings; shards without tenants go to the last one."""
    order = stratified(_populated(shards))
    empty = sorted((shard for shard in shards if not shard.tenants), key=lambda one: one.shard)
    classes = _size_classes(shards)
    total = sum(shard.tenants for shard in order)
    planned: list[RingPlan] = []
    done = covered = 0
    for name, target in [(CANARY, canary), *((f"{ring:g}%", ring) for ring in rings)]:
        needed, start, before = _tenants_for(target, total), done, covered
        while covered < needed:
            covered += order[done].tenants
            done += 1
        is_last = len(planned) == len(rings)
        added = order[start:done] + (empty if is_last else [])
        share = 100 * covered / total
        planned.append(
            RingPlan(
                name=name,
                target_percent=target,
                shards=[shard.shard for shard in added],
                by_region=_by_region(added),
                tenants=covered - before,
                cumulative_tenants=covered,
                cumulative_percent=share,
                size_classes=dict(Counter(classes[shard.shard] for shard in added)),
                ungated_percent=0.0 if planned else share,
            )
        )
    return planned


def _populated(shards: Sequence[ShardSummary]) -> list[ShardSummary]:
    return [shard for shard in shards if shard.tenants]


def _size_classes(shards: Sequence[ShardSummary]) -> dict[str, str]:
    """The size class of each shard by its id, among them that of shards without tenants."""
    limits = size_limits(_populated(shards))
    return {
        shard.shard: limits.classify(mean_size(shard)).value if shard.tenants else EMPTY_CLASS
        for shard in shards
    }


def _tenants_for(percent: float, total: int) -> int:
    """The fewest tenants that are ``percent`` of ``total``, with the percentage as written."""
    return math.ceil(Fraction(str(percent)) * total / 100)


def _by_region(shards: Sequence[ShardSummary]) -> dict[RegionCode, list[ShardId]]:
    grouped: dict[RegionCode, list[ShardId]] = {}
    for shard in sorted(shards, key=lambda one: one.region):
        grouped.setdefault(shard.region, [])
    for shard in shards:
        grouped[shard.region].append(shard.shard)
    return grouped


def _too_wide(first: RingPlan, allowed: float) -> str:
    return (
        f"the canary would take {_share(first)} of the tenants in {_count(first.shards, 'shard')}, "
        f"but at most {allowed:g} % may see a release that no gate has passed; "
        "use more and smaller shards, or allow more"
    )


def _notes(shards: Sequence[ShardSummary], release: str, planned: Sequence[RingPlan]) -> list[str]:
    notes = [note for ring in planned for note in _ring_notes(ring)]
    notes += _coverage_notes(shards, planned[0])
    empty = sum(not shard.tenants for shard in shards)
    if empty:
        notes.append(f"{empty} shard(s) without tenants are in the last ring.")
    running = sum(shard.release == release for shard in shards)
    if running:
        notes.append(
            f"{running} shard(s) run this release already; they are listed, "
            "and activating them again changes nothing for their tenants."
        )
    return notes


def _ring_notes(ring: RingPlan) -> list[str]:
    if not ring.shards:
        return [
            f"Ring {ring.name} adds no shard: the rings before it cover {_share(ring)} already."
        ]
    if math.isclose(ring.cumulative_percent, ring.target_percent):
        return []
    return [
        f"Ring {ring.name} reaches {_share(ring)} instead of {ring.target_percent:g} %: "
        "a shard changes as a whole, and one shard fewer would be too few."
    ]


def _coverage_notes(shards: Sequence[ShardSummary], canary: RingPlan) -> list[str]:
    """Which regions and size classes the canary cannot cover, since it has so few shards."""
    regions = {shard.region for shard in _populated(shards)}
    in_use = set(_size_classes(shards).values())
    classes = [one.value for one in SizeClass if one.value in in_use]
    left_out: dict[str, list[str]] = {
        "region": sorted(regions - set(canary.by_region)),
        "size class": [name for name in classes if name not in canary.size_classes],
    }
    return [
        f"The canary has {_count(canary.shards, 'shard')} and so leaves out "
        f"{kind} {', '.join(names)}; the next rings cover them."
        for kind, names in left_out.items()
        if names
    ]


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}" if len(things) == 1 else f"{len(things)} {name}s"


def _share(ring: RingPlan) -> str:
    return f"{ring.cumulative_percent:.4g} %"
