"""What the judge cannot trust, or has too little of, never passes: error and inconclusive."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from judge_evidence import BEGIN, BOUNDS, LOOKS, POLICY, altered, cohort, evidence, metric
from pydantic import ValidationError

from models.judge import judge
from models.observation import Histogram
from models.verdict import Evidence, worst


def without(name: str) -> Callable[[Evidence], Evidence]:
    return lambda base: altered(base, "newest", **{name: None})


UNREADABLE: dict[str, tuple[Callable[[Evidence], Evidence], bool]] = {  # and whether it may heal
    "provider's problem": (lambda base: altered(base, "newest", problem="envoy is down"), True),
    "problem at the start": (lambda base: altered(base, "start", problem="down"), False),
    "no candidate": (without("candidate"), True),
    "no candidate at the start": (lambda base: altered(base, "start", candidate=None), False),
    "baseline gone": (without("baseline"), True),
    "stale candidate": (cohort("candidate", at=BEGIN + timedelta(seconds=5)), True),
    "stale baseline": (cohort("baseline", at=BEGIN + timedelta(seconds=5)), True),
    "a point from the future": (cohort("candidate", at=BEGIN + timedelta(hours=1)), True),
    "no new point": (cohort("candidate", "start", at=BEGIN + timedelta(seconds=40)), True),
    "candidate's source changed": (cohort("candidate", source="two"), False),
    "baseline's source changed": (cohort("baseline", source="two"), False),
    "requests went down": (cohort("candidate", requests=10), False),
    "errors went down": (cohort("candidate", "start", errors=400), False),
    "buckets went down": (
        cohort("candidate", latency=Histogram(bounds=BOUNDS, counts=[0] * 8)),
        False,
    ),
    "bounds changed": (
        cohort("baseline", latency=Histogram(bounds=[1.0], counts=[9000, 9000])),
        False,
    ),
    "more errors than requests": (cohort("candidate", errors=9000), True),
    "another baseline": (cohort("baseline", release="sha256:" + "d" * 64), False),
    "memory unknown": (cohort("candidate", memory_mb=None), True),
    "baseline's memory unknown": (cohort("baseline", memory_mb=None), True),
    "no region": (lambda base: base.model_copy(update={"start": [], "newest": []}), True),
    "region lost": (lambda base: base.model_copy(update={"newest": []}), True),
    "region new": (lambda base: base.model_copy(update={"start": []}), False),
    "unknown metric": (
        lambda base: base.model_copy(
            update={"policy": base.policy.model_copy(update={"metrics": ["joy"]})}
        ),
        False,
    ),
    "no metric": (
        lambda base: base.model_copy(
            update={"policy": base.policy.model_copy(update={"metrics": []})}
        ),
        False,
    ),
}


@pytest.mark.parametrize("look", [1, LOOKS])
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_trusted_is_an_error(name: str, look: int):
    spoil, may_heal = UNREADABLE[name]
    if name == "stale candidate" or name == "stale baseline":
        base = evidence(look, policy=POLICY.model_copy(update={"max_point_age_seconds": 4.0}))
    else:
        base = evidence(look)
    verdict = judge(spoil(base))
    assert verdict.outcome == "error", verdict.why
    assert verdict.retryable is may_heal
    assert verdict.why


def test_a_region_in_error_does_not_hide_a_clear_failure_elsewhere():
    base = evidence(regions=("apac", "eu"), candidate={"errors": 0.2})
    verdict = judge(altered(base, "newest", problem="prometheus is down"))
    assert verdict.outcome == "fail"
    assert metric(verdict, "memory_usage_mb").outcome == "error"


def test_one_region_in_error_is_enough_not_to_pass():
    base = altered(evidence(regions=("apac", "eu", "us-east")), "newest", 1, problem="down")
    verdict = judge(base)
    assert verdict.outcome == "error"
    assert "eu: down" in verdict.why


def test_two_candidates_are_an_error():
    base = evidence(regions=("apac", "eu"))
    other = "sha256:" + "e" * 64
    for where in ("start", "newest"):
        seen = getattr(base, where)[1].candidate.model_copy(update={"release": other})
        base = altered(base, where, 1, candidate=seen)
    assert judge(base).outcome == "error"


def test_nan_cannot_even_enter():
    spoilt = evidence().model_dump(mode="json")
    spoilt["newest"][0]["candidate"]["memory_mb"] = float("nan")
    with pytest.raises(ValidationError, match="memory_mb"):
        Evidence.model_validate(spoilt)


def test_a_region_twice_or_a_look_too_many_is_refused():
    base = evidence().model_dump(mode="json")
    with pytest.raises(ValidationError, match="newest: a region is observed twice"):
        Evidence.model_validate(base | {"newest": base["newest"] * 2})
    with pytest.raises(ValidationError, match="look"):
        Evidence.model_validate(base | {"look": LOOKS + 1})


@pytest.mark.parametrize("few", ["candidate", "baseline"])
def test_too_few_samples_are_inconclusive_at_the_end(few: str):
    rates = {few: {"rate": 124}}
    assert judge(evidence(2, **rates)).outcome == "continue"
    verdict = judge(evidence(**rates))
    assert verdict.outcome == "inconclusive"
    assert f"{few} 496 of 500" in verdict.why
    assert judge(evidence(**{few: {"rate": 125}})).outcome == "pass"


def test_an_idle_candidate_is_inconclusive():
    idle = {"rate": 0, "history": 0, "latency": [0.0] * 8}
    assert judge(evidence(candidate=idle)).outcome == "inconclusive"
    empty = {"latency": Histogram(bounds=[], counts=[0]), "requests": 0, "errors": 0}
    base = evidence()
    for where in ("start", "newest"):
        base = cohort("candidate", where, **empty)(base)
    assert judge(base).outcome == "inconclusive"


def test_requests_without_latency_are_inconclusive():
    empty = Histogram(bounds=[], counts=[0])
    base = evidence()
    for where in ("start", "newest"):
        base = cohort("candidate", where, latency=empty)(base)
    verdict = judge(base)
    assert verdict.outcome == "inconclusive"
    assert metric(verdict, "error_rate").outcome == "pass"


def test_a_missing_baseline_is_inconclusive_where_one_is_expected():
    base = evidence()
    for where in ("start", "newest"):
        base = altered(base, where, baseline=None)
    base = base.model_copy(
        update={"memory": [each.model_copy(update={"baseline_mb": None}) for each in base.memory]}
    )
    verdict = judge(base)
    assert verdict.outcome == "inconclusive"
    assert "no region has a baseline" in verdict.why
    last_ring = judge(base.model_copy(update={"expects_baseline": False}))
    assert last_ring.outcome == "pass"
    assert "absolute bounds alone" in last_ring.why
    early = judge(base.model_copy(update={"look": 1}))
    assert early.outcome == "continue"


def test_a_region_without_baseline_is_named_and_held_to_the_bounds():
    base = evidence(regions=("apac", "eu"))
    for where in ("start", "newest"):
        base = altered(base, where, baseline=None)
    verdict = judge(base)
    assert verdict.outcome == "pass"
    assert "no baseline in apac" in verdict.why


def test_the_last_ring_is_held_to_the_absolute_bounds():
    assert judge(evidence(expects_baseline=False, candidate={"errors": 0.009})).outcome == "pass"
    for bad in ({"errors": 0.012}, {"latency": [0.9, 0, 0, 0, 0, 0, 0.1, 0]}, {"memory": 513.0}):
        verdict = judge(evidence(expects_baseline=False, candidate=bad))
        assert verdict.outcome == "fail", bad


def test_a_p99_beyond_the_last_bucket_is_no_pass():
    policy = POLICY.model_copy(update={"p99_latency_ms": 5000.0})
    tail = {"latency": [0.9, 0, 0, 0, 0, 0, 0, 0.1]}
    verdict = judge(evidence(candidate=tail, baseline=tail, policy=policy, expects_baseline=False))
    assert verdict.outcome == "error"
    assert "last bucket" in verdict.why


def test_worst_of_nothing_is_an_error():
    assert worst([]) == "error"
    assert worst(["pass", "error", "fail", "inconclusive"]) == "fail"
    assert worst(["pass", "error", "inconclusive"]) == "error"
    assert worst(["pass", "continue"]) == "continue"
