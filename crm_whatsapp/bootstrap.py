"""The wiring: the only module that sees every layer. Builds, starts and stops the service."""

import fcntl
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.connection import ClientPhase
from crm_whatsapp.domain.decisions import PolicyLimits
from crm_whatsapp.domain.errors import CrmWhatsappError
from crm_whatsapp.domain.events import LeaseLost, ServiceStopping
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.engine.settings import EngineSettings
from crm_whatsapp.engine.supervisor import Supervisor
from crm_whatsapp.jobs.job_board import Job, JobBoard
from crm_whatsapp.service.effect_runner import Collaborators, EffectRunner
from crm_whatsapp.service.keepalive import Keepalive
from crm_whatsapp.service.lease_keeper import LeaseKeeper, LeaseTerms
from crm_whatsapp.service.messaging import Messaging, SendLimits
from crm_whatsapp.service.readiness import Observed, Readiness
from crm_whatsapp.service.reconciliation import Reconciliation
from crm_whatsapp.service.recorder import Recorder
from crm_whatsapp.service.session_manager import ManagerParts, SessionManager
from crm_whatsapp.service.startup_restore import RestorePlan, StartupRestore
from crm_whatsapp.service.steady_clock import SteadyClock
from crm_whatsapp.service.write_behind import WriteBehind
from crm_whatsapp.sessions.owner_id import load_owner_id
from crm_whatsapp.sessions.proxy_vault import EncryptedProxyVault
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.store_log import settle_stores
from crm_whatsapp.stores.connection_store import SupabaseConnectionStore
from crm_whatsapp.stores.lease_store import SupabaseLeaseStore
from crm_whatsapp.stores.migrator import apply_migrations, manual_instructions, newest_version
from crm_whatsapp.stores.state_journal import SqliteStateJournal
from crm_whatsapp.stores.supabase_client import make_client

log = structlog.get_logger(__name__)

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


def migrate_database(database_url: str) -> list[str]:
    """Apply what is outstanding; return the names of what was applied.

    Raises:
        StoreUnavailable, StoreRejected, ConfigurationError: as apply_migrations says.
    """
    return [f"{item.version} {item.name}" for item in apply_migrations(database_url, MIGRATIONS)]


def migration_text() -> str:
    """Return the SQL to paste where no database URL is to be had."""
    return manual_instructions(MIGRATIONS, None)


class WorkerLock:
    """Held by the worker that runs the sessions: a reloaded worker waits for the old one."""

    def __init__(self, root: Path) -> None:
        self._path = root / ".locks" / "worker.lock"
        self._mutex = threading.Lock()
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Wait until the earlier worker of this SESSIONS_DIR has ended."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except BaseException:
            os.close(descriptor)
            raise
        with self._mutex:
            self._descriptor = descriptor

    def release(self) -> None:
        """Let the next worker begin; nothing happens to a lock that is not held."""
        with self._mutex:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Parts:
    """The running service, piece by piece."""

    settings: Settings
    folders: LocalSessionFolders
    journal: SqliteStateJournal
    recorder: Recorder
    write_behind: WriteBehind
    leases: LeaseKeeper
    fleet: Supervisor
    manager: SessionManager
    reconciliation: Reconciliation
    restore: StartupRestore
    readiness: Readiness
    messaging: Messaging
    jobs: JobBoard


def policy_limits(settings: Settings) -> PolicyLimits:
    """Return the policy's durations."""
    return PolicyLimits(
        restore_timeout_seconds=settings.session_recovery_timeout / 1000,
        reconnect_timeout_seconds=settings.session_reconnect_timeout_seconds,
        max_retries=settings.session_recovery_max_retries,
        retry_delay_seconds=settings.session_recovery_retry_delay / 1000,
        backoff_cap_seconds=settings.session_backoff_max_seconds,
        stable_after_seconds=settings.session_stable_after_seconds,
        failed_poll_interval_seconds=settings.session_failed_poll_interval_seconds,
        replaced_retry_seconds=settings.session_replaced_retry_seconds,
        pairing_timeout_seconds=settings.session_pairing_timeout_seconds,
        first_login_timeout_seconds=settings.session_first_login_timeout_seconds,
        logout_timeout_seconds=settings.session_logout_timeout_seconds,
        storage_retry_seconds=settings.session_storage_retry_seconds,
    )


def engine_settings(settings: Settings) -> EngineSettings:
    """Return the settings of the fleet."""
    return EngineSettings(
        device_name=settings.whatsapp_device_name,
        log_level=settings.log_level,
        sessions_per_engine=settings.sessions_per_engine,
        pairing_engines_max=settings.pairing_engines_max,
        start_gate_max_ms=settings.start_gate_max_ms,
        probe_seconds=settings.keepalive_probe_timeout_seconds,
        heartbeat_loss_seconds=settings.engine_heartbeat_timeout_seconds,
        max_starts=settings.engine_max_starts,
        max_descriptors=settings.engine_max_descriptors,
        max_memory_mb=settings.engine_max_memory_mb,
        abandoned_grace_seconds=settings.engine_abandoned_grace_seconds,
    )


def build(settings: Settings) -> Parts:
    """Make and wire everything; starts nothing.

    Raises:
        StorageError: the state journal cannot be opened.
    """
    root = settings.sessions_dir
    clock = SteadyClock()
    folders = LocalSessionFolders(root)
    folders.prepare_root()
    client = make_client(
        settings.supabase_url,
        settings.supabase_service_role_key.get_secret_value(),
        settings.database_timeout_seconds,
    )
    owner_id = load_owner_id(root)
    store = SupabaseConnectionStore(client, owner_id=owner_id)
    journal = SqliteStateJournal(root / "state.db")
    recorder = Recorder(journal)
    leases = LeaseKeeper(
        store=SupabaseLeaseStore(client),
        owner_id=owner_id,
        clock=clock,
        terms=LeaseTerms(
            ttl_seconds=settings.lease_ttl_seconds, away_seconds=settings.lease_renew_seconds
        ),
        started_at=clock.now(),
    )
    proxies = EncryptedProxyVault(root)
    sink = _Sink()
    fleet = Supervisor(engine_settings(settings), sink.take)
    effects = EffectRunner(
        Collaborators(folders=folders, fleet=fleet, leases=leases, clock=clock, proxies=proxies)
    )
    manager = SessionManager(
        ManagerParts(
            journal=journal,
            recorder=recorder,
            effects=effects,
            folders=folders,
            leases=leases,
            clock=clock,
            proxies=proxies,
            limits=policy_limits(settings),
        )
    )
    sink.target = manager
    write_behind = WriteBehind(
        journal=journal,
        store=store,
        longest_wait_seconds=settings.database_retry_max_seconds,
        held_count=lambda: recorder.held_count,
    )
    reconciliation = Reconciliation(
        manager=manager,
        store=store,
        folders=folders,
        write_behind=write_behind,
        flush_timeout_seconds=settings.database_timeout_seconds,
        restores=settings.session_recovery_enabled,
    )
    restore = StartupRestore(
        manager=manager,
        folders=folders,
        reconciliation=reconciliation,
        prewarm=fleet.prewarm,
        plan=RestorePlan(
            enabled=settings.session_recovery_enabled,
            startup_delay_seconds=settings.session_recovery_startup_delay / 1000,
            delay_between_seconds=settings.session_restore_delay_ms / 1000,
        ),
    )
    jobs = JobBoard()
    readiness = Readiness(
        Observed(
            manager=manager,
            fleet=fleet,
            store=store,
            journal=journal,
            recorder=recorder,
            folders=folders,
            write_behind=write_behind,
            restore=restore,
            reconciliation=reconciliation,
            jobs=jobs.records,
            expected_schema=newest_version(MIGRATIONS),
        )
    )
    messaging = Messaging(
        manager=manager,
        fleet=fleet,
        limits=SendLimits(
            connect_wait_seconds=settings.send_connect_wait_seconds,
            ack_wait_seconds=settings.send_ack_wait_seconds,
        ),
    )
    parts = Parts(
        settings=settings,
        folders=folders,
        journal=journal,
        recorder=recorder,
        write_behind=write_behind,
        leases=leases,
        fleet=fleet,
        manager=manager,
        reconciliation=reconciliation,
        restore=restore,
        readiness=readiness,
        messaging=messaging,
        jobs=jobs,
    )
    keepalive = Keepalive(
        manager=manager,
        fleet=fleet,
        clock=clock,
        interval_seconds=settings.keepalive_interval_seconds,
    )
    for job in job_table(parts, keepalive):
        jobs.add(job)
    _connect_listeners(parts)
    return parts


class _Sink:
    """Passes engine events on to the manager, which is made after the fleet."""

    target: SessionManager

    def take(self, event: object) -> None:
        self.target.post_engine_event(event)  # type: ignore[arg-type]


def _connect_listeners(parts: Parts) -> None:
    """Tell each piece who wants to hear of what."""

    def recorded(transition: Transition) -> None:
        parts.write_behind.notify()
        parts.restore.watch(transition)

    parts.recorder.listen(recorded)
    parts.leases.on_lost(lambda company_id: parts.manager.post(company_id, LeaseLost()))
    parts.write_behind.on_stale(parts.manager.rows.take_stale)
    parts.write_behind.on_return(parts.reconciliation.request)
    parts.write_behind.on_return(lambda: parts.jobs.run_soon("schema-check"))


def job_table(parts: Parts, keepalive: Keepalive) -> list[Job]:
    """Return what runs by the clock."""
    settings = parts.settings

    def renew_leases() -> None:
        parts.leases.tick(running_sessions(parts.manager))

    def sweep() -> None:
        parts.manager.sweep()
        if parts.recorder.retry_held():
            parts.write_behind.notify()

    return [
        Job(
            name="deadline-sweep",
            interval_seconds=settings.deadline_sweep_seconds,
            function=sweep,
        ),
        Job(
            name="qr-expiry",
            interval_seconds=settings.qr_expiry_interval_seconds,
            function=parts.manager.expire_codes,
        ),
        Job(
            name="keepalive",
            interval_seconds=max(0.5, settings.keepalive_interval_seconds / 60),
            function=keepalive.check,
        ),
        Job(
            name="lease-renewal",
            interval_seconds=settings.lease_renew_seconds,
            function=renew_leases,
        ),
        Job(
            name="session-sync",
            interval_seconds=settings.sync_interval_seconds,
            function=parts.reconciliation.sync,
        ),
        Job(
            name="schema-check",
            interval_seconds=settings.sync_interval_seconds,
            function=parts.readiness.check_schema,
            at_once=True,
        ),
    ]


def running_sessions(manager: SessionManager) -> int:
    """Return how many sessions have a client here."""
    return sum(item.client is not ClientPhase.NONE for item in manager.connections())


class RunningService:
    """The service inside the worker: started once, stopped once, from any thread.

    Attributes:
        parts: set as soon as requests can be answered.
        boot_error: why the service is not up, for people; None while it starts and once it is up.
    """

    def __init__(self, settings: Settings, make: Callable[[Settings], Parts] = build) -> None:
        self._settings = settings
        self._make = make
        self._lock = WorkerLock(settings.sessions_dir)
        self._stop_requested = threading.Event()
        self._stopped = threading.Event()
        self._stop_once = threading.Lock()
        self._changed = threading.Condition()
        self._starting = False
        self._boot = threading.Thread(target=self._run, name="boot", daemon=True)
        self.parts: Parts | None = None
        self.boot_error: str | None = None

    def start(self) -> None:
        """Start in the background; what stands in its way for a while is tried again."""
        self._boot.start()

    def _run(self) -> None:
        try:
            self._lock.acquire()
            while not self._attempt():
                self._stop_requested.wait(self._settings.session_storage_retry_seconds)
            if self.parts is None:  # stopped before anything was started
                self._lock.release()
        except Exception as error:
            self.boot_error = str(error) or type(error).__name__
            log.exception("the service could not start")

    def _attempt(self) -> bool:
        """Start everything; False when it should be tried again."""
        with self._changed:
            if self._stop_requested.is_set():
                return True
            self._starting = True
        try:
            self._start_parts()
        except CrmWhatsappError as error:
            if error.permanent:
                raise
            self.boot_error = error.message
            log.error("the service could not start and tries again", detail=error.message)
            return False
        finally:
            with self._changed:
                self._starting = False
                self._changed.notify_all()
        self.boot_error = None
        return True

    def _start_parts(self) -> None:
        parts = self._make(self._settings)
        try:
            parts.manager.start()
        except CrmWhatsappError:
            parts.fleet.shutdown(1.0)
            parts.journal.close()
            raise
        parts.leases.start()
        parts.write_behind.start()
        self.parts = parts
        if self._stop_requested.is_set():
            return
        parts.restore.start()
        parts.jobs.start()
        parts.reconciliation.start()
        log.info("the service is up", sessions=len(parts.manager.connections()))

    def stop(self) -> None:
        """Stop cleanly within GRACEFUL_SHUTDOWN_TIMEOUT; a second caller waits for the first.

        A start under way is waited for and then undone: nothing goes on behind a stop.
        """
        timeout_seconds = self._settings.graceful_shutdown_timeout / 1000
        begun = time.monotonic()
        self._stop_requested.set()
        if not self._stop_once.acquire(blocking=False):
            self._stopped.wait(timeout_seconds)
            return
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._starting, timeout_seconds / 2)
            if self.parts is not None:
                stop_parts(self.parts, timeout_seconds - (time.monotonic() - begun))
        finally:
            self._lock.release()
            self._stopped.set()


def stop_parts(parts: Parts, timeout_seconds: float) -> None:
    """Stop accepting, stop clients in parallel, write what is pending, release the leases.

    Args:
        timeout_seconds: for all of it. Each step has a share, whatever the steps before it took.
    """
    begun = time.monotonic()

    def left(share: float) -> float:
        return max(0.02 * timeout_seconds, timeout_seconds * share - (time.monotonic() - begun))

    parts.restore.stop()
    parts.manager.refuse_requests()
    parts.jobs.stop()
    parts.reconciliation.stop()
    live = [item for item in parts.manager.connections() if item.client is not ClientPhase.NONE]
    for connection in live:
        parts.manager.post(connection.company_id, ServiceStopping())
    unclean = parts.fleet.shutdown(left(0.6))
    for company_id in unclean:
        log.warning("the client did not stop in time and was ended", company_id=company_id)
    stores = [parts.folders.store_path(item.company_id) for item in live]
    for path, why in settle_stores(stores, left(0.72)):
        log.warning("a store keeps its log beside it", path=str(path), detail=why)
    parts.manager.stop(min(1.0, left(0.8)))
    parts.recorder.retry_held()
    if parts.recorder.held_count:
        log.error("changes that the disk refused are lost", changes=parts.recorder.held_count)
    if not parts.write_behind.stop(min(2.0, left(0.9))):
        log.warning("changes wait on disk for the next start")
    parts.leases.stop(min(2.0, left(0.96)))
    parts.journal.close()
    log.info(
        f"Shutdown complete: {len(live) - len(unclean)} of {len(live)} sessions preserved cleanly",
        seconds=round(time.monotonic() - begun, 2),
    )
