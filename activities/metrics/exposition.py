"""The Prometheus text format, read strictly: one series where one is asked for, and no NaN."""

import math
from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from activities.metrics.base import MetricsUnavailable
from models.histogram import NO_REQUESTS, HistogramError, check
from models.observation import Histogram

_Labels = Mapping[str, str]


class Exposition:
    """One scrape. Names count without ``_total``: Envoy writes none and the parser adds one.

    Raises:
        MetricsUnavailable: the text is not in the format; ``origin`` names it in all messages.
    """

    def __init__(self, text: bytes, origin: str) -> None:
        self._origin = origin
        self._samples: defaultdict[str, list[tuple[_Labels, float]]] = defaultdict(list)
        try:
            for family in text_string_to_metric_families(text.decode()):
                for sample in family.samples:
                    name = sample.name.removesuffix("_total")
                    self._samples[name].append((sample.labels, float(sample.value)))
        except (ValueError, LookupError, TypeError) as error:
            raise MetricsUnavailable(f"{origin}: not in Prometheus format: {error}") from error

    def value(self, name: str, labels: _Labels | None = None) -> float:
        """The value of the only series with this name that has these labels.

        Raises:
            MetricsUnavailable: there is none, there are several, or it is not a finite number.
        """
        value = self.optional(name, labels)
        if value is None:
            raise MetricsUnavailable(f"{self._origin}: no series {name}")
        return value

    def optional(self, name: str, labels: _Labels | None = None) -> float | None:
        """Like `value`, but None where there is no such series."""
        values = [value for _, value in self._matching(name, labels or {})]
        if len(values) > 1:
            raise MetricsUnavailable(f"{self._origin}: {len(values)} series of {name}")
        return self._finite(name, values[0]) if values else None

    def counts_by(self, name: str, label: str, labels: _Labels) -> dict[str, int]:
        """Counts of the series with these labels, by the value of one more label."""
        return {
            found.get(label, ""): self._count(name, value)
            for found, value in self._matching(name, labels)
        }

    def count(self, name: str, labels: _Labels) -> int:
        """A counter that may not have counted yet: 0 where there is no series."""
        value = self.optional(name, labels)
        return 0 if value is None else self._count(name, value)

    def histogram(self, name: str, labels: _Labels) -> Histogram:
        """A cumulative histogram; without any bucket it has counted nothing yet.

        Raises:
            MetricsUnavailable: malformed buckets.
        """
        buckets = self.counts_by(f"{name}_bucket", "le", labels)
        return to_histogram(buckets, f"{self._origin}: {name}") if buckets else NO_REQUESTS

    def _matching(self, name: str, labels: _Labels) -> list[tuple[_Labels, float]]:
        return [
            (found, value)
            for found, value in self._samples.get(name.removesuffix("_total"), [])
            if labels.items() <= found.items()
        ]

    def _finite(self, name: str, value: float) -> float:
        if not math.isfinite(value):
            raise MetricsUnavailable(f"{self._origin}: {name} is {value}")
        return value

    def _count(self, name: str, value: float) -> int:
        return to_count(value, f"{self._origin}: {name}")


def to_count(value: float, origin: str) -> int:
    """A counter's value as a whole number.

    Raises:
        MetricsUnavailable: NaN, infinite, negative or with a fraction.
    """
    if not math.isfinite(value) or value < 0 or value != int(value):
        raise MetricsUnavailable(f"{origin} is {value}, not a count")
    return int(value)


def to_histogram(buckets: Mapping[str, int], origin: str) -> Histogram:
    """A histogram from cumulative counts by the text of their ``le`` label.

    Raises:
        MetricsUnavailable: no ``+Inf`` bucket, a bound that is no number, or falling counts.
    """
    try:
        counts = {float(bound): count for bound, count in buckets.items()}
        total = counts.pop(math.inf)
        bounds = sorted(counts)
        histogram = Histogram(bounds=bounds, counts=[*(counts[each] for each in bounds), total])
        check(histogram)
    except KeyError:
        raise MetricsUnavailable(f"{origin} has no +Inf bucket") from None
    except (HistogramError, ValueError) as error:
        raise MetricsUnavailable(f"{origin}: {error}") from error
    return histogram
