"""The only place that sees every layer: builds the service, starts it and stops it."""

from crm_whatsapp.bootstrap.access_wiring import create_key, list_keys, revoke_key
from crm_whatsapp.bootstrap.alert_wiring import send_test_alert
from crm_whatsapp.bootstrap.event_wiring import stream_terms
from crm_whatsapp.bootstrap.limit_wiring import limit_terms
from crm_whatsapp.bootstrap.media_wiring import large_body_terms
from crm_whatsapp.bootstrap.operator_tasks import (
    MIGRATIONS,
    export_session,
    import_baileys,
    import_session,
    migrate_database,
    migration_text,
    new_key,
    rotate_keys,
)
from crm_whatsapp.bootstrap.running_service import RunningService, WorkerLock, stop_parts
from crm_whatsapp.bootstrap.wiring import Parts, build

__all__ = [
    "MIGRATIONS",
    "Parts",
    "RunningService",
    "WorkerLock",
    "build",
    "create_key",
    "export_session",
    "import_baileys",
    "import_session",
    "large_body_terms",
    "limit_terms",
    "list_keys",
    "migrate_database",
    "migration_text",
    "new_key",
    "revoke_key",
    "rotate_keys",
    "send_test_alert",
    "stop_parts",
    "stream_terms",
]
