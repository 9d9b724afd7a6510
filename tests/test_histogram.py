import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.histogram import (
    NO_REQUESTS,
    CounterReset,
    HistogramError,
    align,
    check,
    difference,
    edge_at,
    exceeding,
    merge,
    mixture_quantile,
    quantile,
    total,
)
from models.observation import Histogram

BOUNDS = [1.0, 5.0, 10.0, 100.0]


def cumulative(*per_bucket: int) -> Histogram:
    counts, running = [], 0
    for count in per_bucket:
        running += count
        counts.append(running)
    return Histogram(bounds=BOUNDS, counts=counts)


buckets = st.lists(st.integers(0, 10_000), min_size=5, max_size=5).map(
    lambda each: cumulative(*each)
)


@given(buckets, buckets)
def test_difference_undoes_merge(one: Histogram, other: Histogram):
    assert difference(merge([one, other]), one) == other


@given(buckets)
def test_difference_from_nothing_is_everything(histogram: Histogram):
    assert difference(histogram, NO_REQUESTS) == histogram


def test_a_bucket_that_falls_is_a_reset_even_when_the_total_grew():
    with pytest.raises(CounterReset):
        difference(cumulative(0, 9, 9, 0, 0), cumulative(5, 0, 0, 0, 0))


def test_a_cumulative_count_that_falls_is_a_reset():
    with pytest.raises(CounterReset):
        difference(cumulative(1, 0, 0, 0, 0), cumulative(5, 0, 0, 0, 0))


def test_changed_bounds_are_refused():
    later = Histogram(bounds=[1.0, 2.0], counts=[1, 2, 3])
    with pytest.raises(HistogramError, match="bounds changed"):
        difference(later, cumulative(1, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("bounds", "counts", "message"),
    [
        ([1.0], [1], "do not fit"),
        ([2.0, 1.0], [1, 2, 3], "bounds do not rise"),
        ([1.0, 1.0], [1, 2, 3], "bounds do not rise"),
        ([1.0], [3, 2], "counts fall"),
        ([1.0], [-1, 2], "counts fall"),
    ],
)
def test_malformed(bounds: list[float], counts: list[int], message: str):
    with pytest.raises(HistogramError, match=message):
        check(Histogram(bounds=bounds, counts=counts))


def test_quantile_interpolates_inside_the_bucket():
    histogram = cumulative(0, 50, 50, 0, 0)
    assert quantile(histogram, 0.25) == pytest.approx(3.0)  # half of the way from 1 to 5
    assert quantile(histogram, 0.75) == pytest.approx(7.5)


def test_quantile_of_the_first_bucket_starts_at_zero():
    assert quantile(cumulative(10, 0, 0, 0, 0), 0.5) == pytest.approx(0.5)


def test_quantile_beyond_the_last_bound_is_that_bound():
    assert quantile(cumulative(0, 0, 0, 1, 99), 0.99) == 100.0


def test_there_is_no_quantile_of_nothing():
    with pytest.raises(HistogramError):
        quantile(cumulative(0, 0, 0, 0, 0), 0.5)
    with pytest.raises(HistogramError):
        quantile(NO_REQUESTS, 0.5)


@given(buckets.filter(total), st.floats(0.01, 0.98))
def test_quantile_rises_with_q(histogram: Histogram, q: float):
    assert quantile(histogram, q) <= quantile(histogram, q + 0.01)


@given(buckets.filter(total), st.integers(1, 50), st.floats(0.01, 0.99))
def test_a_mixture_of_a_release_with_itself_is_itself(histogram: Histogram, times: int, q: float):
    larger = merge([histogram] * times)
    mixed = mixture_quantile([histogram, larger], [0.3, 0.7], q)
    assert mixed == pytest.approx(quantile(histogram, q))


def test_mixture_follows_the_weights_not_the_counts():
    fast, slow = cumulative(10, 0, 0, 0, 0), cumulative(0, 0, 0, 100_000, 0)
    assert mixture_quantile([fast, slow], [9, 1], 0.5) < 1
    assert mixture_quantile([fast, slow], [1, 9], 0.5) > 10


def test_align_keeps_common_bounds_and_all_requests():
    one = Histogram(bounds=[1.0, 5.0], counts=[1, 2, 9])
    other = Histogram(bounds=[5.0, 7.0], counts=[3, 4, 5])
    assert align([one, other, NO_REQUESTS]) == [
        Histogram(bounds=[5.0], counts=[2, 9]),
        Histogram(bounds=[5.0], counts=[3, 5]),
        Histogram(bounds=[5.0], counts=[0, 0]),
    ]


def test_align_refuses_histograms_without_a_common_bound():
    with pytest.raises(HistogramError, match="in common"):
        merge([Histogram(bounds=[1.0], counts=[1, 2]), Histogram(bounds=[2.0], counts=[1, 2])])


def test_counts_without_any_bound_are_refused():
    with pytest.raises(HistogramError, match="no bucket has a bound"):
        merge([Histogram(bounds=[], counts=[5])])


def test_merge_of_none_is_no_requests():
    assert merge([]) == NO_REQUESTS


def test_exceeding_counts_only_what_surely_exceeds():
    histogram = cumulative(1, 2, 3, 4, 5)
    assert exceeding(histogram, 10.0) == 9
    assert exceeding(histogram, 7.0) == 9  # those between 7 and 10 are not known to exceed 7
    assert exceeding(histogram, 100.0) == 5
    assert exceeding(histogram, 101.0) == 0


def test_edge_lies_at_or_above_the_quantile():
    histogram = cumulative(50, 40, 9, 1, 0)
    assert [edge_at(histogram, q) for q in (0.5, 0.9, 0.99, 1.0)] == [1.0, 5.0, 10.0, 100.0]
    assert edge_at(cumulative(0, 0, 0, 0, 1), 0.5) == 100.0
    with pytest.raises(HistogramError):
        edge_at(NO_REQUESTS, 0.5)
