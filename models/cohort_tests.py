"""The statistics of a gate: is the candidate worse than the baseline, beyond chance?

All tests are one-sided (only worse counts) and stratified by region, so that a slow region does not
look like a slow release. Sources: stratified two-by-two tables, Agresti, Categorical Data Analysis
(3rd ed. 2013) sections 6.4.1 (Cochran-Mantel-Haenszel) and 6.7 (exact conditional tests); the risk
difference, Greenland and Robins, Biometrics 41 (1985) 55-68; Kendall's trend test combined over
strata, Hirsch, Slack and Smith, Water Resources Research 18 (1982) 107-121.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np
import scipy  # its parts load when they are first used: statistics take a second
from numpy.typing import NDArray

EXACT_LIMIT = 3000
"""Up to this many possible outcomes, added over the strata, the exact distribution is computed."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stratum:
    """Two cohorts in one region: of ``*_n`` requests, ``*_hits`` had the property looked for."""

    candidate_hits: int
    candidate_n: int
    baseline_hits: int
    baseline_n: int


@dataclass(frozen=True)
class TestResult:
    """``statistic`` as the method defines it, and the one-sided ``p_value``."""

    __test__ = False  # not a pytest class

    method: str
    statistic: float
    p_value: float


def stratified_excess(strata: Sequence[Stratum]) -> TestResult:
    """Whether hits are more frequent among candidates than among baselines of the same region.

    Given each region's totals, the candidate's hits are hypergeometric if the cohorts are equal;
    the exact test adds them over the regions by convolution, and the statistic is the candidate's
    hits. Large counts use the Cochran-Mantel-Haenszel z with continuity correction.
    """
    informative = [
        each
        for each in strata
        if each.candidate_n
        and each.baseline_n
        and 0 < each.candidate_hits + each.baseline_hits < each.candidate_n + each.baseline_n
    ]
    if not informative:
        return TestResult("exact", float(sum(each.candidate_hits for each in strata)), 1.0)
    if sum(high - low + 1 for low, high in map(_support, informative)) > EXACT_LIMIT:
        return _mantel_haenszel(informative)
    return _exact(informative)


def _support(stratum: Stratum) -> tuple[int, int]:
    """Least and greatest number of candidate hits that the margins allow."""
    hits = stratum.candidate_hits + stratum.baseline_hits
    return max(0, hits - stratum.baseline_n), min(hits, stratum.candidate_n)


def _exact(strata: Sequence[Stratum]) -> TestResult:
    supports = [np.arange(low, high + 1) for low, high in map(_support, strata)]
    lengths = [len(support) for support in supports]
    masses = scipy.stats.hypergeom.pmf(
        np.concatenate(supports),
        np.repeat([each.candidate_n + each.baseline_n for each in strata], lengths),
        np.repeat([each.candidate_hits + each.baseline_hits for each in strata], lengths),
        np.repeat([each.candidate_n for each in strata], lengths),
    )
    distribution = _convolve(np.split(masses, np.cumsum(lengths)[:-1]))
    observed = sum(each.candidate_hits for each in strata)
    least = sum(int(support[0]) for support in supports)
    return TestResult("exact", float(observed), _tail(distribution, observed - least))


def _mantel_haenszel(strata: Sequence[Stratum]) -> TestResult:
    excess, variance = 0.0, 0.0
    for each in strata:
        n = each.candidate_n + each.baseline_n
        hits = each.candidate_hits + each.baseline_hits
        share = each.candidate_n / n
        excess += each.candidate_hits - hits * share
        variance += share * (1 - share) * hits * (n - hits) / (n - 1)
    z = (excess - 0.5) / sqrt(variance)
    return TestResult("Cochran-Mantel-Haenszel z", z, float(scipy.stats.norm.sf(z)))


def risk_difference(strata: Sequence[Stratum]) -> float:
    """Mantel-Haenszel difference of the hit rates, candidate minus baseline, a fraction.

    Zero when no region has both cohorts.
    """
    weighted, weights = 0.0, 0.0
    for each in strata:
        if not (each.candidate_n and each.baseline_n):
            continue
        weight = each.candidate_n * each.baseline_n / (each.candidate_n + each.baseline_n)
        rates = each.candidate_hits / each.candidate_n - each.baseline_hits / each.baseline_n
        weighted += weight * rates
        weights += weight
    return weighted / weights if weights else 0.0


def share_above(hits: int, n: int, share: float) -> TestResult:
    """Whether more than ``share`` (a fraction) of requests are hits: the exact binomial test."""
    p_value = scipy.stats.binomtest(hits, n, share, alternative="greater").pvalue if n else 1.0
    return TestResult("binomial", float(hits), float(p_value))


def rising_trend(series: Sequence[Sequence[float]]) -> TestResult:
    """Whether values tend to rise with time, over all regions' series together.

    The statistic is Kendall's S (pairs that rise less pairs that fall), added over the regions. Its
    distribution without a trend is that of inversions of a random order, which is exact without
    ties and on the safe side with them. One region's result equals ``scipy.stats.kendalltau``.
    """
    score, pairs = 0, 0
    distribution: _Floats = np.ones(1)
    for values in series:
        score += sum(
            (later > earlier) - (later < earlier) for earlier, later in combinations(values, 2)
        )
        pairs += len(values) * (len(values) - 1) // 2
        uniforms = [np.full(size, 1 / size) for size in range(2, len(values) + 1)]
        distribution = _convolve([distribution, *uniforms])
    # S = pairs - 2 * inversions, and inversions are distributed symmetrically.
    rises = -(-(pairs + score) // 2)
    return TestResult("Kendall S", float(score), _tail(distribution, rises))


def steady_growth(times: Sequence[float], values: Sequence[float]) -> float:
    """Growth over the whole time at the Theil-Sen slope, in the unit of ``values``.

    The median of all pairwise slopes: one odd reading does not move it. Zero for fewer than two
    readings or no time between them.
    """
    if len(set(times)) < 2:
        return 0.0
    slope = scipy.stats.theilslopes(values, times).slope
    return float(slope) * (times[-1] - times[0])


def _convolve(distributions: Sequence[_Floats]) -> _Floats:
    """The distribution of the sum of independent counts."""
    result: _Floats = np.ones(1)
    for distribution in distributions:
        result = np.convolve(result, distribution)
    return result


def _tail(distribution: _Floats, at_least: int) -> float:
    """Probability of ``at_least`` or more, added up smallest first to keep the digits."""
    tail = distribution[max(at_least, 0) :]
    return min(1.0, float(np.sum(tail[::-1])))
