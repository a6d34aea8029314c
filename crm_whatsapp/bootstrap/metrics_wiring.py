"""Shows the metrics where the figures are."""

import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from crm_whatsapp import __version__
from crm_whatsapp.domain.connection import Connection
from crm_whatsapp.service.alert_desk import open_by_kind
from crm_whatsapp.service.metrics.journal_figures import Carried, JournalFigures
from crm_whatsapp.service.metrics.outside_figures import (
    alert_metrics,
    stream_metrics,
    webhook_metrics,
)
from crm_whatsapp.service.metrics.snapshot_figures import SnapshotFigures, snapshot_figures
from crm_whatsapp.service.metrics.state_collector import Observed

if TYPE_CHECKING:
    from crm_whatsapp.bootstrap.wiring import Parts


def observe(parts: "Parts") -> None:
    """Have transitions counted, and the parts read at every scrape."""
    metrics = parts.metrics
    parts.recorder.listen(metrics.sessions.take)
    collector = metrics.observe(
        Observed(
            build={
                "version": __version__,
                "python": platform.python_version(),
                "neonize": version("neonize"),
            },
            connections=parts.manager.connections,
            meter=metrics.sessions,
            engines=parts.fleet.health,
            engine_deaths=parts.fleet.deaths,
            journal=lambda: _journal(parts),
            startup=lambda: parts.restore.progress,
            mismatches=lambda: dict(parts.reconciliation.mismatches),
            snapshots=lambda connections: _snapshots(parts, connections),
            jobs=parts.jobs.records,
            names_companies=parts.settings.metrics_company_label,
        )
    )

    def streams() -> Iterator[Metric]:
        return stream_metrics(parts.events.figures, parts.events.open_streams)

    def webhooks() -> Iterator[Metric]:
        health, dispatcher = parts.webhooks.health, parts.webhooks.dispatcher
        return webhook_metrics(
            dispatcher.figures(),
            is_reachable=dispatcher.problem is None,
            waiting=health.waiting(),
            parked=health.parked(),
        )

    def alerts() -> Iterator[Metric]:
        memory = parts.alerts.memory
        channels = parts.alerts.courier.figures()
        return alert_metrics(open_by_kind(memory.record.book), channels, memory.dropped)

    for figures in (streams, webhooks, alerts):
        collector.add(figures)


def _journal(parts: "Parts") -> JournalFigures:
    on_disk, sender = parts.journal, parts.write_behind
    notices = on_disk.notice_count
    held_transitions, held_notices = parts.recorder.held
    return JournalFigures(
        transitions=Carried(
            pending=max(0, on_disk.backlog_count - notices),
            held=held_transitions,
            sent=sender.sent,
            dropped=on_disk.dropped_count,
            lost=parts.recorder.lost,
        ),
        notices=Carried(
            pending=notices,
            held=held_notices,
            sent=sender.sent_notices,
            dropped=on_disk.dropped_notices,
            lost=on_disk.lost_notices + parts.recorder.lost_notices,
        ),
        refused=sender.refused,
        is_reachable=sender.is_reachable,
    )


def _snapshots(parts: "Parts", connections: list[Connection]) -> SnapshotFigures:
    return snapshot_figures(
        parts.snapshots.keeper,
        connections,
        parts.metrics.sessions.uptimes(),
        now_monotonic=parts.clock.monotonic(),
        overdue_after_seconds=parts.settings.alert_snapshot_seconds,
    )
