"""The service inside the worker: its start, its stop and what happens in between."""

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from crm_whatsapp.bootstrap.snapshot_wiring import take_clean_snapshots
from crm_whatsapp.bootstrap.wiring import Parts, build
from crm_whatsapp.config import Settings
from crm_whatsapp.domain.connection import ClientPhase, Status
from crm_whatsapp.domain.errors import CrmWhatsappError
from crm_whatsapp.domain.events import ServiceStopping
from crm_whatsapp.sessions.store_log import settle_stores

log = structlog.get_logger(__name__)

_DECISION_SECONDS = 1.0


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
        parts.access.start()
        parts.events.begin(parts.manager.connections())
        _retire_again(parts)
        parts.leases.start()
        parts.write_behind.start()
        if self._stop_requested.is_set():
            self.parts = parts
            return
        parts.webhooks.start()
        parts.snapshots.keeper.start()
        parts.restore.start()
        parts.alerts.start()
        parts.jobs.start()
        parts.reconciliation.start()
        # A company that exists only as a snapshot is not to be told that nothing is saved.
        parts.restore.wait_decided(_DECISION_SECONDS)
        self.parts = parts
        log.info("the service is up", sessions=len(parts.manager.connections()))

    def wait_stopped(self, timeout_seconds: float) -> bool:
        """Wait for a stop under way to be over; False when it is not by then."""
        return self._stopped.wait(timeout_seconds)

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


def _retire_again(parts: Parts) -> None:
    """Retire the snapshots of sessions that ended, in case the process ended before it was done.

    Raises:
        StorageError: the journal cannot be read.
    """
    keeper = parts.snapshots.keeper
    for connection in parts.manager.connections():
        if connection.status is Status.LOGGED_OUT:
            keeper.retire(connection.company_id)
    for company_id in parts.journal.forgotten_companies():
        keeper.retire(company_id, for_good=True)


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
    parts.events.stop()
    parts.retention.stop()
    parts.jobs.stop()
    parts.alerts.stop(min(1.0, left(0.05)))
    if not parts.webhooks.stop(min(2.0, left(0.15))):
        log.warning("deliveries under way are not waited for and will be repeated")
    parts.reconciliation.stop()
    live = [item for item in parts.manager.connections() if item.client is not ClientPhase.NONE]
    for connection in live:
        parts.manager.post(connection.company_id, ServiceStopping())
    unclean = parts.fleet.shutdown(left(0.6))
    for company_id in unclean:
        log.warning("the client did not stop in time and was ended", company_id=company_id)
    stores = [parts.folders.store_path(item.company_id) for item in live]
    for path, why in settle_stores(stores, left(0.72), pages=parts.snapshots.pages):
        log.warning("a store keeps its log beside it", path=str(path), detail=why)
    keeper = parts.snapshots.keeper
    if keeper.is_on and parts.settings.session_preserve_on_shutdown:
        kept = [item.company_id for item in live if item.jid is not None]
        kept = kept if parts.write_behind.is_reachable else []
        for company_id in take_clean_snapshots(keeper, kept, left(0.8)):
            log.warning("no clean snapshot was taken in time", company_id=company_id)
    keeper.stop()
    parts.snapshots.opener.stop()
    parts.manager.stop(min(1.0, left(0.84)))
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
