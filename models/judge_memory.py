"""The judgement of memory (bound, level, leak) and of restarts of the release's processes."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean, median

from models.cohort_tests import rising_trend, steady_growth
from models.gate_policy import MEMORY_USAGE
from models.judge_checks import Look, data_checks, make_check, metric_verdict, significant
from models.judge_cohorts import Cohorts
from models.verdict import Check, Evidence, MetricVerdict

RESTARTS = "restarts"


@dataclass
class _Series:
    """Memory of one cohort in one region, MiB, oldest first; times in seconds."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, at: datetime, value: float | None) -> None:
        if value is not None:
            self.times.append(at.timestamp())
            self.values.append(value)

    def growth(self) -> float:
        """Steady growth, or what of it goes on: a cache that fills is not a leak.

        The lesser of the growth over all readings, and twice that over the newer half of them.
        """
        half = len(self.values) // 2
        newer = 2 * steady_growth(self.times[half:], self.values[half:])
        return max(0.0, min(steady_growth(self.times, self.values), newer))


@dataclass
class _RegionMemory:
    candidate: _Series = field(default_factory=_Series)
    baseline: _Series = field(default_factory=_Series)

    def excess_growth(self) -> float:
        """Growth of the candidate beyond what the baseline grew by under the same load, MiB."""
        return self.candidate.growth() - self.baseline.growth()


def judge_memory(evidence: Evidence, cohorts: Cohorts, look: Look) -> MetricVerdict:
    """Judge resident memory over all looks so far."""
    memory = _by_region(evidence)
    readable = {
        each.region: memory[each.region] for each in cohorts.regions if each.region in memory
    }
    compared = [
        each for each in readable.values() if each.baseline.values and each.candidate.values
    ]
    checks = [
        *data_checks(cohorts.problems),
        *_missing_checks(evidence, cohorts),
        *_bound_checks(look, memory),
        *(_level_checks(look, compared) if look.expects_baseline else []),
        *_leak_checks(look, readable),
    ]
    candidates = [each.candidate.values for each in memory.values() if each.candidate.values]
    return metric_verdict(
        MEMORY_USAGE,
        "MiB",
        look,
        checks,
        candidate=max((max(values) for values in candidates), default=None),
        baseline=max((max(each.baseline.values) for each in compared), default=None),
        candidate_n=sum(map(len, candidates)),
        baseline_n=sum(len(each.baseline.values) for each in compared),
    )


def judge_restarts(evidence: Evidence, cohorts: Cohorts, look: Look) -> MetricVerdict:
    """A release whose process had to be started again while it baked has failed."""
    before = {each.region: each.candidate for each in evidence.start}
    checks = data_checks(cohorts.problems)
    restarts = 0
    for observation in sorted(evidence.newest, key=lambda each: each.region):
        start, now = before.get(observation.region), observation.candidate
        if start is None or now is None or start.release != now.release:
            continue
        more = now.restarts - start.restarts
        restarts += max(0, more)
        if more > 0:
            note = f"{observation.region}: the release's process was restarted {more} times"
            checks.append(make_check("restarts", "fail", note, value=more, threshold=0))
    if not checks:
        checks.append(make_check("restarts", "pass", "no process was restarted", value=0))
    return metric_verdict(RESTARTS, "restarts", look, checks, candidate=restarts)


def _by_region(evidence: Evidence) -> dict[str, _RegionMemory]:
    regions: defaultdict[str, _RegionMemory] = defaultdict(_RegionMemory)
    for reading in evidence.memory:
        region = regions[reading.region]
        region.candidate.add(reading.at, reading.candidate_mb)
        region.baseline.add(reading.at, reading.baseline_mb)
    return dict(sorted(regions.items()))


def _missing_checks(evidence: Evidence, cohorts: Cohorts) -> list[Check]:
    """Memory that the newest observations of readable regions do not say."""
    readable = {each.region for each in cohorts.regions}
    missing = [
        f"{observation.region}: the {name}'s memory is not known"
        for observation in evidence.newest
        if observation.region in readable
        for name, cohort in (
            ("candidate", observation.candidate),
            ("baseline", observation.baseline if evidence.expects_baseline else None),
        )
        if cohort is not None and cohort.memory_mb is None
    ]
    if not evidence.memory:
        missing.append("no memory was read")
    return [make_check("data", "error", "; ".join(sorted(missing)))] if missing else []


def _bound_checks(look: Look, memory: dict[str, _RegionMemory]) -> list[Check]:
    """The highest reading of the bake is within the bound: a fact, not a matter of statistics."""
    peaks = {
        region: max(each.candidate.values)
        for region, each in memory.items()
        if each.candidate.values
    }
    if not peaks:
        return []
    bound = look.policy.memory_usage_mb
    region = max(peaks, key=lambda name: peaks[name])
    return [
        make_check(
            "absolute bound",
            "fail" if peaks[region] > bound else "pass",
            f"at most {peaks[region]:.4g} MiB ({region}), {bound:g} MiB are allowed",
            candidate=peaks[region],
            value=peaks[region],
            threshold=bound,
        )
    ]


def _level_checks(look: Look, compared: list[_RegionMemory]) -> list[Check]:
    """Medians over the bake, averaged over the regions; judged when the bake is over."""
    if not compared:
        return [make_check("against the baseline", "inconclusive", "no baseline's memory is known")]
    policy = look.policy
    candidate = fmean(median(each.candidate.values) for each in compared)
    baseline = fmean(median(each.baseline.values) for each in compared)
    threshold = max(baseline * policy.memory_ratio_margin, baseline + policy.memory_margin_mb)
    return [
        make_check(
            "against the baseline",
            "fail" if look.last and candidate >= threshold else "pass",
            f"median {candidate:.4g} MiB, the baseline's {baseline:.4g} MiB, "
            f"worse from {threshold:.4g} MiB",
            candidate=candidate,
            baseline=baseline,
            value=candidate,
            threshold=threshold,
        )
    ]


def _leak_checks(look: Look, readable: dict[str, _RegionMemory]) -> list[Check]:
    """A rise beyond chance over all regions that has gone beyond the margin and still goes on."""
    margin = look.policy.memory_growth_mb
    test = rising_trend([each.candidate.values for each in readable.values()])
    if not significant(test, look.alpha):
        return [
            make_check(
                "leak", "pass", "no steady rise", threshold=margin, test=test, alpha=look.alpha
            )
        ]
    grown = {name: each.excess_growth() for name, each in readable.items()}
    region = max(grown, key=lambda name: grown[name])
    return [
        make_check(
            "leak",
            "fail" if grown[region] >= margin else "pass",
            f"a steady rise of {grown[region]:.4g} MiB so far ({region}), margin {margin:g} MiB "
            f"(p = {test.p_value:.2g})",
            value=grown[region],
            threshold=margin,
            test=test,
            alpha=look.alpha,
        )
    ]
