import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models import cohort_tests
from models.cohort_tests import (
    Stratum,
    rising_trend,
    risk_difference,
    share_above,
    steady_growth,
    stratified_excess,
)


@st.composite
def strata(draw: st.DrawFn, most: int = 40) -> Stratum:
    candidate_n, baseline_n = draw(st.integers(0, most)), draw(st.integers(0, most))
    return Stratum(
        draw(st.integers(0, candidate_n)), candidate_n, draw(st.integers(0, baseline_n)), baseline_n
    )


@given(strata())
@settings(max_examples=60, deadline=None)
def test_one_region_is_fishers_exact_test(table: Stratum):
    expected = stats.fisher_exact(
        [
            [table.candidate_hits, table.candidate_n - table.candidate_hits],
            [table.baseline_hits, table.baseline_n - table.baseline_hits],
        ],
        alternative="greater",
    ).pvalue
    assert stratified_excess([table]).p_value == pytest.approx(expected, rel=1e-9)


@given(st.lists(strata(most=6), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_several_regions_equal_the_enumeration_of_all_tables(tables: list[Stratum]):
    observed = sum(table.candidate_hits for table in tables)
    expected = 0.0
    ranges = [range(table.candidate_n + 1) for table in tables]
    for hits in itertools.product(*ranges):
        if sum(hits) >= observed:
            expected += math.prod(_chance(*pair) for pair in zip(hits, tables, strict=True))
    assert stratified_excess(tables).p_value == pytest.approx(expected, abs=1e-12)


def _chance(hits: int, table: Stratum) -> float:
    """By counting: how many ways give the candidate so many of the region's hits."""
    n = table.candidate_n + table.baseline_n
    all_hits = table.candidate_hits + table.baseline_hits
    if not 0 <= all_hits - hits <= table.baseline_n or hits > table.candidate_n:
        return 0.0
    ways = math.comb(all_hits, hits) * math.comb(n - all_hits, table.candidate_n - hits)
    return ways / math.comb(n, table.candidate_n)


def test_the_approximation_agrees_with_the_exact_test(monkeypatch: pytest.MonkeyPatch):
    tables = [Stratum(230, 4000, 180, 4000), Stratum(130, 2500, 100, 2000)]
    exact = stratified_excess(tables)
    monkeypatch.setattr(cohort_tests, "EXACT_LIMIT", 0)
    approximate = stratified_excess(tables)
    assert (exact.method, approximate.method) == ("exact", "Cochran-Mantel-Haenszel z")
    assert approximate.p_value == pytest.approx(exact.p_value, rel=0.1)


def test_huge_counts_do_not_need_huge_tables():
    table = Stratum(5_050_000, 10_000_000, 5_000_000, 10_000_000)
    assert stratified_excess([table]).p_value < 1e-50


def test_a_slow_region_is_not_a_slow_release():
    # The candidate has most of its traffic where requests are slow; within each region it is equal.
    tables = [Stratum(450, 900, 50, 100), Stratum(2, 100, 18, 900)]
    assert stratified_excess(tables).p_value > 0.4
    assert risk_difference(tables) == pytest.approx(0.0)
    pooled = Stratum(452, 1000, 68, 1000)
    assert stratified_excess([pooled]).p_value < 1e-9


def test_regions_that_add_up_are_found_though_none_is_clear_alone():
    tables = [Stratum(9, 100, 2, 100)] * 5
    assert stratified_excess(tables[:1]).p_value > 0.02
    assert stratified_excess(tables).p_value < 1e-4


def test_only_worse_counts():
    assert stratified_excess([Stratum(0, 1000, 100, 1000)]).p_value == pytest.approx(1.0)


@pytest.mark.parametrize(
    "tables", [[], [Stratum(0, 0, 0, 0)], [Stratum(5, 10, 0, 0)], [Stratum(0, 10, 0, 10)]]
)
def test_nothing_to_compare_is_no_evidence(tables: list[Stratum]):
    assert stratified_excess(tables).p_value == 1.0


def test_risk_difference_without_pairs_is_zero():
    assert risk_difference([Stratum(5, 10, 0, 0)]) == 0.0


def test_share_above_is_the_binomial_test():
    assert share_above(20, 1000, 0.01).p_value == pytest.approx(stats.binom.sf(19, 1000, 0.01))
    assert share_above(0, 0, 0.01).p_value == 1.0


@given(st.permutations(range(7)))
@settings(max_examples=40, deadline=None)
def test_trend_of_one_region_is_kendalls(values: list[int]):
    expected = stats.kendalltau(range(7), values, alternative="greater", method="exact").pvalue
    assert rising_trend([values]).p_value == pytest.approx(expected, rel=1e-9)


def test_trends_of_regions_add_up():
    rising = [1.0, 2.0, 3.0, 4.0]
    assert rising_trend([rising]).p_value == pytest.approx(1 / 24)
    assert rising_trend([rising] * 3).p_value == pytest.approx(1 / 24**3)


def test_ties_are_on_the_safe_side():
    assert rising_trend([[5.0] * 12]).p_value >= 0.5
    tied, strict = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert rising_trend([tied]).p_value > rising_trend([strict]).p_value


@pytest.mark.parametrize("series", [[], [[]], [[1.0]]])
def test_no_trend_in_nothing(series: list[list[float]]):
    assert rising_trend(series).p_value == 1.0


def test_trend_is_rarely_seen_in_noise():
    rng = np.random.default_rng(3)
    seen = sum(rising_trend(rng.normal(size=(2, 8)).tolist()).p_value <= 0.05 for _ in range(1000))
    assert seen <= 65


def test_growth_ignores_one_odd_reading():
    times = [float(second) for second in range(11)]
    values = [100.0 + 3 * time for time in times]
    values[5] = 900.0
    assert steady_growth(times, values) == pytest.approx(30.0)
    assert steady_growth([1.0], [5.0]) == 0.0
    assert steady_growth([1.0, 1.0], [5.0, 9.0]) == 0.0
