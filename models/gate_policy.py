"""What a ring must show before a rollout goes on: the configuration's ``[gates]`` section."""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

P99_LATENCY: Final = "p99_latency_ms"
ERROR_RATE: Final = "error_rate"
MEMORY_USAGE: Final = "memory_usage_mb"
KNOWN_METRICS: Final = (P99_LATENCY, ERROR_RATE, MEMORY_USAGE)


class GatePolicy(BaseModel):
    """Bounds, margins and patience of a gate.

    A bound is absolute: the release must hold to it whatever ran before. A margin is how much worse
    than the concurrent baseline a release may look before a statistically clear difference counts:
    without it a large enough fleet would fail a release over a difference that nobody can feel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metrics: list[str] = Field(
        default=list(KNOWN_METRICS),
        min_length=1,
        description="what is judged, by the names of the configuration's ring_gates",
    )

    p99_latency_ms: float = Field(
        default=500.0,
        gt=0,
        description="bound of the 99th percentile of latency, milliseconds; best put on a bucket "
        "edge of the histogram, because nothing finer is known",
    )
    error_rate: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="bound of the share of requests that fail, a fraction: 0.01 is one of 100",
    )
    memory_usage_mb: float = Field(
        default=512.0, gt=0, description="bound of a release process's resident memory, MiB"
    )

    latency_ratio_margin: float = Field(
        default=1.25,
        ge=1,
        description="a quantile of latency counts as worse from this multiple of the baseline's",
    )
    latency_margin_ms: float = Field(
        default=2.0,
        ge=0,
        description="and only if it is also this many milliseconds above the baseline's",
    )
    error_rate_margin: float = Field(
        default=0.005,
        ge=0,
        lt=1,
        description="errors count as worse from this much above the baseline's rate, a fraction",
    )
    memory_ratio_margin: float = Field(
        default=1.5,
        ge=1,
        description="median memory counts as worse from this multiple of the baseline's median",
    )
    memory_margin_mb: float = Field(
        default=64.0, ge=0, description="and only if it is also this many MiB above it"
    )
    memory_growth_mb: float = Field(
        default=32.0,
        gt=0,
        description="a steady rise of memory counts as a leak from this much over the bake, MiB",
    )

    alpha: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="chance, a fraction, that a release equal to its baseline fails: over all "
        "metrics and all looks of one ring together",
    )
    looks: int = Field(
        default=12, ge=1, le=100, description="evaluations during the bake, the last one included"
    )
    bake_seconds: float = Field(
        default=300.0,
        ge=0,
        le=30 * 86400,
        description="how long a ring serves traffic before the last look, seconds",
    )
    min_samples: int = Field(
        default=1000,
        ge=1,
        description="requests that each cohort must have answered before a ring may pass. 1000 "
        "finds a slow tenth and 3 % of errors in more than 95 of 100 rings, and lets equal "
        "releases with half the errors of the bound pass more than 95 of 100 times, as "
        "scripts/gate_power.py measures; 300 still finds as much but measures the bounds coarsely",
    )
    max_point_age_seconds: float = Field(
        default=30.0,
        gt=0,
        description="a newest point older than this when it was read is stale, seconds: two scrape "
        "intervals of Prometheus's usual 15 s",
    )
    hold_seconds: float = Field(
        default=3600.0,
        ge=0,
        description="how long a rollout waits for a human after inconclusive or error before it "
        "rolls back, seconds",
    )
    early_stop: bool = Field(
        default=True, description="whether a clear failure ends the bake at once"
    )

    @field_validator("metrics")
    @classmethod
    def _known_and_once(cls, metrics: list[str]) -> list[str]:
        for metric in metrics:
            if metric not in KNOWN_METRICS:
                raise ValueError(f"unknown metric {metric!r}; known: {', '.join(KNOWN_METRICS)}")
        if len(set(metrics)) != len(metrics):
            raise ValueError("a metric is named twice")
        return metrics
