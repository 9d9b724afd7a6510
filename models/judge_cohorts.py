"""From raw counters to cohorts: what each region's releases did since the ring began.

Everything that makes a counter untrustworthy is found here and named, region by region; a region
with a problem is left out of the comparison and the verdict can no longer be a pass.
"""

from dataclasses import dataclass, field

from models.histogram import CounterReset, HistogramError, difference, total
from models.ids import Digest, short
from models.observation import CohortSnapshot, Histogram, RegionObservation
from models.verdict import Evidence


@dataclass(frozen=True)
class CohortDelta:
    """What one release did in one region between two snapshots."""

    release: Digest
    requests: int
    errors: int
    latency: Histogram

    @property
    def timed(self) -> int:
        """Requests whose latency is known; those that got no answer have none."""
        return total(self.latency)


@dataclass(frozen=True)
class RegionDelta:
    """Both cohorts of one region; no baseline where only the candidate runs."""

    region: str
    candidate: CohortDelta
    baseline: CohortDelta | None


@dataclass(frozen=True)
class Problem:
    """Why a region could not be read. ``lasting``: no later look of this bake can mend it."""

    text: str
    lasting: bool = False


@dataclass
class Cohorts:
    """The readable regions in alphabetical order, and what was wrong with the others."""

    regions: list[RegionDelta] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def paired(self) -> list[RegionDelta]:
        """Regions that run both releases, so that they can be compared."""
        return [each for each in self.regions if each.baseline is not None]


class _Unreadable(Exception):
    def __init__(self, text: str, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.problem = Problem(text, lasting)


def read_cohorts(evidence: Evidence) -> Cohorts:
    """Difference every region's counters since the start of the ring."""
    start = {observation.region: observation for observation in evidence.start}
    newest = {observation.region: observation for observation in evidence.newest}
    cohorts = Cohorts()
    if not newest and not start:
        cohorts.problems.append(Problem("no region was observed"))
    for region in sorted(start.keys() | newest.keys()):
        try:
            cohorts.regions.append(
                _read_region(region, start.get(region), newest.get(region), evidence)
            )
        except _Unreadable as unreadable:
            cohorts.problems.append(
                Problem(f"{region}: {unreadable.problem.text}", unreadable.problem.lasting)
            )
    _refuse_mixed_candidates(cohorts)
    return cohorts


def _read_region(
    region: str,
    start: RegionObservation | None,
    newest: RegionObservation | None,
    evidence: Evidence,
) -> RegionDelta:
    if start is None:
        raise _Unreadable("it was not observed when the ring began", lasting=True)
    if newest is None:
        raise _Unreadable("it was not observed at this look")
    if start.problem is not None:
        raise _Unreadable(f"when the ring began: {start.problem}", lasting=True)
    if newest.problem is not None:
        raise _Unreadable(newest.problem)
    if newest.candidate is None:
        raise _Unreadable("there is no data of the candidate")
    if start.candidate is None:
        raise _Unreadable("there was no data of the candidate when the ring began", lasting=True)
    max_age = evidence.policy.max_point_age_seconds
    candidate = _read_cohort("candidate", start.candidate, newest.candidate, newest, max_age)
    return RegionDelta(region, candidate, _read_baseline(start, newest, max_age))


def _read_baseline(
    start: RegionObservation, newest: RegionObservation, max_age: float
) -> CohortDelta | None:
    if start.baseline is None:
        return None  # no counters to subtract: a baseline that appeared later compares nothing
    if newest.baseline is None:
        raise _Unreadable("the baseline was there when the ring began and is gone")
    return _read_cohort("baseline", start.baseline, newest.baseline, newest, max_age)


def _read_cohort(
    name: str,
    start: CohortSnapshot,
    now: CohortSnapshot,
    observation: RegionObservation,
    max_age: float,
) -> CohortDelta:
    if now.release != start.release:
        raise _Unreadable(
            f"the {name} changed from {short(start.release)} to {short(now.release)}", lasting=True
        )
    if now.source != start.source:
        raise _Unreadable(f"the {name}'s counters were reset: their source changed", lasting=True)
    age = (observation.at - now.at).total_seconds()
    if age > max_age:
        raise _Unreadable(
            f"the {name}'s newest point is {age:.0f} s old, {max_age:g} s are allowed"
        )
    if age < -max_age:
        raise _Unreadable(f"the {name}'s newest point is {-age:.0f} s in the future")
    if now.at <= start.at:
        raise _Unreadable(f"the {name} has no point newer than the ring's start")
    requests, errors = now.requests - start.requests, now.errors - start.errors
    if requests < 0 or errors < 0:
        raise _Unreadable(f"the {name}'s counters were reset: they went down", lasting=True)
    if errors > requests:
        raise _Unreadable(f"the {name} has more errors ({errors}) than requests ({requests})")
    try:
        latency = difference(now.latency, start.latency)
    except CounterReset as error:
        raise _Unreadable(f"the {name}'s counters were reset: {error}", lasting=True) from error
    except HistogramError as error:
        raise _Unreadable(f"the {name}: {error}", lasting=True) from error
    return CohortDelta(now.release, requests, errors, latency)


def _refuse_mixed_candidates(cohorts: Cohorts) -> None:
    releases = sorted({each.candidate.release for each in cohorts.regions})
    if len(releases) > 1:
        names = ", ".join(short(release) for release in releases)
        cohorts.problems.append(
            Problem(f"the regions observed different candidates: {names}", True)
        )
        cohorts.regions.clear()
