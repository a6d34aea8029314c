"""Start-up: brings back the session of every company."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from crm_whatsapp.domain.connection import (
    UNLINKING,
    ClientPhase,
    Connection,
    DesiredState,
    Intent,
    Status,
)
from crm_whatsapp.domain.errors import CrmWhatsappError
from crm_whatsapp.domain.events import RecordLoaded, StartupFound
from crm_whatsapp.domain.ports import SessionFolders
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.service.reconciliation import Reconciliation
from crm_whatsapp.service.session_manager import SessionManager
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue

log = structlog.get_logger(__name__)

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """Settings of the start-up restore, in seconds."""

    enabled: bool = True
    startup_delay_seconds: float = 0.0
    delay_between_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreProgress:
    """How far the start-up restore has come."""

    finished: bool
    total: int
    restored: int
    failed: int


class StartupRestore:
    """Starts what should run, most recently connected first, and counts the outcomes."""

    def __init__(
        self,
        *,
        manager: SessionManager,
        folders: SessionFolders,
        reconciliation: Reconciliation,
        catalogue: SnapshotCatalogue,
        prewarm: Callable[[int], None],
        plan: RestorePlan,
    ) -> None:
        self._manager = manager
        self._folders = folders
        self._reconciliation = reconciliation
        self._catalogue = catalogue
        self._prewarm = prewarm
        self._plan = plan
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._total = 0
        self._restored = 0
        self._failed = 0
        self._ordered = 0
        self._begun = False
        self._decided = threading.Event()
        self._finished_listeners: list[Callable[[], None]] = []
        self._finished = False
        self._thread = threading.Thread(target=self._run, name="startup-restore", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Start nothing more."""
        self._stop.set()

    def wait_decided(self, timeout_seconds: float) -> bool:
        """Wait until every saved session has been found and ordered."""
        return self._decided.wait(timeout_seconds)

    def on_finished(self, listener: Callable[[], None]) -> None:
        """Have it called once every restored session has its outcome."""
        self._finished_listeners.append(listener)

    @property
    def progress(self) -> RestoreProgress:
        """How far it has come."""
        with self._lock:
            return RestoreProgress(
                finished=self._finished,
                total=self._total,
                restored=self._restored,
                failed=self._failed,
            )

    def watch(self, transition: Transition) -> None:
        """Count the first outcome of each company that start-up restores."""
        connection = transition.connection
        with self._lock:
            if connection.company_id not in self._open:
                return
            passing = connection.status is Status.CONNECTING and connection.retry_at is None
            if passing or connection.status is Status.AWAITING_SCAN:
                return
            self._open.discard(connection.company_id)
            if connection.is_connected:
                self._restored += 1
                log.info("Session restored", company_id=connection.company_id)
            else:
                self._failed += 1
        self._report_when_done()

    def _run(self) -> None:
        try:
            self._restore_all()
        except Exception:
            log.exception("start-up restore stopped; status polls and the sync go on restoring")
            with self._lock:
                self._finished = True
        finally:
            self._manager.allow_polls_to_start()
            self._decided.set()

    def _restore_all(self) -> None:
        if self._stop.wait(self._plan.startup_delay_seconds):
            return
        companies = self._folders.list_companies()
        known = {item.company_id for item in self._manager.connections()}
        unknown = set(companies) - known
        # What the journal knows does not wait for a database that may hang.
        self._restore([item for item in companies if item in known])
        remote = self._only_remote(set(companies))
        if unknown or remote - known:
            self._learn(unknown | (remote - known))
        self._restore(sorted(unknown | remote))
        if self._stop.is_set():
            return
        self._settle_others(set(companies) | remote)
        with self._lock:
            self._begun = True
        self._report_when_done()

    def _only_remote(self, companies: set[str]) -> set[str]:
        """Return the companies that exist only as snapshots: their disk is lost."""
        try:
            self._catalogue.load()
        except CrmWhatsappError as error:
            log.warning("snapshots are not known yet", detail=error.message)
        return set(self._catalogue.companies()) - companies

    def _learn(self, unknown: set[str]) -> None:
        """Ask the rows about folders that the journal has never heard of."""
        try:
            self._reconciliation.adopt_rows(unknown)
        except CrmWhatsappError as error:
            log.warning(
                "restoring folders without their rows: the database is away",
                folders=len(unknown),
                detail=error.message,
            )

    def _restore(self, companies: list[str]) -> None:
        """Start what should run of these, and tell what it is with the others."""
        wanted = self._wanted(companies)
        self._settle(set(companies) - {item.company_id for item in wanted})
        if not wanted:
            return
        counted = {item.company_id for item in wanted if item.intent not in UNLINKING}
        with self._lock:
            self._total += len(counted)
            self._open |= counted
        log.info("Restoring sessions...", sessions=len(wanted))
        self._ordered += len(wanted)
        self._prewarm(self._ordered)
        for connection in wanted:
            if self._stop.is_set():
                return
            log.info("Restoring session...", company_id=connection.company_id)
            self._manager.post(connection.company_id, StartupFound())
            self._manager.then(connection.company_id, self._note_decision)
            if self._plan.delay_between_seconds:
                self._stop.wait(self._plan.delay_between_seconds)

    def _note_decision(self, connection: Connection) -> None:
        """Do not wait for the outcome of a start that was not made, or not made here.

        The policy may have declined, and a person may have been faster.
        """
        with self._lock:
            if connection.company_id not in self._open:
                return
            if connection.client is ClientPhase.NONE:
                self._total -= 1
            elif connection.is_connected:
                self._restored += 1
            else:
                return
            self._open.discard(connection.company_id)
        self._report_when_done()

    def _wanted(self, companies: list[str]) -> list[Connection]:
        if not self._plan.enabled:
            return []
        found = [
            self._manager.runtime(company_id).connection
            for company_id in companies
            if self._manager.has_credentials(company_id)
        ]
        wanted = [item for item in found if _is_wanted(item)]
        return sorted(wanted, key=lambda item: item.last_connected_at or _LONG_AGO, reverse=True)

    def _settle_others(self, companies: set[str]) -> None:
        """Correct the records of companies without a folder."""
        self._settle({item.company_id for item in self._manager.connections()} - companies)

    def _settle(self, companies: set[str]) -> None:
        """Correct records that claim a connection which nobody is going to restore."""
        for company_id in companies:
            if self._manager.find(company_id) is not None:
                saved = self._manager.has_credentials(company_id)
                self._manager.post(company_id, RecordLoaded(has_credentials=saved))

    def _report_when_done(self) -> None:
        with self._lock:
            if self._open or self._finished or not self._begun:
                return
            self._finished = True
            restored, failed = self._restored, self._failed
        log.info(f"Session restoration complete: {restored} restored, {failed} failed")
        for listener in self._finished_listeners:
            listener()


def _is_wanted(connection: Connection) -> bool:
    """Tell whether start-up has anything to do for it; the policy decides in the end."""
    if connection.client is not ClientPhase.NONE:
        return False
    if connection.intent is not Intent.NONE or connection.version == 0:
        return True
    if connection.status is Status.LOGGED_OUT or connection.desired_state is DesiredState.STOP:
        return False
    return connection.status is not Status.BANNED or connection.retry_at is None
