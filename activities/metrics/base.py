"""What a metric provider is, and what its implementations share: deadlines, limits, composition.

A provider never raises for what it cannot read: it says so in the observation's ``problem``, and
the judge makes an error of it. Nothing here can turn an unreadable cohort into an empty one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import httpx
from pydantic import ValidationError

from models.ids import Digest, RegionCode, short
from models.observation import CohortSnapshot, RegionObservation

DEADLINE_SECONDS = 2.0
MAX_BODY_BYTES = 8 * 1024 * 1024


class MetricsUnavailable(Exception):
    """A cohort could not be read; the message says what was asked and what came back."""


@dataclass(frozen=True)
class ProcessFacts:
    """What supervises a release's process knows of it.

    Attributes:
        port: where the process answers ``/metrics``, on the loopback interface.
        restarts: how often it was started again since it was wanted.
        source: incarnation of the process; it changes at each start.
    """

    port: int
    restarts: int
    source: str


Processes = Callable[[], Mapping[Digest, ProcessFacts]]
"""The releases that run in the region, read anew at each call. It may block."""

Clock = Callable[[], datetime]


class MetricProvider(Protocol):
    """Reads cumulative counters of releases in one region."""

    async def observe(self, candidate: Digest, baselines: Sequence[Digest]) -> RegionObservation:
        """Read the candidate and the first of ``baselines`` (most used first) that still serves.

        What cannot be read is named in the observation's ``problem``.
        """
        ...


def utc_now() -> datetime:
    """The clock of a provider that is given no other."""
    return datetime.now(UTC)


async def read_processes(processes: Processes, deadline: float) -> Mapping[Digest, ProcessFacts]:
    """Call ``processes`` in a thread.

    Raises:
        MetricsUnavailable: it raised, or did not return within ``deadline`` seconds.
    """
    try:
        async with asyncio.timeout(deadline):
            return await asyncio.to_thread(processes)
    except TimeoutError:
        raise MetricsUnavailable(f"release processes: no answer within {deadline:g} s") from None
    except Exception as error:
        raise MetricsUnavailable(f"release processes: {error}") from error


async def fetch(
    client: httpx.AsyncClient, url: str, params: Mapping[str, str], deadline: float
) -> bytes:
    """The body of a GET that is answered with 200.

    Raises:
        MetricsUnavailable: no answer, another status, longer than `MAX_BODY_BYTES`, or not complete
            within ``deadline`` seconds.
    """
    try:
        async with (
            asyncio.timeout(deadline),
            client.stream("GET", url, params=dict(params)) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise MetricsUnavailable(f"{url}: status {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise MetricsUnavailable(f"{url}: the answer exceeds {MAX_BODY_BYTES} bytes")
            return bytes(body)
    except TimeoutError:
        raise MetricsUnavailable(f"{url}: no answer within {deadline:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise MetricsUnavailable(f"{url}: {error or type(error).__name__}") from error


async def observe_cohorts(
    region: RegionCode,
    candidate: Digest,
    baseline: Digest | None,
    read: Callable[[Digest], Awaitable[CohortSnapshot]],
    clock: Clock,
) -> RegionObservation:
    """Read both cohorts side by side; a failure of either is named in ``problem``."""
    wanted = [candidate] if baseline is None else [candidate, baseline]
    results = await asyncio.gather(*(_attempt(read, digest) for digest in wanted))
    snapshots = [result if isinstance(result, CohortSnapshot) else None for result in results]
    problems = [result for result in results if isinstance(result, str)]
    return RegionObservation(
        region=region,
        at=clock(),
        candidate=snapshots[0],
        baseline=snapshots[1] if baseline is not None else None,
        problem="; ".join(problems) or None,
    )


async def _attempt(
    read: Callable[[Digest], Awaitable[CohortSnapshot]], digest: Digest
) -> CohortSnapshot | str:
    try:
        return await read(digest)
    except MetricsUnavailable as error:
        return f"release {short(digest)}: {error}"
    except ValidationError as error:  # a figure that no counter can have, such as NaN or -1
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return f"release {short(digest)}: {field}: {first['msg']}"
