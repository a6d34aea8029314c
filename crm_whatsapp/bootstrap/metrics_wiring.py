"""Shows the metrics where the figures are."""

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from crm_whatsapp import __version__
from crm_whatsapp.domain.connection import Connection
from crm_whatsapp.service.metrics.journal_figures import Carried, JournalFigures
from crm_whatsapp.service.metrics.snapshot_figures import SnapshotFigures, snapshot_figures
from crm_whatsapp.service.metrics.state_collector import Observed

if TYPE_CHECKING:
    from crm_whatsapp.bootstrap.wiring import Parts

_PLANNED_LAGS = 2.0
"""A copy that is due waits for others, or for the database: twice the interval is no fault."""


def observe(parts: "Parts") -> None:
    """Have transitions counted, and the parts read at every scrape."""
    metrics, settings = parts.metrics, parts.settings
    parts.recorder.listen(metrics.sessions.take)

    def journal() -> JournalFigures:
        on_disk, sender = parts.journal, parts.write_behind
        notices = on_disk.notice_count
        return JournalFigures(
            transitions=Carried(
                pending=max(0, on_disk.backlog_count - notices),
                sent=sender.sent,
                dropped=on_disk.dropped_count,
                lost=parts.recorder.lost,
            ),
            notices=Carried(
                pending=notices,
                sent=sender.sent_notices,
                dropped=on_disk.dropped_notices,
                lost=on_disk.lost_notices,
            ),
            held=parts.recorder.held_count,
            refused=sender.refused,
            is_reachable=parts.write_behind.is_reachable,
        )

    def snapshots(connections: list[Connection]) -> SnapshotFigures:
        return snapshot_figures(
            parts.snapshots.keeper,
            connections,
            metrics.sessions.uptimes(),
            now_monotonic=parts.clock.monotonic(),
            overdue_after_seconds=_PLANNED_LAGS * settings.snapshot_ratchet_interval_seconds,
        )

    metrics.observe(
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
            journal=journal,
            startup=lambda: parts.restore.progress,
            mismatches=lambda: parts.reconciliation.mismatches,
            snapshots=snapshots,
            jobs=parts.jobs.records,
            names_companies=settings.metrics_company_label,
        )
    )
