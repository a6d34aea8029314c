"""What operators ask for from the command line, wired for one call."""

from dataclasses import dataclass, replace
from pathlib import Path

from crm_whatsapp.bootstrap.snapshot_wiring import snapshot_store
from crm_whatsapp.config import Settings
from crm_whatsapp.domain.errors import ConfigurationError
from crm_whatsapp.domain.snapshots import KeyMissing, SnapshotDamaged
from crm_whatsapp.domain.webhooks import WebhookStore
from crm_whatsapp.engine.empty_store_process import make_empty_store
from crm_whatsapp.engine.session_lock import SessionLock
from crm_whatsapp.sessions.baileys_import import BaileysImport, ImportReport
from crm_whatsapp.sessions.key_ring import KeyRing, generate_key_entry
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.session_transfer import SessionTransfer, TransferReport
from crm_whatsapp.sessions.snapshot_cipher import EnvelopeCipher
from crm_whatsapp.sessions.webhook_secrets import KeyRingVault
from crm_whatsapp.stores.migrator import apply_migrations, manual_instructions
from crm_whatsapp.stores.supabase_client import make_client
from crm_whatsapp.stores.webhook_store import SupabaseWebhookStore

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


def export_session(
    sessions_dir: Path, company_id: str, path: Path, passphrase: str
) -> TransferReport:
    """Write one session to an encrypted file; raises as SessionTransfer.export says."""
    return _transfer(sessions_dir).export(company_id, path, passphrase)


def import_session(
    sessions_dir: Path, company_id: str, path: Path, passphrase: str, *, replace: bool
) -> TransferReport:
    """Take one session from an encrypted file; raises as SessionTransfer.load says."""
    return _transfer(sessions_dir).load(path, company_id, passphrase, replaces=replace)


def _transfer(sessions_dir: Path) -> SessionTransfer:
    return SessionTransfer(LocalSessionFolders(sessions_dir), SessionLock)


def new_key() -> str:
    """Return an entry for SNAPSHOT_ENCRYPTION_KEYS."""
    return generate_key_entry()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """How a rotation of keys went.

    resealed: signing secrets of webhooks that were sealed anew.
    failed: what could not be rewrapped, and why.
    """

    rewrapped: int
    current: int
    resealed: int
    failed: tuple[str, ...]


def rotate_keys(settings: Settings) -> Rotation:
    """Wrap every snapshot's data key and seal every webhook's secret by the first key.

    Safe while the service runs.

    Raises:
        ConfigurationError: no keys are configured.
        StoreUnavailable, StoreRejected: the database; what was done stays done.
    """
    if settings.snapshot_encryption_keys is None:
        raise ConfigurationError("SNAPSHOT_ENCRYPTION_KEYS is not set")
    keys = KeyRing.parse(settings.snapshot_encryption_keys.get_secret_value())
    cipher = EnvelopeCipher(keys)
    client = make_client(
        settings.supabase_url,
        settings.supabase_service_role_key.get_secret_value(),
        settings.database_timeout_seconds,
    )
    store = snapshot_store(settings, client)
    rewrapped, current, failed = 0, 0, []
    for company_id in sorted(store.companies()):
        for meta in store.list(company_id):
            try:
                sealed = store.read(meta.company_id, meta.epoch, meta.seq)
                fresh = cipher.rewrap(sealed)
                if fresh is None:
                    current += 1
                elif store.rewrap(sealed.meta, new_key_id=fresh[0], wrapped_key=fresh[1]):
                    rewrapped += 1
            except (KeyMissing, SnapshotDamaged) as error:
                failed.append(f"{company_id} {meta.epoch}/{meta.seq}: {error.message}")
    resealed, unopened = _reseal(SupabaseWebhookStore(client), KeyRingVault(keys))
    return Rotation(
        rewrapped=rewrapped,
        current=current,
        resealed=resealed,
        failed=(*failed, *unopened),
    )


def _reseal(store: WebhookStore, vault: KeyRingVault) -> tuple[int, list[str]]:
    """Seal the secrets of webhooks by the first key; return how many, and what failed."""
    resealed, failed = 0, []
    for webhook in store.list_webhooks():
        if vault.is_current(webhook.secret):
            continue
        try:
            secret = vault.seal(webhook.id, vault.open(webhook.id, webhook.secret))
        except (KeyMissing, SnapshotDamaged) as error:
            failed.append(f"webhook {webhook.id}: {error.message}")
            continue
        store.save_webhook(replace(webhook, secret=secret))
        resealed += 1
    return resealed, failed
