"""The judgement of latency: the absolute p99, and three places of the baseline's distribution.

Against the baseline the question is put at bucket edges near the baseline's own median, p90 and
p99, region by region: does a larger share of the candidate's requests lie beyond? The edge near p99
is what finds a release that is slow for one request in ten while its median stands still.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from models.cohort_tests import Stratum, share_above, stratified_excess
from models.gate_policy import P99_LATENCY
from models.histogram import (
    HistogramError,
    align,
    edge_at,
    exceeding,
    merge,
    mixture_quantile,
    quantile,
    total,
)
from models.judge_checks import (
    Look,
    data_checks,
    make_check,
    metric_verdict,
    samples_check,
    significant,
)
from models.judge_cohorts import Cohorts, RegionDelta
from models.observation import Histogram
from models.verdict import Check, MetricVerdict, Outcome

TAIL = 0.99
PLACES = (("median", 0.5), ("p90", 0.9), ("p99", TAIL))
TESTS = 1 + len(PLACES)
"""The bound and the places share the metric's alpha (Bonferroni)."""


@dataclass(frozen=True)
class _Pair:
    """Both cohorts' latencies in one region, over the same bounds, neither of them empty."""

    candidate: Histogram
    baseline: Histogram


def judge_latency(cohorts: Cohorts, look: Look) -> MetricVerdict:
    """Judge how long requests took since the ring began."""
    try:
        return _judge(cohorts, look)
    except HistogramError as error:
        check = make_check("data", "error", str(error))
        return metric_verdict(P99_LATENCY, "ms", look, [*data_checks(cohorts.problems), check])


def _judge(cohorts: Cohorts, look: Look) -> MetricVerdict:
    paired = cohorts.paired if look.expects_baseline else []
    pairs = _pairs(paired)
    latency = merge([each.candidate.latency for each in cohorts.regions])
    n = total(latency)
    baseline_n = sum(each.baseline.timed for each in paired if each.baseline)
    compared_n = sum(each.candidate.timed for each in paired) if paired else n
    checks = [
        *data_checks(cohorts.problems),
        samples_check(look, compared_n, baseline_n if paired else None),
        *([_bound_check(look, latency)] if n else []),
        *(_place_check(look, pairs, name, q) for name, q in PLACES if pairs),
    ]
    return metric_verdict(
        P99_LATENCY,
        "ms",
        look,
        checks,
        candidate=quantile(latency, TAIL) if n else None,
        baseline=_quantiles(pairs, TAIL)[1] if pairs else None,
        candidate_n=n,
        baseline_n=baseline_n,
    )


def _pairs(paired: Sequence[RegionDelta]) -> list[_Pair]:
    return [
        _Pair(*align([each.candidate.latency, each.baseline.latency]))
        for each in paired
        if each.baseline is not None and each.candidate.timed and each.baseline.timed
    ]


def _bound_check(look: Look, latency: Histogram) -> Check:
    """More than one request in a hundred beyond the bound; at the last look, the measured p99."""
    bound, alpha, n = look.policy.p99_latency_ms, look.alpha / TESTS, total(latency)
    test = share_above(exceeding(latency, bound), n, 1 - TAIL)
    p99 = quantile(latency, TAIL)
    settled = look.last and n >= look.policy.min_samples
    note = f"p99 is {p99:.4g} ms, {bound:g} ms are allowed"
    outcome: Outcome = "pass"
    if significant(test, alpha) or (settled and p99 > bound):
        outcome = "fail"
    elif settled and p99 >= latency.bounds[-1] and latency.bounds[-1] < bound:
        outcome = "error"
        note = f"p99 lies beyond the histogram's last bucket, {latency.bounds[-1]:g} ms"
    return make_check(
        "absolute bound",
        outcome,
        note,
        candidate=p99,
        value=p99,
        threshold=bound,
        test=test,
        alpha=alpha,
    )


def _place_check(look: Look, pairs: Sequence[_Pair], name: str, q: float) -> Check:
    """Slower than the baseline at one quantile: beyond chance, and beyond the margins."""
    alpha = look.alpha / TESTS
    test = stratified_excess([_beyond(pair, edge_at(pair.baseline, q)) for pair in pairs])
    candidate, baseline = _quantiles(pairs, q)
    policy = look.policy
    threshold = max(baseline * policy.latency_ratio_margin, baseline + policy.latency_margin_ms)
    failed = significant(test, alpha) and candidate >= threshold
    return make_check(
        f"{name} against the baseline",
        "fail" if failed else "pass",
        f"{name} is {candidate:.4g} ms, the baseline's {baseline:.4g} ms, "
        f"worse from {threshold:.4g} ms (p = {test.p_value:.2g})",
        candidate=candidate,
        baseline=baseline,
        value=candidate,
        threshold=threshold,
        test=test,
        alpha=alpha,
    )


def _beyond(pair: _Pair, edge: float) -> Stratum:
    return Stratum(
        candidate_hits=exceeding(pair.candidate, edge),
        candidate_n=total(pair.candidate),
        baseline_hits=exceeding(pair.baseline, edge),
        baseline_n=total(pair.baseline),
    )


def _quantiles(pairs: Sequence[_Pair], q: float) -> tuple[float, float]:
    """The candidate's quantile, and the baseline's had it served the candidate's regions."""
    weights = [float(total(pair.candidate)) for pair in pairs]
    return (
        mixture_quantile([pair.candidate for pair in pairs], weights, q),
        mixture_quantile([pair.baseline for pair in pairs], weights, q),
    )
