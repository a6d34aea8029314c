"""Shapes that several figures have in common."""

from collections.abc import Iterable, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    Metric,
)


def gauge(name: str, documentation: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, documentation, value=value)


def counter(name: str, documentation: str, value: float) -> Metric:
    """Return a counter without labels; `_total` is added to its name."""
    return CounterMetricFamily(name, documentation, value=value)


def gauges(
    name: str,
    documentation: str,
    label: str,
    values: Mapping[str, float],
    words: Iterable[str] | None = None,
) -> Metric:
    """Return a gauge with a series for each word, also for those without a value: they are 0.

    Args:
        words: None stands for those that have a value.
    """
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for word in values if words is None else words:
        family.add_metric([word], values.get(word, 0))
    return family


def counters(
    name: str,
    documentation: str,
    label: str,
    values: Mapping[str, float],
    words: Iterable[str] | None = None,
) -> Metric:
    """Return a counter in the same way; `_total` is added to its name."""
    family = CounterMetricFamily(name, documentation, labels=[label])
    for word in values if words is None else words:
        family.add_metric([word], values.get(word, 0))
    return family


def ages(
    name: str, documentation: str, seconds: Iterable[float], bounds: Iterable[float]
) -> Metric:
    """Return how many of these are up to each bound, now: a histogram that may also go down."""
    values = list(seconds)
    buckets = [(str(bound), float(sum(age <= bound for age in values))) for bound in bounds]
    buckets.append(("+Inf", float(len(values))))
    return GaugeHistogramMetricFamily(name, documentation, buckets=buckets, gsum_value=sum(values))
