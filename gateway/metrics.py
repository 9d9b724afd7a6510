"""How a region's requests are served, and how full its buffer is, for Prometheus.

``/metrics`` lies on the port of the KV API, where Envoy routes no tenant.
"""

from collections.abc import Iterable

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from gateway.kv_mode import ModeUnavailable, RegionMode, Serving

MODES = ("normal", "buffered", "draining", "unavailable")


class RegionMetrics:
    """One region's figures, in a registry of its own."""

    def __init__(self, mode: RegionMode) -> None:
        self._mode = mode
        self._serving: Serving | None = None
        self._registry = CollectorRegistry()
        self._registry.register(_Buffer(self))
        self._refused = Counter(
            "chainring_buffer_refused",
            "Writes that a full buffer has refused",
            ["region"],
            registry=self._registry,
        ).labels(mode.region)

    def refused(self) -> None:
        """One more write found the buffer full."""
        self._refused.inc()

    async def answer(self, _request: web.Request) -> web.Response:
        """What Prometheus asks for."""
        try:
            self._serving = await self._mode.serving()
        except ModeUnavailable:
            self._serving = None
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST})

    def gauges(self) -> Iterable[GaugeMetricFamily]:
        """The figures as they are now; all of them in every mode, so that none is stale."""
        region, serving = self._mode.region, self._serving
        now = "unavailable" if serving is None else serving.primary.mode
        modes = _gauge("chainring_region_mode", "1 for the mode in force", "region", "mode")
        for each in MODES:
            modes.add_metric([region, each], float(each == now))
        yield modes
        buffer = None if serving is None else serving.buffer
        records, size, fill = (0, 0, 0.0) if buffer is None else (*buffer.used, buffer.fill)
        for name, about, value in (
            ("chainring_buffer_records", "Acknowledged writes in the buffer", records),
            ("chainring_buffer_bytes", "What they take on disk", size),
            ("chainring_buffer_fill_ratio", "Of the bound that is nearer; 1: full", fill),
        ):
            found = _gauge(name, about, "region")
            found.add_metric([region], value)
            yield found
        if buffer is not None and buffer.age is not None:
            age = _gauge("chainring_snapshot_age_seconds", "Of what is read beneath it", "region")
            age.add_metric([region], buffer.age)
            yield age


class _Buffer(Collector):
    def __init__(self, metrics: RegionMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Names are known only when asked: the registry is this region's alone."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._metrics.gauges()


def _gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, labels=labels)
