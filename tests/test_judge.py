"""The judge on hand-made evidence, one deviation at a time, and its error rates by simulation."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_evidence import (
    BASELINE,
    CANDIDATE,
    LOOKS,
    POLICY,
    SLOW_TENTH,
    altered,
    cohort,
    evidence,
    metric,
    region,
)

from models.gate_policy import GatePolicy
from models.judge import evidence_digest, judge
from models.verdict import Evidence, Verdict, gather_evidence, render_markdown

# --- the good case ---


def test_equal_releases_pass():
    verdict = judge(evidence(regions=("eu", "us-east")))
    assert verdict.outcome == "pass"
    assert [each.outcome for each in verdict.metrics] == ["pass"] * 4
    assert (verdict.candidate, verdict.baselines) == (CANDIDATE, [BASELINE])
    assert metric(verdict, "error_rate").candidate_n == 8000
    assert metric(verdict, "error_rate").candidate == pytest.approx(0.002)


def test_only_what_happened_since_the_start_counts():
    base = evidence()
    burnt = base.start[0].candidate.model_copy(update={"errors": 3000})
    now = base.newest[0].candidate.model_copy(update={"errors": 3008})
    base = altered(altered(base, "start", candidate=burnt), "newest", candidate=now)
    assert judge(base).outcome == "pass"


@pytest.mark.parametrize("look", range(1, LOOKS))
def test_before_the_last_look_a_good_release_continues(look: int):
    verdict = judge(evidence(look))
    assert verdict.outcome == "continue"
    assert f"look {look} of {LOOKS}" in verdict.why


# --- clear failures ---


@pytest.mark.parametrize(
    ("candidate", "guilty", "check"),
    [
        ({"latency": SLOW_TENTH}, "p99_latency_ms", "p99 against the baseline"),
        ({"errors": 0.03}, "error_rate", "absolute bound"),
        ({"errors": 0.009}, "error_rate", "against the baseline"),
        ({"latency": [0.3, 0.3, 0.3, 0, 0, 0, 0.1, 0]}, "p99_latency_ms", "absolute bound"),
        ({"memory": 600.0}, "memory_usage_mb", "absolute bound"),
        ({"memory": 170.0}, "memory_usage_mb", "against the baseline"),
    ],
)
def test_a_bad_release_fails_by_the_metric_that_is_bad(
    candidate: dict[str, Any], guilty: str, check: str
):
    verdict = judge(evidence(candidate=candidate))
    assert verdict.outcome == "fail"
    assert [each.metric for each in verdict.metrics if each.outcome == "fail"] == [guilty]
    failed = [each.name for each in metric(verdict, guilty).checks if each.outcome == "fail"]
    assert check in failed
    assert metric(verdict, guilty).why in verdict.why


def test_a_slow_tenth_is_found_though_the_median_stands_still():
    verdict = judge(evidence(candidate={"latency": SLOW_TENTH}))
    median, _, p99 = metric(verdict, "p99_latency_ms").checks[-3:]
    assert (median.outcome, p99.outcome) == ("pass", "fail")
    assert p99.candidate > 4 * p99.baseline


def test_a_clear_failure_stops_early_unless_told_to_wait():
    bad = {"errors": 0.2}
    assert judge(evidence(1, candidate=bad)).outcome == "fail"
    patient = POLICY.model_copy(update={"early_stop": False})
    assert judge(evidence(1, candidate=bad, policy=patient)).outcome == "continue"
    assert judge(evidence(LOOKS, candidate=bad, policy=patient)).outcome == "fail"


def test_a_clear_failure_needs_no_minimum_of_samples():
    verdict = judge(evidence(1, candidate={"errors": 0.5, "rate": 60}))
    assert verdict.outcome == "fail"


def test_a_restart_fails_even_where_counters_can_not_be_read():
    base = evidence()
    crashed = base.newest[0].candidate.model_copy(update={"restarts": 1, "source": "two"})
    verdict = judge(altered(base, "newest", candidate=crashed))
    assert verdict.outcome == "fail"
    assert metric(verdict, "restarts").outcome == "fail"
    assert metric(verdict, "error_rate").outcome == "error"


def test_restarts_before_the_ring_do_not_count():
    base = evidence(candidate={"restarts": 3}, baseline={"restarts": 1})
    assert judge(base).outcome == "pass"


def leaking(values: list[float], baseline: list[float] | None = None) -> Verdict:
    looks = [
        [
            region(
                now,
                code,
                candidate={"memory": values[now - 1], "rate": 600},
                baseline={"memory": (baseline or [100.0] * len(values))[now - 1], "rate": 600},
            )
            for code in ("apac", "eu", "us-east")
        ]
        for now in range(len(values) + 1)
    ]
    return judge(
        gather_evidence(
            ring="5%",
            look=len(values),
            looks=len(values),
            policy=GatePolicy(looks=len(values), min_samples=500),
            start=looks[0],
            series=looks[1:],
            expects_baseline=True,
        )
    )


RISING = [100.0 + 8 * step for step in range(7)]


def test_a_leak_is_found_below_every_bound():
    verdict = leaking(RISING)
    assert verdict.outcome == "fail"
    assert "steady rise" in metric(verdict, "memory_usage_mb").why


def test_a_rise_that_ends_is_a_cache_and_one_below_the_margin_is_nothing():
    assert leaking([100.0, 120.0, 140.0, 148.0, 149.0, 150.0, 150.5]).outcome == "pass"
    assert leaking([100.0 + 4 * step for step in range(7)]).outcome == "pass"


def test_memory_that_rises_as_much_in_the_baseline_is_the_load():
    assert leaking(RISING, baseline=RISING).outcome == "pass"


# --- margins, and where traffic comes from ---


def test_a_difference_that_nobody_feels_passes_at_any_size():
    slightly = [0.29, 0.30, 0.30, 0.10, 0.01, 0.0, 0.0, 0.0]
    many = {"rate": 2_000_000}
    worse = {"latency": slightly, "errors": 0.0025}
    verdict = judge(evidence(candidate=many | worse, baseline=many))
    checks = [each for each in metric(verdict, "error_rate").checks if each.p_value is not None]
    assert checks[-1].p_value < 1e-6
    assert verdict.outcome == "pass"


def test_a_slow_region_is_not_a_slow_release():
    slow = [0.0, 0.0, 0.10, 0.30, 0.30, 0.30, 0.0, 0.0]
    many, few = 3000, 200
    looks = [
        [
            region(now, "apac", candidate={"latency": slow, "rate": many},
                   baseline={"latency": slow, "rate": few}),
            region(now, "eu", candidate={"rate": few}, baseline={"rate": many}),
        ]
        for now in range(LOOKS + 1)
    ]  # fmt: skip
    verdict = judge(
        gather_evidence(
            ring="5%", look=LOOKS, looks=LOOKS, policy=POLICY, start=looks[0], series=looks[1:],
            expects_baseline=True,
        )
    )  # fmt: skip
    assert verdict.outcome == "pass"
    latency = metric(verdict, "p99_latency_ms")
    assert latency.baseline == pytest.approx(latency.candidate, rel=0.02)


def test_a_release_that_is_slow_everywhere_cannot_hide_in_fast_regions():
    slower = [0.0, 0.30, 0.30, 0.30, 0.09, 0.01, 0.0, 0.0]
    slow = [0.0, 0.0, 0.10, 0.30, 0.30, 0.30, 0.0, 0.0]
    looks = [
        [
            region(now, "apac", candidate={"latency": slow, "rate": 200},
                   baseline={"latency": slow, "rate": 3000}),
            region(now, "eu", candidate={"latency": slower, "rate": 3000}, baseline={"rate": 200}),
        ]
        for now in range(LOOKS + 1)
    ]  # fmt: skip
    verdict = judge(
        gather_evidence(
            ring="5%", look=LOOKS, looks=LOOKS, policy=POLICY, start=looks[0], series=looks[1:],
            expects_baseline=True,
        )
    )  # fmt: skip
    assert metric(verdict, "p99_latency_ms").outcome == "fail"


# --- replay ---


@given(errors=st.floats(0, 0.1), memory=st.floats(1, 900), look=st.integers(1, LOOKS))
@settings(max_examples=25, deadline=None)
def test_the_same_evidence_gives_the_same_bytes(errors: float, memory: float, look: int):
    base = evidence(look, candidate={"errors": errors, "memory": memory})
    again = Evidence.model_validate_json(base.model_dump_json())
    assert judge(base).model_dump_json() == judge(again).model_dump_json()
    assert evidence_digest(base) == evidence_digest(again)


def test_the_digest_notices_any_change():
    base = evidence()
    changed = cohort("candidate", errors=9)(base)
    assert judge(base).evidence_digest != judge(changed).evidence_digest


def test_evidence_of_a_whole_bake_in_five_regions_is_small():
    looks = [
        [region(now, code) for code in ("apac", "eu", "latam", "us-east", "us-west")]
        for now in range(13)
    ]
    whole = gather_evidence(
        ring="5%", look=12, looks=12, policy=GatePolicy(), start=looks[0], series=looks[1:],
        expects_baseline=True,
    )  # fmt: skip
    assert len(whole.model_dump_json()) < 30_000


def test_markdown_names_what_failed():
    text = render_markdown(judge(evidence(candidate={"errors": 0.03})))
    assert "**Gate of ring 5%: FAIL**" in text
    assert "| error_rate | fail | 0.03 | 4000 | 0.002 | 4000 | fraction |" in text
    assert "3.00% of 4000 requests failed, 1.00% may" in text


# --- error rates, by simulation on the real judge ---


@pytest.fixture(scope="module")
def power() -> ModuleType:
    path = Path(__file__).parent.parent / "scripts" / "gate_power.py"
    spec = importlib.util.spec_from_file_location("gate_power", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_twelve_looks_at_equal_releases_seldom_fail(power: ModuleType):
    policy, runs = GatePolicy(), 200
    assert policy.looks == 12
    share, _ = power.failing_share(
        policy,
        power.FLAWED,
        baseline=power.FLAWED,
        runs=runs,
        seed=11,
        samples=policy.min_samples,
        regions=power.TWO_REGIONS,
    )
    assert share <= 0.05


@pytest.mark.parametrize("scenario", ["10 % of requests x10", "3 % errors"])
def test_bad_releases_are_found_at_the_minimum_of_samples(power: ModuleType, scenario: str):
    policy = GatePolicy()
    release, baseline = power.SCENARIOS[scenario]
    share, _ = power.failing_share(
        policy,
        release,
        baseline=baseline,
        runs=60,
        seed=12,
        samples=policy.min_samples,
        regions=power.TWO_REGIONS,
    )
    assert share >= 0.95


def test_all_tests_of_a_bake_together_spend_no_more_than_alpha(power: ModuleType):
    import numpy as np

    spent: list[float] = []
    power.run_ring(
        GatePolicy(),
        power.GOOD,
        np.random.default_rng(1),
        samples=1000,
        regions=power.TWO_REGIONS,
        judged=lambda verdict: spent.extend(
            check.alpha or 0.0 for each in verdict.metrics for check in each.checks
        ),
    )
    assert len(spent) >= 12 * 7
    assert sum(spent) == pytest.approx(0.05, rel=1e-4)
