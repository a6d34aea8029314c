"""How those outside are told: event streams, webhooks and alerts, as Prometheus takes them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client.core import Metric

from crm_whatsapp.domain.alerts import AlertKind
from crm_whatsapp.service.event_stream import StreamFigures
from crm_whatsapp.service.metrics.families import counter, counters, gauge, gauges
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
    yield gauge("whatsapp_sse_streams", "Event streams open.", open_streams)
    for name, documentation, value in (
        ("opened", "Event streams that were opened.", figures.opened),
        ("refused", "Event streams refused because too many were open.", figures.refused),
        ("ended_slow", "Event streams ended: the client took too little.", figures.ended_slow),
        ("resyncs", "Clients that came back too late for what they missed.", figures.resyncs),
    ):
        yield counter(f"whatsapp_sse_{name}", documentation, value)


def webhook_metrics(
    figures: DispatchFigures, *, is_reachable: bool, waiting: int, parked: Mapping[str, int]
) -> Iterator[Metric]:
    """Yield the figures of webhooks.

    Args:
        is_reachable: the queue in the database answered when it was last asked.
        waiting: deliveries to be sent, as last counted.
        parked: deliveries given up, by webhook, as last counted.
    """
    yield counters(
        "whatsapp_webhook_requests",
        "Requests to webhooks, by their outcome.",
        "outcome",
        {outcome.value: count for outcome, count in figures.outcomes.items()},
        [outcome.value for outcome in Outcome],
    )
    yield counter("whatsapp_webhook_parked", "Deliveries given up since start.", figures.parked)
    yield gauges(
        "whatsapp_webhook_deliveries",
        "Deliveries in the queue, as last counted by the job.",
        "state",
        {"pending": waiting, "parked": sum(parked.values())},
    )
    for name, documentation, value in (
        ("requests_in_flight", "Requests to webhooks under way.", figures.in_flight),
        ("lanes_claimed", "Claimed lanes that wait for a thread.", figures.claimed),
        ("breakers_open", "Webhooks left alone because they do not answer.", figures.open_breakers),
        ("queue_reachable", "1 when the queue answered when it was last asked.", is_reachable),
    ):
        yield gauge(f"whatsapp_webhook_{name}", documentation, value)


def alert_metrics(
    open_by_kind: Mapping[str, int], channels: Sequence[ChannelFigures], dropped: int
) -> Iterator[Metric]:
    """Yield how many alerts are open, and how their messages fare."""
    kinds = [kind.value for kind in AlertKind]
    yield gauges("whatsapp_alerts", "Alerts that are open.", "kind", open_by_kind, kinds)
    yield counters(
        "whatsapp_alert_messages_sent",
        "Alert messages that a channel took.",
        "channel",
        {item.name: item.sent for item in channels},
    )
    yield counters(
        "whatsapp_alert_messages_failed",
        "Attempts to send an alert message that failed.",
        "channel",
        {item.name: item.failed for item in channels},
    )
    yield gauges(
        "whatsapp_alert_messages_waiting",
        "Alert messages to be sent.",
        "channel",
        {item.name: item.waiting for item in channels},
    )
    yield counter("whatsapp_alert_messages_dropped", "Alert messages given up.", dropped)
