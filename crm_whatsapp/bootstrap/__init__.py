"""The only place that sees every layer: builds the service, starts it and stops it."""

from crm_whatsapp.bootstrap.operator_tasks import (
    MIGRATIONS,
    import_baileys,
    migrate_database,
    migration_text,
)
from crm_whatsapp.bootstrap.running_service import RunningService, WorkerLock, stop_parts
from crm_whatsapp.bootstrap.wiring import Parts, build

__all__ = [
    "MIGRATIONS",
    "Parts",
    "RunningService",
    "WorkerLock",
    "build",
    "import_baileys",
    "migrate_database",
    "migration_text",
    "stop_parts",
]
