"""The pieces of the status report."""

from crm_whatsapp.bootstrap.snapshot_wiring import SnapshotParts
from crm_whatsapp.config import Settings
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.engine.supervisor import Supervisor
from crm_whatsapp.service.session_manager import SessionManager
from crm_whatsapp.service.status_report import ReportSources, StatusReport
from crm_whatsapp.service.write_behind import WriteBehind
from crm_whatsapp.stores.report_store import SupabaseReportStore
from crm_whatsapp.stores.supabase_client import SupabaseClient


def build_report(
    settings: Settings,
    client: SupabaseClient,
    clock: Clock,
    *,
    manager: SessionManager,
    snapshots: SnapshotParts,
    fleet: Supervisor,
    write_behind: WriteBehind,
) -> StatusReport:
    """Make the report; starts nothing."""
    sources = ReportSources(
        connections=manager.connections,
        catalogue=snapshots.catalogue,
        keeper=snapshots.keeper,
        engines=fleet.health,
        engine_deaths=lambda: sum(fleet.deaths().values()),
        database_problem=lambda: write_behind.problem,
    )
    return StatusReport(
        sources,
        SupabaseReportStore(client),
        clock,
        cache_seconds=settings.report_cache_seconds,
    )
