"""Metrics from a region's Prometheus, by PromQL.

All queries of an observation are evaluated at one instant, so that they see one set of scrapes.
Prometheus answers with the last point of the past five minutes and dates it with the instant of
the query; the age of the point itself is asked for by ``timestamp()``.
Reference: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from string import Template
from typing import Any

import httpx

from activities.metrics.base import (
    DEADLINE_SECONDS,
    Clock,
    MetricsUnavailable,
    Processes,
    fetch,
    observe_cohorts,
    read_processes,
    utc_now,
)
from activities.metrics.exposition import to_count, to_histogram
from models.histogram import NO_REQUESTS
from models.ids import Digest, RegionCode, short
from models.observation import CohortSnapshot, Histogram, RegionObservation

MIB = 1024 * 1024

_ABANDONED = (
    'clamp_min(sum(envoy_cluster_upstream_cx_destroy_local_with_active_rq{envoy_cluster_name="$cluster"})'
    ' - sum(envoy_cluster_upstream_rq_timeout{envoy_cluster_name="$cluster"})'
    ' - sum(envoy_cluster_upstream_rq_per_try_timeout{envoy_cluster_name="$cluster"}), 0)'
)


@dataclass(frozen=True)
class PrometheusQueries:
    """PromQL of each figure; each but ``latency`` has exactly one result.

    ``$cluster`` (release-<short>), ``$short``, ``$release`` (sha256:...) and ``$region`` are filled
    in. The defaults fit Envoy's own metric names, and release processes that are scraped with the
    label ``chainring_release="<short>"``.

    Attributes:
        point_time: Unix time of the newest point, seconds.
        requests: cumulative count, the errors included.
        errors: cumulative count of 5xx answers and of requests without an answer.
        latency: cumulative buckets in milliseconds, by the label ``le``.
        memory_bytes: resident memory.
        sources: figures that change when counters restart: starts of the process, and restarts of
            Envoy within a day (one that falls out of the day reads as a change too: an error, and
            the gate is asked again).
    """

    point_time: str = (
        'min(timestamp(envoy_cluster_upstream_rq_completed{envoy_cluster_name="$cluster"}))'
    )
    requests: str = (
        'sum(envoy_cluster_upstream_rq_completed{envoy_cluster_name="$cluster"}) + ' + _ABANDONED
    )
    errors: str = (
        '(sum(envoy_cluster_upstream_rq_xx{envoy_cluster_name="$cluster",'
        'envoy_response_code_class="5"}) or vector(0)) + ' + _ABANDONED
    )
    latency: str = (
        'sum by (le) (envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="$cluster"})'
    )
    memory_bytes: str = 'max(process_resident_memory_bytes{chainring_release="$short"})'
    sources: tuple[str, ...] = (
        'max(process_start_time_seconds{chainring_release="$short"})',
        "sum(resets(envoy_server_uptime[1d]))",
    )


class PrometheusProvider:
    """Reads a region's Prometheus at ``base_url``.

    Without ``processes`` every one of ``baselines`` counts as serving, and restarts are seen as
    changes of the source alone. ``deadline`` in seconds bounds each query.
    """

    def __init__(
        self,
        region: RegionCode,
        base_url: str,
        *,
        processes: Processes | None = None,
        queries: PrometheusQueries | None = None,
        deadline: float = DEADLINE_SECONDS,
        clock: Clock = utc_now,
    ) -> None:
        self._region = region
        self._url = f"{base_url.rstrip('/')}/api/v1/query"
        self._processes = processes
        self._queries = queries or PrometheusQueries()
        self._deadline = deadline
        self._clock = clock

    async def observe(self, candidate: Digest, baselines: Sequence[Digest]) -> RegionObservation:
        """Read the candidate and the first of ``baselines`` that still serves."""
        others = [digest for digest in baselines if digest != candidate]
        restarts: dict[Digest, int] = {}
        if self._processes is not None:
            try:
                known = await read_processes(self._processes, self._deadline)
            except MetricsUnavailable as error:
                return RegionObservation(region=self._region, at=self._clock(), problem=str(error))
            restarts = {digest: facts.restarts for digest, facts in known.items()}
            others = [digest for digest in others if digest in known]
        async with httpx.AsyncClient(trust_env=False, timeout=self._deadline) as client:
            reader = _Reader(
                client,
                self._url,
                self._queries,
                region=self._region,
                restarts=restarts,
                deadline=self._deadline,
                at=self._clock(),
            )
            return await observe_cohorts(
                self._region, candidate, others[0] if others else None, reader.read, self._clock
            )


class _Reader:
    """One observation: every query at the same instant."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        queries: PrometheusQueries,
        *,
        region: RegionCode,
        restarts: Mapping[Digest, int],
        deadline: float,
        at: datetime,
    ) -> None:
        self._client = client
        self._url = url
        self._queries = queries
        self._region = region
        self._restarts = restarts
        self._deadline = deadline
        self._at = at

    async def read(self, release: Digest) -> CohortSnapshot:
        queries = self._queries
        figures = [
            queries.point_time,
            queries.requests,
            queries.errors,
            queries.memory_bytes,
            *queries.sources,
        ]
        (point_time, requests, errors, memory, *sources), latency = await asyncio.gather(
            asyncio.gather(*(self._figure(figure, release) for figure in figures)),
            self._latency(release),
        )
        return CohortSnapshot(
            release=release,
            at=datetime.fromtimestamp(point_time, UTC),
            source=" ".join(f"{source:.15g}" for source in sources),
            requests=to_count(requests, "requests"),
            errors=to_count(errors, "errors"),
            latency=latency,
            memory_mb=memory / MIB,
            restarts=self._restarts.get(release, 0),
        )

    async def _figure(self, template: str, release: Digest) -> float:
        promql = self._fill(template, release)
        results = await self._query(promql)
        if len(results) != 1:
            raise MetricsUnavailable(f"{promql}: {len(results)} results instead of one")
        return _value(results[0], promql)

    async def _latency(self, release: Digest) -> Histogram:
        promql = self._fill(self._queries.latency, release)
        results = await self._query(promql)
        buckets: dict[str, int] = {}
        for result in results:
            bound = str(result.get("metric", {}).get("le"))
            if bound in buckets:
                raise MetricsUnavailable(f"{promql}: several results for le={bound}")
            buckets[bound] = to_count(_value(result, promql), promql)
        # Envoy makes the histogram when the first request is over: none is an idle release.
        return to_histogram(buckets, promql) if buckets else NO_REQUESTS

    async def _query(self, promql: str) -> list[Any]:
        """The vector that a query yields."""
        params = {"query": promql, "time": f"{self._at.timestamp():.3f}"}
        body = await fetch(self._client, self._url, params, self._deadline)
        try:
            answer = json.loads(body)
            if answer["status"] != "success":
                raise MetricsUnavailable(f"{promql}: {answer.get('error', 'failed')}")
            if answer.get("warnings"):
                raise MetricsUnavailable(f"{promql}: warnings: {'; '.join(answer['warnings'])}")
            if answer["data"]["resultType"] != "vector":
                raise MetricsUnavailable(f"{promql}: it yields no vector")
            return list(answer["data"]["result"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise MetricsUnavailable(f"{self._url}: not Prometheus's answer: {error!r}") from error

    def _fill(self, template: str, release: Digest) -> str:
        """A query template for one release."""
        return Template(template).safe_substitute(
            cluster=f"release-{short(release)}",
            short=short(release),
            release=release,
            region=self._region,
        )


def _value(result: Any, promql: str) -> float:
    try:
        value = float(result["value"][1])
    except (ValueError, LookupError, TypeError) as error:
        raise MetricsUnavailable(f"{promql}: not a value: {error!r}") from error
    if not math.isfinite(value):
        raise MetricsUnavailable(f"{promql}: the value is {value}")
    return value
