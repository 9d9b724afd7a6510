"""What a gate is given and what it says: `Evidence` in, `Verdict` out, and the verdict as text.

Five outcomes, kept apart. ``pass`` alone lets a rollout go on. ``fail``: something is clearly
worse than it may be. ``error``: the evidence could not be read or trusted. ``inconclusive``: it
could, and there is not enough of it. ``continue``: the bake is not over and nothing speaks against
the release so far.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from models.gate_policy import GatePolicy
from models.ids import Digest, RegionCode, short
from models.observation import RegionObservation

Outcome = Literal["pass", "fail", "inconclusive", "error", "continue"]

_WORST_FIRST: Final[tuple[Outcome, ...]] = ("fail", "error", "inconclusive", "continue", "pass")


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several together; of none it is ``error``, because nothing was judged.

    A clear failure outranks an error elsewhere: what is known to be bad is not worth waiting for.
    """
    return min(outcomes, key=_WORST_FIRST.index, default="error")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MemoryReading(_Part):
    """Resident memory of both cohorts in one region at one look, MiB."""

    region: RegionCode
    at: AwareDatetime
    candidate_mb: float | None = None
    baseline_mb: float | None = None


class Evidence(_Part):
    """All that a verdict rests on. Counters are kept at the start and now; memory at every look."""

    ring: str
    look: int = Field(ge=1, description="which evaluation of the bake this is, from 1")
    looks: int = Field(ge=1, description="evaluations in the whole bake")
    policy: GatePolicy
    expects_baseline: bool = Field(
        description="whether the old release still serves somewhere beside the new one"
    )
    start: list[RegionObservation] = Field(description="when the ring began to serve")
    newest: list[RegionObservation]
    memory: list[MemoryReading] = Field(default=[], description="oldest first, newest included")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.look > self.looks:
            raise ValueError(f"look: {self.look} is after the last one, {self.looks}")
        for name, observations in (("start", self.start), ("newest", self.newest)):
            regions = [observation.region for observation in observations]
            if len(set(regions)) != len(regions):
                raise ValueError(f"{name}: a region is observed twice")
        return self


def gather_evidence(
    *,
    ring: str,
    look: int,
    looks: int,
    policy: GatePolicy,
    start: Sequence[RegionObservation],
    series: Sequence[Sequence[RegionObservation]],
    expects_baseline: bool,
) -> Evidence:
    """Evidence from every look so far, newest last, reduced to what the judge needs.

    Raises:
        pydantic.ValidationError: the parts do not fit together; the message names the field.
    """
    return Evidence(
        ring=ring,
        look=look,
        looks=looks,
        policy=policy,
        expects_baseline=expects_baseline,
        start=list(start),
        newest=list(series[-1]) if series else [],
        memory=[_reading(observation) for seen in series for observation in seen],
    )


def _reading(observation: RegionObservation) -> MemoryReading:
    candidate, baseline = observation.candidate, observation.baseline
    return MemoryReading(
        region=observation.region,
        at=candidate.at if candidate else observation.at,
        candidate_mb=candidate.memory_mb if candidate else None,
        baseline_mb=baseline.memory_mb if baseline else None,
    )


class Check(_Part):
    """One question asked of one metric, with the numbers that answered it."""

    name: str
    outcome: Outcome
    note: str = Field(description="the answer in words")
    candidate: float | None = None
    baseline: float | None = None
    value: float | None = Field(default=None, description="what was compared to the threshold")
    threshold: float | None = None
    method: str | None = Field(default=None, description="name of the statistical test")
    statistic: float | None = None
    p_value: float | None = None
    alpha: float | None = Field(default=None, description="level of this test at this look")


class MetricVerdict(_Part):
    """One metric: the outcome is the worst of its checks."""

    metric: str
    unit: str
    outcome: Outcome
    why: str
    candidate: float | None = None
    baseline: float | None = None
    candidate_n: int = Field(default=0, description="requests, or readings for memory")
    baseline_n: int = 0
    checks: list[Check]


class Verdict(_Part):
    """A ring's gate at one look."""

    ring: str
    look: int
    looks: int
    outcome: Outcome
    why: str
    retryable: bool = Field(
        default=False,
        description="of an error: whether a later look may read what this one could not",
    )
    candidate: Digest | None
    baselines: list[Digest]
    regions: list[RegionCode]
    metrics: list[MetricVerdict]
    evidence_digest: str = Field(description="SHA-256, hex, of the evidence as canonical JSON")


def render_markdown(verdict: Verdict) -> str:
    """The verdict for a person: one line, a table of the metrics, and what did not pass."""
    return "\n".join([*_heading(verdict), "", *_table(verdict), *_findings(verdict)])


def _heading(verdict: Verdict) -> list[str]:
    candidate = short(verdict.candidate) if verdict.candidate else "unknown"
    baselines = ", ".join(short(digest) for digest in verdict.baselines) or "none"
    regions = ", ".join(verdict.regions) or "no region"
    return [
        f"**Gate of ring {verdict.ring}: {verdict.outcome.upper()}** "
        f"(look {verdict.look} of {verdict.looks})",
        "",
        verdict.why,
        "",
        f"Release `{candidate}` against `{baselines}` in {regions}.",
    ]


def _table(verdict: Verdict) -> list[str]:
    rows = [
        f"| {metric.metric} | {metric.outcome} "
        f"| {_number(metric.candidate)} | {metric.candidate_n} "
        f"| {_number(metric.baseline)} | {metric.baseline_n} | {metric.unit} |"
        for metric in verdict.metrics
    ]
    return [
        "| metric | outcome | candidate | n | baseline | n | unit |",
        "|---|---|--:|--:|--:|--:|---|",
        *rows,
    ]


def _findings(verdict: Verdict) -> list[str]:
    lines = [
        f"- **{metric.metric}**, {check.name}: {check.note}"
        for metric in verdict.metrics
        for check in metric.checks
        if check.outcome != "pass"
    ]
    return ["", *lines] if lines else []


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
