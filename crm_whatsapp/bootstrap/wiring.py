"""Makes every piece of the service and introduces them to each other; starts nothing."""

from dataclasses import dataclass

from crm_whatsapp.bootstrap import metrics_wiring
from crm_whatsapp.bootstrap.access_wiring import AccessParts, build_access
from crm_whatsapp.bootstrap.alert_wiring import AlertParts
from crm_whatsapp.bootstrap.event_wiring import build_events
from crm_whatsapp.bootstrap.media_wiring import build_attachments
from crm_whatsapp.bootstrap.operator_tasks import MIGRATIONS
from crm_whatsapp.bootstrap.page_wiring import page_jobs
from crm_whatsapp.bootstrap.report_wiring import build_report
from crm_whatsapp.bootstrap.retention_wiring import build_retention, retention_jobs
from crm_whatsapp.bootstrap.setting_groups import engine_settings, policy_limits
from crm_whatsapp.bootstrap.snapshot_wiring import SnapshotParts, build_snapshots
from crm_whatsapp.bootstrap.user_token_wiring import UserParts, build_users
from crm_whatsapp.bootstrap.webhook_wiring import WebhookParts, build_webhooks
from crm_whatsapp.config import Settings
from crm_whatsapp.domain.connection import ClientPhase
from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.domain.events import LeaseLost, StoreDamageFound
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition
from crm_whatsapp.engine.supervisor import Supervisor
from crm_whatsapp.jobs.job_board import Job, JobBoard
from crm_whatsapp.service.effect_runner import Collaborators, EffectRunner
from crm_whatsapp.service.event_stream import EventStream
from crm_whatsapp.service.inbox import Inbox
from crm_whatsapp.service.keepalive import Keepalive
from crm_whatsapp.service.lease_keeper import LeaseKeeper, LeaseTerms
from crm_whatsapp.service.media_messaging import MediaMessaging
from crm_whatsapp.service.messaging import Messaging, SendLimits
from crm_whatsapp.service.metrics.service_metrics import ServiceMetrics
from crm_whatsapp.service.notice_board import NoticeBoard
from crm_whatsapp.service.pairing_allowance import PairingAllowance
from crm_whatsapp.service.readiness import Observed, Readiness
from crm_whatsapp.service.reconciliation import Reconciliation
from crm_whatsapp.service.recorder import Recorder
from crm_whatsapp.service.retention import Retention
from crm_whatsapp.service.session_backups import SessionBackups
from crm_whatsapp.service.session_manager import SessionManager
from crm_whatsapp.service.session_runtimes import RuntimeParts
from crm_whatsapp.service.startup_restore import RestorePlan, StartupRestore
from crm_whatsapp.service.status_notices import status_notice
from crm_whatsapp.service.status_report import StatusReport
from crm_whatsapp.service.steady_clock import SteadyClock
from crm_whatsapp.service.write_behind import WriteBehind
from crm_whatsapp.sessions.owner_id import load_owner_id
from crm_whatsapp.sessions.proxy_vault import EncryptedProxyVault
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.stores.connection_store import SupabaseConnectionStore
from crm_whatsapp.stores.lease_store import SupabaseLeaseStore
from crm_whatsapp.stores.migrator import newest_version
from crm_whatsapp.stores.state_journal import SqliteStateJournal
from crm_whatsapp.stores.supabase_client import make_client


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
    attachments: MediaMessaging
    jobs: JobBoard
    snapshots: SnapshotParts
    retention: Retention
    notices: NoticeBoard
    clock: SteadyClock
    metrics: ServiceMetrics
    events: EventStream
    alerts: AlertParts
    reports: StatusReport
    backups: SessionBackups
    webhooks: WebhookParts
    access: AccessParts
    users: UserParts


def build(settings: Settings) -> Parts:
    """Make and wire everything; starts nothing.

    Raises:
        StorageError: the state journal cannot be opened.
    """
    root = settings.sessions_dir
    clock = SteadyClock()
    folders = LocalSessionFolders(root)
    folders.prepare_root()
    metrics = ServiceMetrics(clock)
    client = make_client(
        settings.supabase_url,
        settings.supabase_service_role_key.get_secret_value(),
        settings.database_timeout_seconds,
        on_call=metrics.database.note,
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
    snapshots = build_snapshots(settings, client, folders, leases, clock)
    sink = _Sink()
    fleet = Supervisor(engine_settings(settings), sink.take)
    effects = EffectRunner(
        Collaborators(
            folders=folders,
            fleet=fleet,
            leases=leases,
            clock=clock,
            proxies=proxies,
            opener=snapshots.opener,
            snapshots=snapshots.keeper,
        )
    )
    notices = NoticeBoard()
    manager = SessionManager(
        RuntimeParts(
            journal=journal,
            recorder=recorder,
            effects=effects,
            folders=folders,
            leases=leases,
            clock=clock,
            proxies=proxies,
            limits=policy_limits(settings),
            catalogue=snapshots.catalogue,
            snapshots=snapshots.keeper,
            inbox=Inbox(notices=notices, clock=clock, taken=fleet.taken),
            notices=notices,
            pairings=PairingAllowance(clock, settings.pairing_attempts_per_hour),
        )
    )
    sink.target = manager
    webhooks = build_webhooks(settings, client, owner_id, clock)
    write_behind = WriteBehind(
        journal=journal,
        store=store,
        notices=webhooks.store,
        longest_wait_seconds=settings.database_retry_max_seconds,
        held_count=lambda: recorder.held_count,
    )
    reconciliation = Reconciliation(
        manager=manager,
        store=store,
        folders=folders,
        leases=leases,
        clock=clock,
        write_behind=write_behind,
        catalogue=snapshots.catalogue,
        flush_timeout_seconds=settings.database_timeout_seconds,
        restores=settings.session_recovery_enabled,
        retry_seconds=settings.database_retry_max_seconds,
    )
    restore = StartupRestore(
        manager=manager,
        folders=folders,
        reconciliation=reconciliation,
        catalogue=snapshots.catalogue,
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
            snapshots=snapshots.keeper,
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
        attachments=build_attachments(settings, messaging=messaging, fleet=fleet),
        jobs=jobs,
        snapshots=snapshots,
        retention=build_retention(settings, client, manager, clock),
        notices=notices,
        clock=clock,
        metrics=metrics,
        events=build_events(settings, clock),
        alerts=AlertParts(settings, clock, notices),
        reports=build_report(
            settings,
            client,
            clock,
            manager=manager,
            snapshots=snapshots,
            fleet=fleet,
            write_behind=write_behind,
        ),
        backups=SessionBackups(
            manager=manager, folders=folders, store=snapshots.store, keeper=snapshots.keeper
        ),
        webhooks=webhooks,
        access=build_access(settings, client, clock),
        users=build_users(settings, client),
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
    webhooks.observe(parts)
    parts.access.observe(parts)
    parts.users.observe(parts)
    metrics_wiring.observe(parts)
    parts.alerts.observe(parts, effects)
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
        if transition.event != FORGOTTEN:  # told already
            parts.notices.post(status_notice(transition))

    parts.recorder.listen(recorded)
    parts.notices.listen(parts.events.carry)
    parts.restore.on_finished(parts.snapshots.keeper.let_go)
    parts.snapshots.keeper.on_unwritten_term(parts.manager.repair_credentials)
    parts.snapshots.guard.on_damage(
        lambda company_id: parts.manager.post(company_id, StoreDamageFound())
    )
    parts.leases.on_snapshot(parts.snapshots.catalogue.note)
    parts.leases.on_lost(lambda company_id: parts.manager.post(company_id, LeaseLost()))
    parts.write_behind.on_stale(parts.manager.rows.take_stale)
    parts.write_behind.on_return(parts.reconciliation.request)
    parts.write_behind.on_return(lambda: parts.jobs.run_soon("schema-check"))


def job_table(parts: Parts, keepalive: Keepalive) -> list[Job]:
    """Return what runs by the clock."""
    settings = parts.settings

    def renew_leases() -> None:
        try:
            parts.leases.tick(running_sessions(parts.manager))
        except StoreUnavailable:
            parts.reconciliation.request()  # it tries on until the database is back
            raise

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
            function=parts.reconciliation.sync_by_clock,
        ),
        Job(
            name="schema-check",
            interval_seconds=settings.sync_interval_seconds,
            function=parts.readiness.check_schema,
            at_once=True,
        ),
        *_snapshot_jobs(parts),
        *page_jobs(parts.folders, parts.manager, settings.snapshot_scan_seconds),
        *retention_jobs(parts),
    ]


def _snapshot_jobs(parts: Parts) -> list[Job]:
    keeper, guard = parts.snapshots.keeper, parts.snapshots.guard
    return [
        Job(
            name="snapshot-scan",
            interval_seconds=parts.settings.snapshot_scan_seconds,
            function=lambda: keeper.scan(parts.manager.connections()),
        ),
        Job(
            name="store-check",
            interval_seconds=max(0.5, parts.settings.store_check_seconds / 60),
            function=lambda: guard.check(parts.manager.connections()),
        ),
    ]


def running_sessions(manager: SessionManager) -> int:
    """Return how many sessions have a client here."""
    return sum(item.client is not ClientPhase.NONE for item in manager.connections())
