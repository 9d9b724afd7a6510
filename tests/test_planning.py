"""Plans: exact ring sizes, refusals that name the field, and what must hold for every fleet."""

import math
from collections import Counter
from fractions import Fraction
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contracts import ShardSummary
from models.fleet import SizeClass
from models.planning import Plan, PlanRefused, plan_rollout
from models.stratify import mean_size, size_limits, stratified

RELEASE = "sha256:" + "a" * 64
REGIONS = ["eu", "us-east", "us-west", "apac", "latam"]


def shard(
    number: int, region: str, tenants: int, mean: int = 1, release: str | None = None
) -> ShardSummary:
    return ShardSummary(
        shard=f"{region}-{number:03d}",
        region=region,
        tenants=tenants,
        weight=tenants * mean,
        release=release,
    )


def equal_fleet(count: int, tenants: int = 100, regions: list[str] = REGIONS) -> list[ShardSummary]:
    """Shards over the regions in turn; the mean size differs from shard to shard."""
    return [
        shard(n // len(regions), regions[n % len(regions)], tenants, mean=1 + n * 7 % count)
        for n in range(count)
    ]


def plan(shards: list[ShardSummary], **changes: Any) -> Plan:
    asked: dict[str, Any] = {
        "canary_percent": 2,
        "rings": [5, 25, 100],
        "max_blast_radius_percent": 5,
    }
    return plan_rollout(shards, changes.pop("release", RELEASE), **{**asked, **changes})


def test_a_hundred_equal_shards_give_rings_of_2_3_20_and_75() -> None:
    planned = plan(equal_fleet(100))
    assert [(ring.name, len(ring.shards)) for ring in planned.rings] == [
        ("canary", 2),
        ("5%", 3),
        ("25%", 20),
        ("100%", 75),
    ]
    assert [ring.cumulative_percent for ring in planned.rings] == [2, 5, 25, 100]
    assert planned.blast_radius_percent == 2
    assert [ring.ungated_percent for ring in planned.rings] == [2, 0, 0, 0]
    assert planned.total_tenants == 10_000
    assert planned.total_shards == 100


def test_the_first_five_of_a_hundred_shards_cover_every_region_and_size_class() -> None:
    canary, five, *_ = plan(equal_fleet(100)).rings
    assert set(canary.by_region) | set(five.by_region) == set(REGIONS)
    assert set(canary.size_classes) | set(five.size_classes) == {"small", "medium", "large"}


def test_the_canary_begins_with_the_smallest_tenants_of_its_stratum() -> None:
    shards = equal_fleet(100)
    first = plan(shards).rings[0].shards[0]
    assert min(shards, key=mean_size).shard == first


def test_by_region_holds_the_rings_shards() -> None:
    for ring in plan(equal_fleet(100)).rings:
        assert sorted(chain.from_iterable(ring.by_region.values())) == sorted(ring.shards)
        for region, names in ring.by_region.items():
            assert all(name.startswith(f"{region}-") for name in names)


def test_notes_say_which_regions_two_shards_cannot_cover() -> None:
    notes = " ".join(plan(equal_fleet(100)).notes)
    assert "2 shards" in notes
    assert "leaves out region" in notes


def test_no_notes_where_everything_is_as_asked() -> None:
    assert plan(equal_fleet(1500)).notes == []


def test_a_ring_that_adds_nothing_is_kept_and_says_so() -> None:
    planned = plan(equal_fleet(20))
    assert [len(ring.shards) for ring in planned.rings] == [1, 0, 4, 15]
    assert any("Ring 5% adds no shard" in note for note in planned.notes)
    assert any("Ring canary reaches 5 % instead of 2 %" in note for note in planned.notes)


def test_shards_without_tenants_go_to_the_last_ring() -> None:
    empty = [shard(900, "eu", 0), shard(901, "apac", 0)]
    planned = plan(empty + equal_fleet(100))
    assert planned.rings[-1].shards[-2:] == ["apac-901", "eu-900"]
    assert planned.rings[-1].size_classes["empty"] == 2
    assert [len(ring.shards) for ring in planned.rings] == [2, 3, 20, 77]
    assert any("2 shard(s) without tenants" in note for note in planned.notes)


def test_shards_that_run_the_release_already_are_listed_and_noted() -> None:
    shards = [one.model_copy(update={"release": RELEASE}) for one in equal_fleet(100)[:3]]
    planned = plan(shards + equal_fleet(100)[3:])
    assert sum(len(ring.shards) for ring in planned.rings) == 100
    assert any(note.startswith("3 shard(s) run this release already") for note in planned.notes)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("release", {"release": "v2"}),
        ("release", {"release": RELEASE + "\n"}),
        ("release", {"release": ""}),
        ("canary_percentage", {"canary_percent": 0}),
        ("canary_percentage", {"canary_percent": -1}),
        ("canary_percentage", {"canary_percent": math.nan}),
        ("canary_percentage", {"canary_percent": 101}),
        ("canary_percentage", {"canary_percent": 6}),
        ("rollout_rings", {"rings": []}),
        ("rollout_rings", {"rings": [5, 25]}),
        ("rollout_rings", {"rings": [5, 5, 100]}),
        ("rollout_rings", {"rings": [25, 5, 100]}),
        ("rollout_rings", {"rings": [5, math.inf]}),
        ("rollout_rings", {"rings": [5, 25, 100, 101]}),
        ("max_blast_radius_percent", {"max_blast_radius_percent": 0}),
        ("max_blast_radius_percent", {"max_blast_radius_percent": math.nan}),
        ("max_blast_radius_percent", {"max_blast_radius_percent": 1.9}),
    ],
)
def test_a_refusal_names_the_field(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(PlanRefused) as refused:
        plan(equal_fleet(100), **changes)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("field", "shards"),
    [
        ("shards", []),
        ("shards", [shard(1, "eu", 10), shard(1, "eu", 10)]),
        ("tenants", [shard(1, "eu", 0)]),
        ("max_blast_radius_percent", equal_fleet(10)),
    ],
)
def test_a_catalog_that_cannot_be_planned_is_refused(
    field: str, shards: list[ShardSummary]
) -> None:
    with pytest.raises(PlanRefused) as refused:
        plan(shards)
    assert refused.value.field == field


def test_a_fraction_of_a_percent_counts_as_written() -> None:
    planned = plan(equal_fleet(1000, tenants=1), canary_percent=0.1, rings=[0.3, 100])
    assert [len(ring.shards) for ring in planned.rings] == [1, 2, 997]


def test_a_plan_survives_json() -> None:
    planned = plan(equal_fleet(100))
    assert Plan.model_validate_json(planned.model_dump_json()) == planned


@st.composite
def fleets(draw: st.DrawFn) -> list[ShardSummary]:
    """Any mix of regions, tenant counts (some shards empty) and sizes."""
    regions = draw(st.lists(st.sampled_from(REGIONS), min_size=1, unique=True))
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from(regions), st.integers(0, 300), st.integers(1, 40)),
            min_size=1,
            max_size=80,
        )
    )
    return [shard(n, region, tenants, mean) for n, (region, tenants, mean) in enumerate(rows)]


@given(
    shards=fleets(),
    rings=st.lists(st.integers(1, 99), unique=True, max_size=4).map(lambda r: [*sorted(r), 100]),
    canary=st.integers(1, 100),
    blast_radius=st.integers(1, 100),
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_planned_holds_its_promises(
    shards: list[ShardSummary], rings: list[int], canary: int, blast_radius: int
) -> None:
    try:
        planned = plan(
            shards, canary_percent=canary, rings=rings, max_blast_radius_percent=blast_radius
        )
    except PlanRefused as refused:
        assert refused.field in {"canary_percentage", "tenants", "max_blast_radius_percent"}
        if refused.field == "max_blast_radius_percent":
            least = min(one.tenants for one in shards if one.tenants)
            everyone = sum(one.tenants for one in shards)
            largest = max(one.tenants for one in shards)
            possible = max(Fraction(canary, 100) * everyone, least) + largest
            assert possible > Fraction(blast_radius, 100) * everyone
        return
    tenants = {one.shard: one.tenants for one in shards}
    total = sum(tenants.values())
    listed = [name for ring in planned.rings for name in ring.shards]
    assert sorted(listed) == sorted(tenants)
    assert planned.blast_radius_percent <= blast_radius
    assert planned.rings[0].cumulative_percent == planned.blast_radius_percent
    covered = 0
    for ring, target in zip(planned.rings, [canary, *rings], strict=True):
        assert ring.tenants == sum(tenants[name] for name in ring.shards)
        covered += ring.tenants
        assert ring.cumulative_tenants == covered
        assert covered * 100 >= target * total
        populated = [name for name in ring.shards if tenants[name]]
        if populated:
            assert (covered - tenants[populated[-1]]) * 100 < target * total
        assert sum(ring.size_classes.values()) == len(ring.shards)
    assert covered == total


@given(shards=fleets(), order=st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_catalog_makes_no_difference(
    shards: list[ShardSummary], order: Any
) -> None:
    shuffled = list(shards)
    order.shuffle(shuffled)
    changes: dict[str, Any] = {"max_blast_radius_percent": 100}
    if any(one.tenants for one in shards):
        assert plan(shards, **changes) == plan(shuffled, **changes)


@given(shards=fleets())
@settings(max_examples=300, deadline=None)
def test_every_beginning_has_each_regions_and_each_classs_share(
    shards: list[ShardSummary],
) -> None:
    populated = [one for one in shards if one.tenants]
    order = stratified(populated)
    assert sorted(one.shard for one in order) == sorted(one.shard for one in populated)
    in_region = Counter(one.region for one in populated)
    for length in range(1, len(order) + 1):
        so_far = Counter(one.region for one in order[:length])
        for region, count in in_region.items():
            assert abs(so_far[region] - Fraction(count * length, len(order))) < 1
    for region in in_region:
        _check_classes([one for one in order if one.region == region], populated)


def _check_classes(order: list[ShardSummary], fleet: list[ShardSummary]) -> None:
    limits = size_limits(fleet)
    classes = [limits.classify(mean_size(one)) for one in order]
    for name in SizeClass:
        means = [mean_size(one) for one, of in zip(order, classes, strict=True) if of is name]
        assert means == sorted(means)
        for length in range(1, len(order) + 1):
            share = Fraction(classes.count(name) * length, len(order))
            assert abs(classes[:length].count(name) - share) < 1
