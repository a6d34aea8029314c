"""How those outside are told: event streams, webhooks and alerts, as Prometheus takes them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from crm_whatsapp.domain.alerts import AlertKind
from crm_whatsapp.service.event_stream import StreamFigures
from crm_whatsapp.service.webhook_dispatcher import DispatchFigures
from crm_whatsapp.service.webhook_verdict import Outcome


class ChannelFigures(Protocol):
    """How a channel of alerts fares."""

    @property
    def name(self) -> str: ...
    @property
    def sent(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def waiting(self) -> int: ...


def stream_metrics(figures: StreamFigures, open_streams: int) -> Iterator[Metric]:
    """Yield the figures of GET /events."""
    yield GaugeMetricFamily("whatsapp_sse_streams", "Event streams open.", value=open_streams)
    for name, documentation, value in (
        ("opened", "Event streams that were opened.", figures.opened),
        ("refused", "Event streams refused because too many were open.", figures.refused),
        (
            "ended_slow",
            "Event streams ended because the client took too little.",
            figures.ended_slow,
        ),
        ("resyncs", "Clients that came back too late for what they missed.", figures.resyncs),
    ):
        yield CounterMetricFamily(f"whatsapp_sse_{name}", documentation, value=value)


def webhook_metrics(
    figures: DispatchFigures, *, is_reachable: bool, waiting: int, parked: Mapping[str, int]
) -> Iterator[Metric]:
    """Yield the figures of webhooks.

    Args:
        is_reachable: the queue in the database answered when it was last asked.
        waiting: deliveries to be sent, as last counted.
        parked: deliveries given up, by webhook, as last counted.
    """
    requests = CounterMetricFamily(
        "whatsapp_webhook_requests", "Requests to webhooks, by their outcome.", labels=["outcome"]
    )
    for outcome in Outcome:
        requests.add_metric([outcome.value], figures.outcomes.get(outcome, 0))
    yield requests
    yield CounterMetricFamily(
        "whatsapp_webhook_parked", "Deliveries given up since start.", value=figures.parked
    )
    deliveries = GaugeMetricFamily(
        "whatsapp_webhook_deliveries",
        "Deliveries in the queue, as last counted by the job.",
        labels=["state"],
    )
    deliveries.add_metric(["pending"], waiting)
    deliveries.add_metric(["parked"], sum(parked.values()))
    yield deliveries
    for name, documentation, value in (
        ("requests_in_flight", "Requests to webhooks under way.", figures.in_flight),
        ("lanes_claimed", "Claimed lanes that wait for a thread.", figures.claimed),
        ("breakers_open", "Webhooks left alone because they do not answer.", figures.open_breakers),
        ("queue_reachable", "1 when the queue answered when it was last asked.", is_reachable),
    ):
        yield GaugeMetricFamily(f"whatsapp_webhook_{name}", documentation, value=value)


def alert_metrics(
    open_by_kind: Mapping[str, int], channels: Iterable[ChannelFigures], dropped: int
) -> Iterator[Metric]:
    """Yield how many alerts are open, and how their messages fare."""
    alerts = GaugeMetricFamily("whatsapp_alerts", "Alerts that are open.", labels=["kind"])
    for kind in AlertKind:
        alerts.add_metric([kind.value], open_by_kind.get(kind.value, 0))
    yield alerts
    known = list(channels)
    figures: tuple[tuple[str, str, Callable[[ChannelFigures], int]], ...] = (
        ("sent", "Alert messages that a channel took.", lambda item: item.sent),
        ("failed", "Attempts to send an alert message that failed.", lambda item: item.failed),
    )
    for name, documentation, figure in figures:
        family = CounterMetricFamily(
            f"whatsapp_alert_messages_{name}", documentation, labels=["channel"]
        )
        for channel in known:
            family.add_metric([channel.name], figure(channel))
        yield family
    waiting = GaugeMetricFamily(
        "whatsapp_alert_messages_waiting", "Alert messages to be sent.", labels=["channel"]
    )
    for channel in known:
        waiting.add_metric([channel.name], channel.waiting)
    yield waiting
    yield CounterMetricFamily(
        "whatsapp_alert_messages_dropped", "Alert messages given up.", value=dropped
    )
