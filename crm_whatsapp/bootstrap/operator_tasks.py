"""What operators ask for from the command line, wired for one call."""

from pathlib import Path

from crm_whatsapp.engine.empty_store_process import make_empty_store
from crm_whatsapp.engine.session_lock import SessionLock
from crm_whatsapp.sessions.baileys_import import BaileysImport, ImportReport
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.stores.migrator import apply_migrations, manual_instructions

MIGRATIONS = Path(__file__).resolve().parent.parent.parent / "migrations"


def migrate_database(database_url: str) -> list[str]:
    """Apply what is outstanding; return the names of what was applied.

    Raises:
        StoreUnavailable, StoreRejected, ConfigurationError: as apply_migrations says.
    """
    return [f"{item.version} {item.name}" for item in apply_migrations(database_url, MIGRATIONS)]


def migration_text() -> str:
    """Return the SQL to paste where no database URL is to be had."""
    return manual_instructions(MIGRATIONS, None)


def import_baileys(
    source: Path, sessions_dir: Path, company_id: str, *, replace: bool, dry_run: bool
) -> ImportReport:
    """Turn a session of Baileys into one of this SESSIONS_DIR; the source is only read.

    Raises:
        CrmWhatsappError: as BaileysImport.run says; ConfigurationError for a relative SESSIONS_DIR.
    """
    moving_in = BaileysImport(
        LocalSessionFolders(sessions_dir),
        make_empty_store=make_empty_store,
        session_lock=SessionLock,
    )
    return moving_in.run(source, company_id, replace=replace, dry_run=dry_run)
