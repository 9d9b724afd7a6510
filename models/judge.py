"""The gate's judgement: from evidence to verdict, the same for the same evidence, always.

Slow to import (SciPy): activities and commands import it, workflows do not.
"""

import hashlib

from models.canonical import canonical
from models.gate_policy import ERROR_RATE, KNOWN_METRICS, MEMORY_USAGE, P99_LATENCY
from models.judge_checks import Look, make_check, metric_verdict
from models.judge_cohorts import Cohorts, read_cohorts
from models.judge_errors import judge_errors
from models.judge_latency import judge_latency
from models.judge_memory import RESTARTS, judge_memory, judge_restarts
from models.sequential import look_alpha
from models.verdict import Evidence, MetricVerdict, Outcome, Verdict, worst


def judge(evidence: Evidence) -> Verdict:
    """Judge a ring by what was observed since it began.

    Never a pass unless every metric of the policy could be read, has enough samples, holds to its
    bound and is not worse than the baseline.
    """
    cohorts = read_cohorts(evidence)
    look = _look(evidence)
    # No policy is valid without a metric; one put together without validation is judged as "".
    names = evidence.policy.metrics or [""]
    metrics = [_judge_metric(name, evidence, cohorts, look) for name in names]
    metrics.append(judge_restarts(evidence, cohorts, look))
    outcome = worst(metric.outcome for metric in metrics)
    return Verdict(
        ring=evidence.ring,
        look=evidence.look,
        looks=evidence.looks,
        outcome=outcome,
        why=_why(outcome, metrics, evidence) + _without_baseline(evidence, cohorts),
        retryable=outcome == "error" and _may_heal(cohorts, metrics),
        candidate=_candidate(evidence),
        baselines=sorted({each.baseline.release for each in cohorts.paired if each.baseline}),
        regions=sorted({each.region for each in evidence.newest}),
        metrics=metrics,
        evidence_digest=evidence_digest(evidence),
    )


def evidence_digest(evidence: Evidence) -> str:
    """SHA-256, hex, of the evidence as canonical JSON (RFC 8785)."""
    return hashlib.sha256(canonical(evidence.model_dump(mode="json"))).hexdigest()


def _look(evidence: Evidence) -> Look:
    policy = evidence.policy
    alpha = look_alpha(policy.alpha, evidence.look, evidence.looks, early_stop=policy.early_stop)
    return Look(
        policy=policy,
        alpha=alpha / max(1, len(policy.metrics)),
        last=evidence.look == evidence.looks,
        expects_baseline=evidence.expects_baseline,
    )


def _judge_metric(metric: str, evidence: Evidence, cohorts: Cohorts, look: Look) -> MetricVerdict:
    if metric == P99_LATENCY:
        return judge_latency(cohorts, look)
    if metric == ERROR_RATE:
        return judge_errors(cohorts, look)
    if metric == MEMORY_USAGE:
        return judge_memory(evidence, cohorts, look)
    note = f"unknown metric {metric!r}"
    return metric_verdict(metric, "", look, [make_check("data", "error", note)])


def _candidate(evidence: Evidence) -> str | None:
    releases = {each.candidate.release for each in evidence.newest if each.candidate}
    return releases.pop() if len(releases) == 1 else None


def _may_heal(cohorts: Cohorts, metrics: list[MetricVerdict]) -> bool:
    """Whether all that is in error may be readable at a later look."""
    known = {*KNOWN_METRICS, RESTARTS}
    return all(metric.metric in known for metric in metrics) and not any(
        problem.lasting for problem in cohorts.problems
    )


def _why(outcome: Outcome, metrics: list[MetricVerdict], evidence: Evidence) -> str:
    if outcome == "continue":
        why = f"nothing speaks against the release at look {evidence.look} of {evidence.looks}"
    elif outcome == "pass":
        why = "every metric holds: " + ", ".join(evidence.policy.metrics)
    else:
        guilty = [metric for metric in metrics if metric.outcome == outcome]
        shared = {metric.why for metric in guilty}
        why = (
            shared.pop()
            if len(shared) == 1
            else "; ".join(f"{metric.metric}: {metric.why}" for metric in guilty)
        )
    return why


def _without_baseline(evidence: Evidence, cohorts: Cohorts) -> str:
    """What the reader must know about where nothing was compared."""
    if not evidence.expects_baseline:
        return " (nothing runs the old release any more: judged by absolute bounds alone)"
    alone = [each.region for each in cohorts.regions if each.baseline is None]
    if alone and cohorts.paired:
        return f" (no baseline in {', '.join(alone)}: judged there by absolute bounds alone)"
    return ""
