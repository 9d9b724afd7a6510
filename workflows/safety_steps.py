"""Steps of what keeps the fleet safe beside rollouts: break-glass, judging again, incidents."""

from datetime import timedelta

from temporalio.common import RetryPolicy

from models.break_glass import EndOverride, Override
from models.evidence_check import EvidenceReport
from models.ids import short
from models.incident import Deployed, OpenIncident, Proposal, RejudgeSettings, StopRollout
from models.vulnerability_data import FeedSource, LoadedFeed, RefreshRequest, Snapshot
from workflows.steps import HEARTBEAT, NOTHING, run_step

LOADING = timedelta(hours=2)
TRIES = 5


async def grant_override(override: Override) -> Override:
    """Put an override in force; the one that is there under its id is returned as it was."""
    summary = f"let {short(override.release)} through until {override.expires:%H:%M:%SZ}"
    return await run_step("grant_override", override, Override, summary)


async def end_override(step: EndOverride) -> None:
    """From now on the override counts no more."""
    await run_step("end_override", step, type(None), f"break-glass {step.state}")


async def prepare_rejudge() -> RejudgeSettings:
    """What the configuration of this moment says about releases that run."""
    return await run_step("prepare_rejudge", NOTHING, RejudgeSettings, "configuration")


async def deployed_releases(settings: RejudgeSettings) -> list[Deployed]:
    """What runs, by the catalogs that were kept last, and what a rollout is bringing."""
    return await run_step("deployed_releases", settings, list[Deployed], "what runs where")


async def earlier_releases(release: str) -> list[Proposal]:
    """What could be gone back to, newest first; not judged yet."""
    summary = f"what ran before {short(release)}"
    return await run_step("earlier_releases", release, list[Proposal], summary)


async def open_incidents() -> list[OpenIncident]:
    """Incidents that nobody has closed."""
    return await run_step("open_incidents", NOTHING, list[OpenIncident], "open incidents")


async def stop_rollout(step: StopRollout) -> bool:
    """Whether the rollout was stopped now; one that has ended needs no stopping."""
    return await run_step("stop_rollout", step, bool, f"stop {step.rollout}")


async def read_evidence_back() -> EvidenceReport:
    """Read and hash every input of every verdict."""
    summary = "read all evidence back"
    return await run_step(
        "read_evidence_back", NOTHING, EvidenceReport, summary, limit=LOADING, heartbeat=HEARTBEAT
    )


async def feeds_to_load(request: RefreshRequest) -> list[FeedSource]:
    """The feeds that were asked for, or else those of the configuration."""
    return await run_step("feeds_to_load", request, list[FeedSource], "which feeds")


async def load_feed(source: FeedSource) -> LoadedFeed:
    """Load a feed; one that cannot be had is tried `TRIES` times, and again with the next refresh.

    Raises:
        ActivityError: it could not be loaded.
    """
    return await run_step(
        "load_feed",
        source,
        LoadedFeed,
        f"load {source.feed}",
        limit=LOADING,
        heartbeat=HEARTBEAT,
        retry=RetryPolicy(maximum_attempts=TRIES, backoff_coefficient=3.0),
    )


async def known_snapshot() -> Snapshot:
    """What vulnerability data is loaded."""
    return await run_step("known_snapshot", NOTHING, Snapshot, "what is loaded")
