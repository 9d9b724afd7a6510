"""Hand-made evidence for the judge, from which a test changes one thing."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from models.gate_policy import GatePolicy
from models.observation import CohortSnapshot, Histogram, RegionObservation
from models.verdict import Evidence, Verdict, gather_evidence

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
CANDIDATE, BASELINE = "sha256:" + "c" * 64, "sha256:" + "b" * 64
BOUNDS = [5.0, 10.0, 20.0, 50.0, 100.0, 500.0, 1000.0]
GOOD_LATENCY = [0.30, 0.30, 0.30, 0.09, 0.01, 0.0, 0.0, 0.0]
SLOW_TENTH = [0.27, 0.27, 0.27, 0.08, 0.01, 0.10, 0.0, 0.0]
LOOKS = 4
POLICY = GatePolicy(looks=LOOKS, min_samples=500)


def snapshot(
    release: str,
    look: int,
    *,
    rate: int = 1000,
    errors: float = 0.002,
    latency: list[float] = GOOD_LATENCY,
    memory: float | None = 100.0,
    history: int = 5000,
    **changes: Any,
) -> CohortSnapshot:
    """A cohort that had answered ``history`` requests before, and ``rate`` more at each look."""
    n = rate * look
    counts, running = [], 0.0
    for share in latency:
        running += share
        counts.append(history + round(n * running))
    values = {
        "release": release,
        "at": BEGIN + timedelta(seconds=10 * look),
        "source": "one",
        "requests": history + n,
        "errors": round(n * errors),
        "latency": Histogram(bounds=BOUNDS, counts=counts),
        "memory_mb": memory,
    }
    return CohortSnapshot.model_validate(values | changes)


def region(
    look: int,
    code: str = "eu",
    *,
    candidate: dict[str, Any] | None = None,
    baseline: dict[str, Any] | None = None,
) -> RegionObservation:
    return RegionObservation(
        region=code,
        at=BEGIN + timedelta(seconds=10 * look + 1),
        candidate=snapshot(CANDIDATE, look, **(candidate or {})),
        baseline=snapshot(BASELINE, look, **(baseline or {})),
    )


def evidence(
    look: int = LOOKS,
    *,
    regions: tuple[str, ...] = ("eu",),
    candidate: dict[str, Any] | None = None,
    baseline: dict[str, Any] | None = None,
    policy: GatePolicy = POLICY,
    expects_baseline: bool = True,
) -> Evidence:
    looks = [
        [region(now, code, candidate=candidate, baseline=baseline) for code in regions]
        for now in range(look + 1)
    ]
    return gather_evidence(
        ring="5%",
        look=look,
        looks=LOOKS,
        policy=policy,
        start=looks[0],
        series=looks[1:],
        expects_baseline=expects_baseline,
    )


def altered(base: Evidence, where: str, index: int = 0, **changes: Any) -> Evidence:
    """The evidence with one observation of ``start`` or ``newest`` changed."""
    observations = list(getattr(base, where))
    observations[index] = observations[index].model_copy(update=changes)
    return base.model_copy(update={where: observations})


def metric(verdict: Verdict, name: str) -> Any:
    return next(each for each in verdict.metrics if each.metric == name)


def cohort(name: str, where: str = "newest", **changes: Any) -> Callable[[Evidence], Evidence]:
    def change(base: Evidence) -> Evidence:
        snapshot = getattr(getattr(base, where)[0], name)
        return altered(base, where, **{name: snapshot.model_copy(update=changes)})

    return change
