"""The judgement of the error rate: an absolute bound, and the baseline of the same regions."""

from collections.abc import Sequence

from models.cohort_tests import Stratum, risk_difference, share_above, stratified_excess
from models.gate_policy import ERROR_RATE
from models.judge_checks import (
    Look,
    data_checks,
    make_check,
    metric_verdict,
    samples_check,
    significant,
)
from models.judge_cohorts import Cohorts, RegionDelta
from models.verdict import Check, MetricVerdict

TESTS = 2
"""The bound and the comparison share the metric's alpha."""


def judge_errors(cohorts: Cohorts, look: Look) -> MetricVerdict:
    """Judge the share of requests that failed since the ring began."""
    requests = sum(each.candidate.requests for each in cohorts.regions)
    errors = sum(each.candidate.errors for each in cohorts.regions)
    paired = cohorts.paired if look.expects_baseline else []
    strata = [_stratum(each) for each in paired]
    baseline_n = sum(each.baseline_n for each in strata)
    compared_n = sum(each.candidate_n for each in strata) if strata else requests
    samples = samples_check(look, compared_n, baseline_n if strata else None)
    checks = [
        *data_checks(cohorts.problems),
        samples,
        _bound_check(look, errors, requests),
        *([_baseline_check(look, strata)] if strata else []),
    ]
    return metric_verdict(
        ERROR_RATE,
        "fraction",
        look,
        checks,
        candidate=errors / requests if requests else None,
        baseline=_standardised_rate(strata),
        candidate_n=requests,
        baseline_n=baseline_n,
    )


def _stratum(region: RegionDelta) -> Stratum:
    assert region.baseline is not None
    return Stratum(
        candidate_hits=region.candidate.errors,
        candidate_n=region.candidate.requests,
        baseline_hits=region.baseline.errors,
        baseline_n=region.baseline.requests,
    )


def _bound_check(look: Look, errors: int, requests: int) -> Check:
    """Clearly above the bound by an exact test; at the last look, measured above it is enough."""
    bound, alpha = look.policy.error_rate, look.alpha / TESTS
    rate = errors / requests if requests else 0.0
    test = share_above(errors, requests, bound)
    measured_above = look.last and requests >= look.policy.min_samples and rate > bound
    failed = significant(test, alpha) or measured_above
    return make_check(
        "absolute bound",
        "fail" if failed else "pass",
        f"{rate:.2%} of {requests} requests failed, {bound:.2%} may",
        candidate=rate,
        value=rate,
        threshold=bound,
        test=test,
        alpha=alpha,
    )


def _baseline_check(look: Look, strata: Sequence[Stratum]) -> Check:
    """More errors than the baseline: beyond chance, and beyond the margin."""
    margin, alpha = look.policy.error_rate_margin, look.alpha / TESTS
    test = stratified_excess(strata)
    excess = risk_difference(strata)
    failed = significant(test, alpha) and excess >= margin
    return make_check(
        "against the baseline",
        "fail" if failed else "pass",
        f"{excess * 100:+.2f} points of errors against the baseline, margin {margin * 100:g} "
        f"(p = {test.p_value:.2g})",
        candidate=sum(each.candidate_hits for each in strata),
        baseline=sum(each.baseline_hits for each in strata),
        value=excess,
        threshold=margin,
        test=test,
        alpha=alpha,
    )


def _standardised_rate(strata: Sequence[Stratum]) -> float | None:
    """The baseline's error rate, had its traffic come from the candidate's regions."""
    used = [each for each in strata if each.baseline_n and each.candidate_n]
    weights = sum(each.candidate_n for each in used)
    if not weights:
        return None
    return sum(each.candidate_n * each.baseline_hits / each.baseline_n for each in used) / weights
