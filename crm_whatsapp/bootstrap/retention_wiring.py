"""The pieces that remove what is old."""

from typing import TYPE_CHECKING

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.retention import RetentionTerms
from crm_whatsapp.jobs.job_board import Job
from crm_whatsapp.service.retention import Retention
from crm_whatsapp.service.session_manager import SessionManager
from crm_whatsapp.stores.retention_store import SupabaseRetentionStore
from crm_whatsapp.stores.supabase_client import SupabaseClient

if TYPE_CHECKING:
    from crm_whatsapp.bootstrap.wiring import Parts

_DAY = 86_400.0
FIRST_CLEAN_UP_SECONDS = 600.0
"""After the start, when sessions are back: daily jobs of a service that is restarted every day."""
RETRY_CLEAN_UP_SECONDS = 600.0
"""After a failure: the database was away just then, and tomorrow is far."""


def build_retention(
    settings: Settings, client: SupabaseClient, manager: SessionManager, clock: Clock
) -> Retention:
    """Make it; starts nothing."""
    return Retention(
        store=SupabaseRetentionStore(client),
        manager=manager,
        clock=clock,
        terms=RetentionTerms(
            status_events_seconds=_seconds(settings.events_keep_days),
            delivered_seconds=_seconds(settings.webhook_deliveries_keep_days),
            parked_seconds=_seconds(settings.webhook_parked_keep_days),
            logged_out_seconds=_seconds(settings.cleanup_logged_out_after_days),
        ),
    )


def retention_jobs(parts: "Parts") -> list[Job]:
    """Return what runs by the clock."""
    return [
        Job(
            name="clean-up",
            interval_seconds=parts.settings.cleanup_interval_seconds,
            function=parts.retention.run,
            first_after_seconds=FIRST_CLEAN_UP_SECONDS,
            retry_after_seconds=RETRY_CLEAN_UP_SECONDS,
        ),
        Job(
            name="snapshot-clean-up",
            interval_seconds=parts.settings.cleanup_interval_seconds,
            function=parts.snapshots.clean_up,
            first_after_seconds=FIRST_CLEAN_UP_SECONDS,
            retry_after_seconds=RETRY_CLEAN_UP_SECONDS,
        ),
    ]


def _seconds(days: float) -> float | None:
    """Return the setting in seconds; 0 means for ever."""
    return days * _DAY if days else None
