"""The pieces that keep snapshots and bring them back."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import structlog

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.errors import ConfigurationError, CrmWhatsappError
from crm_whatsapp.domain.ports import Clock, SnapshotStore
from crm_whatsapp.service.lease_keeper import LeaseKeeper
from crm_whatsapp.service.session_opener import RemoteSnapshots, SessionOpener
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue
from crm_whatsapp.service.snapshot_keeper import SnapshotKeeper
from crm_whatsapp.service.snapshot_ledger import SnapshotTerms
from crm_whatsapp.service.store_guard import StoreGuard
from crm_whatsapp.sessions.key_ring import KeyRing
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.snapshot_cipher import EnvelopeCipher
from crm_whatsapp.sessions.snapshot_installer import SnapshotInstaller
from crm_whatsapp.sessions.store_copier import SqliteStoreCopier
from crm_whatsapp.sessions.store_pages import StorePages
from crm_whatsapp.stores.s3_bucket import BucketSettings, S3Bucket
from crm_whatsapp.stores.s3_snapshot_store import S3SnapshotStore
from crm_whatsapp.stores.snapshot_store import SupabaseSnapshotStore
from crm_whatsapp.stores.supabase_client import SupabaseClient

log = structlog.get_logger(__name__)

_SHUTDOWN_THREADS = 8


@dataclass(frozen=True, slots=True)
class SnapshotParts:
    """keeper.is_on is false when no key is configured: then nothing is copied anywhere."""

    store: SnapshotStore
    catalogue: SnapshotCatalogue
    opener: SessionOpener
    keeper: SnapshotKeeper
    guard: StoreGuard
    pages: StorePages

    def clean_up(self) -> int:
        """Remove expired tombstones and what nothing points to; return how much went.

        Raises:
            StoreUnavailable, StoreRejected: tried again the next day.
        """
        return self.store.sweep()


def build_snapshots(
    settings: Settings,
    client: SupabaseClient,
    folders: LocalSessionFolders,
    leases: LeaseKeeper,
    clock: Clock,
) -> SnapshotParts:
    """Make the pieces; starts nothing.

    Raises:
        ConfigurationError: a key or the bucket is not usable.
    """
    store = snapshot_store(settings, client)
    keys = settings.snapshot_encryption_keys
    cipher = EnvelopeCipher(KeyRing.parse(keys.get_secret_value())) if keys else None
    copier = SqliteStoreCopier(folders, pages=folders.pages)
    catalogue = SnapshotCatalogue(store)
    opener = SessionOpener(
        folders=folders,
        installer=SnapshotInstaller(folders),
        leases=leases,
        catalogue=catalogue,
        remote=RemoteSnapshots(store, cipher),
    )
    keeper = SnapshotKeeper(
        store=store,
        cipher=cipher,
        copier=copier,
        leases=leases,
        catalogue=catalogue,
        clock=clock,
        terms=SnapshotTerms(
            ratchet_interval_seconds=settings.snapshot_ratchet_interval_seconds,
            daily_bytes=settings.snapshot_daily_bytes,
        ),
    )
    guard = StoreGuard(
        copier=copier,
        clock=clock,
        interval_seconds=settings.store_check_seconds,
        has_snapshot=lambda company_id: keeper.is_on and catalogue.find(company_id) is not None,
    )
    keeper.on_damage(guard.found)
    return SnapshotParts(
        store=store,
        catalogue=catalogue,
        opener=opener,
        keeper=keeper,
        guard=guard,
        pages=folders.pages,
    )


def snapshot_store(settings: Settings, client: SupabaseClient) -> SnapshotStore:
    """Return where the sealed copies are kept.

    Raises:
        ConfigurationError: SNAPSHOT_STORAGE=s3 without S3_BUCKET.
    """
    if settings.snapshot_storage == "database":
        return SupabaseSnapshotStore(client)
    if settings.s3_bucket is None:
        raise ConfigurationError("S3_BUCKET is not set, and SNAPSHOT_STORAGE is s3")
    access, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    bucket = S3Bucket(
        BucketSettings(
            bucket=settings.s3_bucket,
            endpoint_url=settings.s3_endpoint_url,
            region=settings.s3_region,
            access_key_id=access.get_secret_value() if access else None,
            secret_access_key=secret.get_secret_value() if secret else None,
        )
    )
    return S3SnapshotStore(client, bucket, prefix=settings.s3_prefix)


def take_clean_snapshots(
    keeper: SnapshotKeeper, companies: Sequence[str], timeout_seconds: float
) -> list[str]:
    """Take the last snapshot of stopped sessions, in parallel; return those without one.

    Args:
        timeout_seconds: what is not written by then is left to the local store.
    """
    pool = ThreadPoolExecutor(_SHUTDOWN_THREADS, thread_name_prefix="clean-snapshots")
    pending = {
        pool.submit(keeper.take, company_id, clean=True): company_id for company_id in companies
    }
    wait(pending, timeout_seconds)
    pool.shutdown(wait=False, cancel_futures=True)
    missed = []
    for future, company_id in pending.items():
        if not future.done() or future.cancelled():
            missed.append(company_id)
            continue
        error = future.exception()
        if error is not None:
            missed.append(company_id)
            if not isinstance(error, CrmWhatsappError):
                log.error("a clean snapshot failed", company_id=company_id, detail=repr(error))
    return missed
