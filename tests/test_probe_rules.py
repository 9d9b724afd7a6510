"""When probes make a verdict, when it ends, and when a failover may follow by itself."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import ConfigError, load_config
from models.config_recovery import FailureDetection
from models.probe import (
    LOST,
    MOST_FLYING,
    Health,
    Outcome,
    Pace,
    Probe,
    next_begin,
    pace,
    timed,
)
from models.watch import DAY, MOST_A_DAY, WatchStep, next_failover, reported

START = datetime(2026, 11, 28, tzinfo=UTC)
DEFAULT = pace(FailureDetection())
OUTCOMES: list[Outcome] = ["ok", "down", "corrupted", "slow"]


def probe(second: float, outcome: Outcome = "down", why: str = "") -> Probe:
    at = START + timedelta(seconds=second)
    return Probe(outcome=outcome, at=at, seconds=0.1, why=why)


def health(*outcomes: Outcome) -> Health:
    found = Health()
    for second, outcome in enumerate(outcomes):
        found = found.after(probe(second, outcome))
    return found


def seconds_to_verdict(rules: Pace, failed: float, takes: float, outcome: Outcome) -> float:
    """Play the probing of a store that from ``failed`` on answers in ``takes`` seconds, badly."""
    found, now, last = Health(), 0.0, None
    flights: list[tuple[float, float]] = []
    lost: set[float] = set()
    while found.verdict is None:
        flying = [began for began, _ in flights if began not in lost]
        due = next_begin(rules, last, flying, len(flights) - len(flying))
        if due is not None and due <= now:
            last = now
            flights.append((now, now + (takes if now >= failed else 0.01)))
        answered = [each for each in flights if each[1] <= now]
        flights = [each for each in flights if each[1] > now]
        for began, _ in answered:
            found = found.after(probe(began, outcome if began >= failed else "ok"))
        for began, _ in flights:
            if began not in lost and now - began >= rules.patience:
                lost.add(began)
                found = found.after(probe(began, "down", "no answer"))
        assert len(flights) <= MOST_FLYING
        now += 0.05
    return now - failed


@given(
    failed=st.floats(0.1, 60),
    takes=st.one_of(st.just(0.02), st.floats(0.02, 40), st.just(1e9)),
    outcome=st.sampled_from(OUTCOMES[1:]),
)
def test_a_failure_has_its_verdict_in_25_seconds(failed: float, takes: float, outcome: Outcome):
    assert seconds_to_verdict(DEFAULT, failed, takes, outcome) <= 25


@given(interval=st.integers(1, 300), extra=st.integers(0, 600), slow=st.integers(1, 600_000))
def test_every_configuration_that_holds_keeps_its_timeout(interval: int, extra: int, slow: int):
    timeout = -(-interval * 24 // 10) + extra
    text = (
        f"[failure_detection]\nheartbeat_interval_seconds = {interval}\n"
        f"heartbeat_timeout_seconds = {timeout}\nread_latency_threshold_ms = {slow}"
    )
    rules = pace(load_config(text).failure_detection)
    assert rules.worst <= timeout * 5 / 6 + 1e-9 and rules.patience > 0


def test_a_timeout_that_leaves_no_time_for_a_second_probe_is_refused():
    text = "[failure_detection]\nheartbeat_timeout_seconds = 20"
    with pytest.raises(ConfigError, match=r"failure_detection\.heartbeat_timeout_seconds"):
        load_config(text)


@pytest.mark.parametrize("fault", OUTCOMES[1:])
def test_one_bad_probe_is_no_verdict_and_two_are(fault: Outcome):
    assert health("ok", fault).verdict is None
    assert health("ok", fault, "ok", fault, "ok").verdict is None
    found = health("ok", fault, fault).verdict
    assert found is not None and found.fault == fault
    assert found.since == START + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("outcomes", "fault"),
    [
        (("down", "slow"), "slow"),  # it answers
        (("corrupted", "down"), "down"),
        (("down", "corrupted"), "down"),  # that it lies is said once only
        (("down", "corrupted", "corrupted"), "corrupted"),
    ],
)
def test_a_mixed_verdict_is_the_milder_one(outcomes: tuple[Outcome, ...], fault: str):
    found = health(*outcomes).verdict
    assert found is not None and found.fault == fault


@given(st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=12))
def test_a_verdict_needs_bad_probes_in_a_row_at_the_end(outcomes: list[Outcome]):
    tail = outcomes[-LOST:]
    assert (health(*outcomes).verdict is not None) == (len(tail) == LOST and "ok" not in tail)


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(OUTCOMES)), min_size=1, unique=True))
def test_what_began_before_a_good_probe_says_nothing(answers: list[tuple[int, Outcome]]):
    """Answers come in any order; a probe is one whatever it was said to be before."""
    found = Health()
    for second, outcome in answers:
        found = found.after(probe(second, outcome))
    assert found.good is None or all(each.at > found.good.at for each in found.bad)
    assert len({each.at for each in found.bad}) == len(found.bad)


def test_a_lost_probe_that_is_answered_late_counts_once():
    found = health("down").after(probe(0, "slow", "a read took 12 s"))
    assert [each.outcome for each in found.bad] == ["slow"] and found.verdict is None


def test_reads_over_the_threshold_are_slow():
    assert timed(10.0, 10.0) == ("ok", "")
    assert timed(10.1, 10.0)[0] == "slow"


def test_a_standing_verdict_ends_by_good_probes_in_a_row_unless_the_region_is_degraded():
    verdict = health("down", "down").verdict
    step = WatchStep(standing=verdict)

    def say(found: Health, *, degraded: bool = False, until: bool = False):
        due = WatchStep(standing=verdict, until=START) if until else step
        return reported(due, found, degraded=degraded, over=False, now=START)

    assert say(health("down", "ok", "ok")) is None
    well = health("down", "ok", "ok", "ok")
    assert (said := say(well)) is not None and said.recovered
    assert say(well, degraded=True) is None
    assert (said := say(well, degraded=True, until=True)) is not None and said.verdict == verdict
    assert say(health("down", "down")) is None  # known, and nothing may be done about it yet
    assert (said := say(health("down", "down"), until=True)) is not None and said.verdict


@given(st.lists(st.integers(0, 3 * 86_400), max_size=60))
def test_a_store_that_comes_and_goes_fails_over_seldom(moments: list[int]):
    """However verdicts come: three failovers in any day, and minutes between any two."""
    ended: list[datetime] = []
    for moment in sorted(START + timedelta(seconds=each) for each in moments):
        if next_failover(ended, moment) <= moment:
            ended.append(moment)
    for index, each in enumerate(ended):
        assert sum(1 for other in ended[index:] if other - each < DAY) <= MOST_A_DAY
    assert all(b - a >= timedelta(minutes=5) for a, b in pairwise(ended))
    assert not moments or ended  # the first one is never held back
