#!/usr/bin/env python
"""How often a gate raises a false alarm, and how often it finds what is wrong.

Runs the real judge on simulated rings: five regions of different speed, every look of the bake,
candidate traffic that is spread over the regions otherwise than the baseline's. Prints a Markdown
table. The same seed prints the same table.

    scripts/gate_power.py --runs 1000 --seed 7
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from scipy import stats

from gateway.bootstrap import LATENCY_BOUNDS_MS
from models.gate_policy import GatePolicy
from models.judge import judge
from models.observation import CohortSnapshot, Histogram, RegionObservation
from models.verdict import Verdict, gather_evidence

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
CANDIDATE, BASELINE = "sha256:" + "c" * 64, "sha256:" + "b" * 64
SPREAD = 0.5  # standard deviation of the logarithm of latency: p99 is 3.2 times the median


@dataclass(frozen=True)
class Region:
    """Median latency (ms), and shares of the candidate's and the baseline's traffic."""

    code: str
    median_ms: float
    candidate_share: float
    baseline_share: float


REGIONS = (
    Region("apac", 35.0, 0.35, 0.10),
    Region("eu", 8.0, 0.20, 0.35),
    Region("latam", 60.0, 0.15, 0.05),
    Region("us-east", 6.0, 0.20, 0.35),
    Region("us-west", 12.0, 0.10, 0.15),
)
TWO_REGIONS = (Region("apac", 35.0, 0.6, 0.2), Region("eu", 8.0, 0.4, 0.8))


@dataclass(frozen=True)
class Release:
    """How a release behaves. ``slow_share`` of its requests take ``slow_factor`` times longer."""

    error_rate: float = 0.001
    slow_share: float = 0.0
    slow_factor: float = 1.0
    leak_mb: float = 0.0  # over the whole bake
    memory_mb: float = 120.0
    memory_noise_mb: float = 4.0

    def buckets(self, median_ms: float) -> np.ndarray:
        """Probability of each latency bucket, the one without a bound included."""
        parts = ((1 - self.slow_share, 1.0), (self.slow_share, self.slow_factor))
        cumulative = sum(
            share * stats.lognorm.cdf(LATENCY_BOUNDS_MS, SPREAD, scale=median_ms * factor)
            for share, factor in parts
        )
        return np.diff(np.concatenate([[0.0], cumulative, [1.0]]))


GOOD = Release()
FLAWED = Release(error_rate=0.005)
SCENARIOS = {  # what is rolled out, and what ran before
    "equal releases": (GOOD, GOOD),
    "equal releases, 0.5 % errors": (FLAWED, FLAWED),
    "10 % of requests x10": (Release(slow_share=0.10, slow_factor=10), GOOD),
    "all requests x1.5": (Release(slow_share=1.0, slow_factor=1.5), GOOD),
    "3 % errors": (Release(error_rate=0.03), GOOD),
    "leak of 60 MiB over the bake": (Release(leak_mb=60), GOOD),
}


class Cohort:
    """One release in one region, whose counters grow from look to look."""

    def __init__(
        self, digest: str, release: Release, region: Region, requests: int, rng: np.random.Generator
    ) -> None:
        self._digest, self._release, self._requests, self._rng = digest, release, requests, rng
        self._odds = release.buckets(region.median_ms)
        self._counts = np.zeros(len(self._odds), dtype=np.int64)
        self._errors = 0

    def serve(self, requests: int) -> None:
        self._counts += self._rng.multinomial(requests, self._odds)
        self._errors += int(self._rng.binomial(requests, self._release.error_rate))

    def snapshot(self, at: datetime, progress: float) -> CohortSnapshot:
        memory = self._release.memory_mb + self._release.leak_mb * progress
        counts = np.cumsum(self._counts).tolist()
        return CohortSnapshot(
            release=self._digest,
            at=at,
            source="simulation",
            requests=counts[-1],
            errors=self._errors,
            latency=Histogram(bounds=LATENCY_BOUNDS_MS, counts=counts),
            memory_mb=memory + self._release.memory_noise_mb * abs(self._rng.normal()),
        )

    def due(self, look: int, looks: int) -> int:
        """Requests of this look, so that all looks together make the cohort's number."""
        return self._requests * look // looks - self._requests * (look - 1) // looks


def run_ring(
    policy: GatePolicy,
    candidate: Release,
    rng: np.random.Generator,
    *,
    samples: int,
    baseline: Release = GOOD,
    baseline_ratio: float = 1.0,
    regions: Sequence[Region] = REGIONS,
    judged: Callable[[Verdict], None] = lambda verdict: None,
) -> Verdict:
    """One ring with ``samples`` candidate requests in all; its last verdict.

    ``judged`` is told the verdict of each look.
    """
    cohorts = [
        (
            region,
            Cohort(CANDIDATE, candidate, region, _part(samples, region.candidate_share), rng),
            Cohort(
                BASELINE,
                baseline,
                region,
                _part(samples * baseline_ratio, region.baseline_share),
                rng,
            ),
        )
        for region in regions
    ]
    start = _observe(cohorts, BEGIN, 0.0)
    series: list[list[RegionObservation]] = []
    for look in range(1, policy.looks + 1):
        for _, one, other in cohorts:
            one.serve(one.due(look, policy.looks))
            other.serve(other.due(look, policy.looks))
        at = BEGIN + timedelta(seconds=policy.bake_seconds * look / policy.looks)
        series.append(_observe(cohorts, at, look / policy.looks))
        verdict = judge(
            gather_evidence(
                ring="5%",
                look=look,
                looks=policy.looks,
                policy=policy,
                start=start,
                series=series,
                expects_baseline=True,
            )
        )
        judged(verdict)
        if verdict.outcome != "continue":
            break
    return verdict


def _part(samples: float, share: float) -> int:
    return int(np.ceil(samples * share - 1e-9))


def _observe(
    cohorts: Sequence[tuple[Region, Cohort, Cohort]], at: datetime, progress: float
) -> list[RegionObservation]:
    return [
        RegionObservation(
            region=region.code,
            at=at,
            candidate=candidate.snapshot(at, progress),
            baseline=baseline.snapshot(at, progress),
        )
        for region, candidate, baseline in cohorts
    ]


def failing_share(
    policy: GatePolicy,
    release: Release,
    *,
    runs: int,
    seed: int,
    samples: int,
    baseline: Release = GOOD,
    regions: Sequence[Region] = REGIONS,
) -> tuple[float, float]:
    """Share of rings that fail, and the mean look at which they do."""
    rng = np.random.default_rng(seed)
    verdicts = [
        run_ring(policy, release, rng, samples=samples, baseline=baseline, regions=regions)
        for _ in range(runs)
    ]
    failed = [verdict.look for verdict in verdicts if verdict.outcome == "fail"]
    return len(failed) / runs, float(np.mean(failed)) if failed else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=400, help="simulated rings per cell")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--min-samples", type=int, default=GatePolicy().min_samples)
    parser.add_argument("--multiples", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    policy = GatePolicy(min_samples=arguments.min_samples)
    print(f"{arguments.runs} rings per cell, seed {arguments.seed}, {policy.looks} looks,")
    print(f"alpha {policy.alpha:g}; share of rings that fail (mean look at which they do)\n")
    columns = [multiple * policy.min_samples for multiple in arguments.multiples]
    print("| release | " + " | ".join(f"{samples} requests" for samples in columns) + " |")
    print("|---|" + "--:|" * len(columns))
    for name, (release, baseline) in SCENARIOS.items():
        cells = []
        for samples in columns:
            share, look = failing_share(
                policy,
                release,
                runs=arguments.runs,
                seed=arguments.seed,
                samples=samples,
                baseline=baseline,
            )
            cells.append(f"{share:.1%}" + ("" if np.isnan(look) else f" ({look:.1f})"))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
