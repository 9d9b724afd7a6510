"""Arithmetic of cumulative latency histograms, as Prometheus and Envoy keep them.

Quantiles are read as PromQL's ``histogram_quantile`` reads them: linear inside a bucket, the first
bucket starts at zero, and what lies beyond the last bound is reported as the last bound
(https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile).
"""

from collections.abc import Sequence
from itertools import pairwise

from models.observation import Histogram

NO_REQUESTS = Histogram(bounds=[], counts=[0])
"""What a provider reports for a release that has answered nothing yet."""


class HistogramError(ValueError):
    """A histogram is malformed, or two do not describe the same thing."""


class CounterReset(ValueError):  # an event of the counters, as Prometheus names it
    """A cumulative count went down: whatever keeps it was restarted."""


def total(histogram: Histogram) -> int:
    """Number of requests counted."""
    return histogram.counts[-1]


def check(histogram: Histogram) -> None:
    """Refuse a histogram that no counter could have produced.

    Raises:
        HistogramError: wrong length, bounds that do not rise, or counts that fall.
    """
    bounds, counts = histogram.bounds, histogram.counts
    if len(counts) != len(bounds) + 1:
        raise HistogramError(f"histogram: {len(counts)} counts do not fit {len(bounds)} bounds")
    if any(low >= high for low, high in pairwise(bounds)):
        raise HistogramError("histogram: bounds do not rise")
    if counts[0] < 0 or any(low > high for low, high in pairwise(counts)):
        raise HistogramError("histogram: cumulative counts fall")


def difference(later: Histogram, earlier: Histogram) -> Histogram:
    """What was counted between two snapshots of the same histogram.

    Raises:
        HistogramError: malformed, or the bounds changed between the snapshots.
        CounterReset: some bucket counts less than before.
    """
    check(later)
    check(earlier)
    if not earlier.bounds and total(earlier) == 0:
        return later
    if later.bounds != earlier.bounds:
        raise HistogramError("histogram: the bounds changed between two snapshots")
    counts = [new - old for new, old in zip(later.counts, earlier.counts, strict=True)]
    if any(count < 0 for count in counts) or any(low > high for low, high in pairwise(counts)):
        raise CounterReset("histogram: a count went down")
    return Histogram(bounds=later.bounds, counts=counts)


def align(histograms: Sequence[Histogram]) -> list[Histogram]:
    """The same histograms over the bounds that all of them have; empty ones fit any bounds.

    Raises:
        HistogramError: no bound is common to all.
    """
    filled = [histogram for histogram in histograms if histogram.bounds]
    common = sorted(set.intersection(*(set(each.bounds) for each in filled))) if filled else []
    if filled and not common:
        raise HistogramError("histogram: the cohorts have no bucket bound in common")
    return [_restrict(histogram, common) for histogram in histograms]


def _restrict(histogram: Histogram, bounds: list[float]) -> Histogram:
    if not histogram.bounds:
        if total(histogram):
            raise HistogramError("histogram: requests are counted but no bucket has a bound")
        return Histogram(bounds=bounds, counts=[0] * (len(bounds) + 1))
    at_most = dict(zip(histogram.bounds, histogram.counts, strict=False))
    return Histogram(
        bounds=bounds, counts=[*(at_most[bound] for bound in bounds), total(histogram)]
    )


def merge(histograms: Sequence[Histogram]) -> Histogram:
    """The sum of several histograms over their common bounds; none at all is `NO_REQUESTS`."""
    aligned = align(histograms)
    if not aligned:
        return NO_REQUESTS
    columns = zip(*(histogram.counts for histogram in aligned), strict=True)
    return Histogram(bounds=aligned[0].bounds, counts=[sum(column) for column in columns])


def exceeding(histogram: Histogram, edge: float) -> int:
    """Number of requests that surely took longer than ``edge``, in the histogram's unit.

    An edge between two bounds counts from the next bound up; one beyond the last counts none.
    """
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        if bound >= edge:
            return total(histogram) - count
    return 0


def quantile(histogram: Histogram, q: float) -> float:
    """The ``q``-quantile, 0 < q < 1, in the histogram's unit.

    Raises:
        HistogramError: nothing was counted.
    """
    return mixture_quantile([histogram], [1.0], q)


def mixture_quantile(histograms: Sequence[Histogram], weights: Sequence[float], q: float) -> float:
    """The ``q``-quantile of a mixture in which each histogram has the weight given.

    This is direct standardisation: two cohorts that are mixed with the same weights differ by what
    they are, not by where their traffic comes from.

    Raises:
        HistogramError: nothing was counted in a histogram that has a weight, or no common bounds.
    """
    used = [index for index, weight in enumerate(weights) if weight > 0]
    aligned = align([histograms[index] for index in used])
    if not aligned or any(total(histogram) == 0 for histogram in aligned):
        raise HistogramError("histogram: there is no quantile of no requests")
    scale = sum(weights[index] for index in used)
    shares = [
        sum(
            weights[index] / scale * histogram.counts[bucket] / total(histogram)
            for index, histogram in zip(used, aligned, strict=True)
        )
        for bucket in range(len(aligned[0].bounds))
    ]
    return _interpolate(aligned[0].bounds, shares, q)


def _interpolate(bounds: Sequence[float], shares: Sequence[float], q: float) -> float:
    """Where the cumulative ``shares`` at ``bounds`` cross ``q``."""
    lower, below = 0.0, 0.0
    for bound, share in zip(bounds, shares, strict=True):
        if share >= q:
            return lower + (bound - lower) * (q - below) / (share - below)
        lower, below = bound, share
    return lower


def edge_at(histogram: Histogram, q: float) -> float:
    """The lowest bound that at least the share ``q`` of the requests did not exceed.

    The last bound when ``q`` lies beyond it.

    Raises:
        HistogramError: the histogram has no bounds.
    """
    if not histogram.bounds:
        raise HistogramError("histogram: it has no bucket bound")
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        if count >= q * total(histogram):
            return bound
    return histogram.bounds[-1]
