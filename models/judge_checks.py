"""What the judgements of all metrics share: the look's levels, checks with rounded figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.cohort_tests import TestResult
from models.gate_policy import GatePolicy
from models.judge_cohorts import Problem
from models.verdict import Check, MetricVerdict, Outcome, worst

SIGNIFICANT_DIGITS = 6
"""Figures are rounded before they are compared and kept: a verdict replays alike on any machine."""


@dataclass(frozen=True)
class Look:
    """One evaluation. ``alpha`` is what each metric's tests may use up together at this look."""

    policy: GatePolicy
    alpha: float
    last: bool
    expects_baseline: bool


def rounded(value: float) -> float:
    """``value`` to the significant digits that a verdict keeps; never a negative zero."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0


def make_check(
    name: str,
    outcome: Outcome,
    note: str,
    *,
    candidate: float | None = None,
    baseline: float | None = None,
    value: float | None = None,
    threshold: float | None = None,
    test: TestResult | None = None,
    alpha: float | None = None,
) -> Check:
    """A `Check` with its figures rounded."""
    return Check(
        name=name,
        outcome=outcome,
        note=note,
        candidate=_rounded(candidate),
        baseline=_rounded(baseline),
        value=_rounded(value),
        threshold=_rounded(threshold),
        method=test.method if test else None,
        statistic=_rounded(test.statistic if test else None),
        p_value=_rounded(test.p_value if test else None),
        alpha=_rounded(alpha),
    )


def significant(test: TestResult, alpha: float) -> bool:
    """Whether the test rejects at the level ``alpha``."""
    return rounded(test.p_value) <= rounded(alpha)


def data_checks(problems: Sequence[Problem]) -> list[Check]:
    """One check in error that names all that could not be read; none if all could."""
    if not problems:
        return []
    note = "; ".join(problem.text for problem in problems)
    return [make_check("data", "error", note)]


def samples_check(look: Look, candidate_n: int, baseline_n: int | None) -> Check:
    """Whether both cohorts are large enough to pass. ``baseline_n`` None: there is no baseline."""
    least = look.policy.min_samples
    if look.expects_baseline and baseline_n is None:
        note = "no region has a baseline to compare with"
        return make_check("samples", "inconclusive", note, candidate=candidate_n, threshold=least)
    compared = {"candidate": candidate_n, "baseline": baseline_n}
    short_of = [f"{name} {n}" for name, n in compared.items() if n is not None and n < least]
    return make_check(
        "samples",
        "inconclusive" if short_of else "pass",
        f"too few requests: {', '.join(short_of)} of {least}" if short_of else "enough requests",
        candidate=candidate_n,
        baseline=baseline_n,
        threshold=least,
    )


def metric_verdict(
    metric: str,
    unit: str,
    look: Look,
    checks: Sequence[Check],
    *,
    candidate: float | None = None,
    baseline: float | None = None,
    candidate_n: int = 0,
    baseline_n: int = 0,
) -> MetricVerdict:
    """A metric's outcome: its worst check, softened while the bake still has looks to come."""
    outcome = worst(check.outcome for check in checks)
    return MetricVerdict(
        metric=metric,
        unit=unit,
        outcome=_while_baking(outcome, look),
        why="; ".join(check.note for check in checks if check.outcome == outcome),
        candidate=_rounded(candidate),
        baseline=_rounded(baseline),
        candidate_n=candidate_n,
        baseline_n=baseline_n,
        checks=list(checks),
    )


def _while_baking(outcome: Outcome, look: Look) -> Outcome:
    if look.last or outcome == "error":
        return outcome
    if outcome == "fail" and look.policy.early_stop:
        return outcome
    return "continue"


def _rounded(value: float | None) -> float | None:
    return None if value is None else rounded(value)
