"""Metrics straight from a region's Envoy and from the release's own ``/metrics``.

Traffic is counted by Envoy, which sees what clients see: answers by class, time until the answer,
and requests that got none. Memory is what the release's process reports of itself.
Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/upstream/cluster_manager/cluster_stats
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence

import httpx

from activities.metrics.base import (
    DEADLINE_SECONDS,
    Clock,
    MetricsUnavailable,
    Processes,
    ProcessFacts,
    fetch,
    observe_cohorts,
    read_processes,
    utc_now,
)
from activities.metrics.exposition import Exposition
from models.addresses import GatewayAddress
from models.ids import Digest, RegionCode, short
from models.observation import CohortSnapshot, RegionObservation

LOOPBACK = "127.0.0.1"
MIB = 1024 * 1024
STATISTICS = (
    "membership_total",
    "upstream_cx_destroy_local_with_active_rq",
    "upstream_rq_[1-5]xx",
    "upstream_rq_per_try_timeout",
    "upstream_rq_time",
    "upstream_rq_timeout",
)


class EnvoyProvider:
    """Reads the region's Envoy through its admin port, which listens on loopback.

    Envoy merges its histograms every few seconds, so that latency lags the counts by one flush.
    ``deadline`` in seconds bounds each request; ``clock`` dates what was read.
    """

    def __init__(
        self,
        region: RegionCode,
        gateway: GatewayAddress,
        processes: Processes,
        *,
        deadline: float = DEADLINE_SECONDS,
        clock: Clock = utc_now,
    ) -> None:
        self._region = region
        self._admin = f"http://{LOOPBACK}:{gateway.admin_port}"
        self._processes = processes
        self._deadline = deadline
        self._clock = clock

    async def observe(self, candidate: Digest, baselines: Sequence[Digest]) -> RegionObservation:
        """Read the candidate and the first of ``baselines`` that has a process here."""
        try:
            processes = await read_processes(self._processes, self._deadline)
        except MetricsUnavailable as error:
            return RegionObservation(region=self._region, at=self._clock(), problem=str(error))
        serving = [digest for digest in baselines if digest in processes and digest != candidate]
        baseline = serving[0] if serving else None
        async with httpx.AsyncClient(trust_env=False, timeout=self._deadline) as client:
            reader = _Reader(client, self._admin, processes, self._deadline, self._clock)
            return await observe_cohorts(
                self._region, candidate, baseline, reader.read, self._clock
            )


class _Reader:
    """One observation's requests."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        admin: str,
        processes: Mapping[Digest, ProcessFacts],
        deadline: float,
        clock: Clock,
    ) -> None:
        self._client = client
        self._admin = admin
        self._processes = processes
        self._deadline = deadline
        self._clock = clock

    async def read(self, release: Digest) -> CohortSnapshot:
        facts = self._processes.get(release)
        if facts is None:
            raise MetricsUnavailable("no process runs it here")
        envoy_start, traffic, process = await asyncio.gather(
            self._envoy_start(), self._traffic(release), self._process(facts.port)
        )
        at = self._clock()
        cluster = {"envoy_cluster_name": _cluster(release)}
        if traffic.optional("envoy_cluster_membership_total", cluster) is None:
            raise MetricsUnavailable(f"Envoy has no cluster {_cluster(release)}")
        answers = traffic.counts_by(
            "envoy_cluster_upstream_rq_xx", "envoy_response_code_class", cluster
        )
        abandoned = _abandoned(traffic, cluster)
        started = process.optional("process_start_time_seconds")
        return CohortSnapshot(
            release=release,
            at=at,
            source=f"envoy {envoy_start}, process {facts.source}, started {started}",
            requests=sum(answers.values()) + abandoned,
            errors=answers.get("5", 0) + abandoned,
            latency=traffic.histogram("envoy_cluster_upstream_rq_time", cluster),
            memory_mb=process.value("process_resident_memory_bytes") / MIB,
            restarts=facts.restarts,
        )

    async def _traffic(self, release: Digest) -> Exposition:
        names = "|".join(STATISTICS)
        pattern = rf"^cluster\.{re.escape(_cluster(release))}\.({names})$"
        return await self._scrape(f"{self._admin}/stats/prometheus", {"filter": pattern})

    async def _process(self, port: int) -> Exposition:
        return await self._scrape(f"http://{LOOPBACK}:{port}/metrics", {})

    async def _scrape(self, url: str, params: Mapping[str, str]) -> Exposition:
        return Exposition(await fetch(self._client, url, params, self._deadline), url)

    async def _envoy_start(self) -> str:
        """When Envoy read its bootstrap: exact and constant, unlike now less its uptime."""
        url = f"{self._admin}/config_dump"
        body = await fetch(self._client, url, {"mask": "last_updated"}, self._deadline)
        try:
            for config in json.loads(body)["configs"]:
                if config["@type"].endswith(".BootstrapConfigDump"):
                    return str(config["last_updated"])
        except (ValueError, LookupError, TypeError) as error:
            raise MetricsUnavailable(f"{url}: not a configuration dump: {error!r}") from error
        raise MetricsUnavailable(f"{url}: it does not say when Envoy started")


def _cluster(release: Digest) -> str:
    return f"release-{short(release)}"


def _abandoned(traffic: Exposition, cluster: Mapping[str, str]) -> int:
    """Requests whose client gave up before the release answered: Envoy counts no answer for them.

    Without them a release that hangs, called by impatient clients, would look idle. Envoy closes
    the upstream connection of such a request, as it does at a timeout of its own, which it answers
    with 504. The output is in alphabetical order and read in it, so that a timeout which comes in
    between makes the sum of all counts lag, never fall.
    """
    closed = traffic.count("envoy_cluster_upstream_cx_destroy_local_with_active_rq", cluster)
    timeouts = traffic.count("envoy_cluster_upstream_rq_timeout", cluster)
    per_try = traffic.count("envoy_cluster_upstream_rq_per_try_timeout", cluster)
    return max(0, closed - timeouts - per_try)
