"""What a region measured of a cohort: cumulative counters, as read, to be differenced by the judge.

Counters cross the border raw and cumulative so that a verdict can be replayed from them: the judge
subtracts the snapshot taken at the start of the ring from the snapshot taken now. ``source`` names
the incarnation of the counters (a restart of whatever keeps them changes it), so that a reset is
seen as an error and never as a quiet ring.
"""

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.ids import Digest, RegionCode


class Histogram(BaseModel):
    """Latency counts in milliseconds: ``counts[i]`` requests took at most ``bounds[i]`` ms.

    ``counts`` is cumulative, as Prometheus has it, and one longer than ``bounds``: the last entry
    is the total (the ``+Inf`` bucket).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bounds: list[float]
    counts: list[int]


class CohortSnapshot(BaseModel):
    """One release in one region at one instant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    release: Digest
    at: AwareDatetime = Field(description="when the provider's newest point was taken")
    source: str = Field(description="incarnation of the counters; a change means they were reset")
    requests: int = Field(ge=0)
    errors: int = Field(ge=0, description="answers 5xx and requests with no answer")
    latency: Histogram
    memory_mb: float | None = Field(default=None, ge=0, description="resident memory, MiB")
    restarts: int = Field(default=0, ge=0, description="restarts of the release process so far")


class RegionObservation(BaseModel):
    """The candidate and its concurrent baseline in one region.

    ``problem`` says why a cohort could not be read (provider down, slow, stale, NaN); the judge
    turns it into the outcome ``error``, never into a pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionCode
    at: AwareDatetime
    candidate: CohortSnapshot | None = None
    baseline: CohortSnapshot | None = None
    problem: str | None = None
