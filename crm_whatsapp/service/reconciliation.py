"""Makes rows and runtime agree, both ways, and counts what did not."""

import threading
from collections import Counter
from dataclasses import replace
from enum import StrEnum

import structlog

from crm_whatsapp.domain.connection import ClientPhase, Connection, Reason
from crm_whatsapp.domain.errors import CrmWhatsappError
from crm_whatsapp.domain.events import DesiredStateChanged, RecordLoaded, StartupFound
from crm_whatsapp.domain.ports import ConnectionStore, SessionFolders
from crm_whatsapp.service.session_manager import SessionManager
from crm_whatsapp.service.write_behind import WriteBehind

log = structlog.get_logger(__name__)


class Mismatch(StrEnum):
    """What a row and the runtime can disagree about."""

    ROW_WITHOUT_RUNTIME = "row-without-runtime"
    RUNTIME_WITHOUT_ROW = "runtime-without-row"
    DESIRED_STATE = "desired-state-changed-in-table"
    ROW_OUTDATED = "row-outdated"
    ROW_NEWER = "row-newer"
    CREDENTIALS_FILE = "credentials-file-missing"


class Reconciliation:
    """Compares every row with its runtime; safe to run at any time."""

    def __init__(
        self,
        *,
        manager: SessionManager,
        store: ConnectionStore,
        folders: SessionFolders,
        write_behind: WriteBehind,
        flush_timeout_seconds: float,
        restores: bool,
    ) -> None:
        self._manager = manager
        self._store = store
        self._folders = folders
        self._write_behind = write_behind
        self._flush_timeout_seconds = flush_timeout_seconds
        self._restores = restores
        self._running = threading.Lock()
        self._requested = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="session-sync", daemon=True)
        self.mismatches: Counter[Mismatch] = Counter()

    def start(self) -> None:
        """Run the first comparison, and one whenever `request` is called."""
        self._requested.set()
        self._thread.start()

    def request(self) -> None:
        """Ask for a comparison soon; returns at once."""
        self._requested.set()

    def stop(self) -> None:
        """Begin no further comparison."""
        self._stopping = True
        self._requested.set()

    def _loop(self) -> None:
        while True:
            self._requested.wait()
            self._requested.clear()
            if self._stopping:
                return
            try:
                self.sync()
            except CrmWhatsappError as error:
                log.warning("session sync postponed", detail=error.message)
            except Exception:
                log.exception("session sync failed; it runs again at its next time")

    def sync(self) -> int:
        """Run one comparison; return how many connections had to be corrected.

        Raises:
            StoreUnavailable: the rows cannot be read; the runtime goes on as it is.
        """
        with self._running:
            if not self._write_behind.flush(self._flush_timeout_seconds):
                log.warning("session sync postponed: transitions still wait to be written")
                return 0
            rows = {row.company_id: row for row in self._store.list_connections()}
            found = self._compare(rows)
        for company_id, kind in found:
            self.mismatches[kind] += 1
            log.warning("row and runtime disagreed", company_id=company_id, kind=kind.value)
        checked = len(rows.keys() | {item.company_id for item in self._manager.connections()})
        updated = len({company_id for company_id, _ in found})
        log.info(f"Session sync complete: {checked} checked, {updated} updated")
        return updated

    def adopt_rows(self, company_ids: set[str]) -> None:
        """Before start-up restores: learn from the rows what the journal does not know.

        Raises:
            StoreUnavailable: start-up goes on without.
        """
        for row in self._store.list_connections():
            if row.company_id in company_ids:
                self._adopt(row)

    def _compare(self, rows: dict[str, Connection]) -> list[tuple[str, Mismatch]]:
        found: list[tuple[str, Mismatch]] = []
        local = {item.company_id: item for item in self._manager.connections()}
        for company_id, row in rows.items():
            connection = local.get(company_id)
            if connection is None or connection.reason is Reason.NEVER_CONNECTED:
                kind = self._take_in(row)
            else:
                kind = self._settle(connection, row)
            if kind is not None:
                found.append((company_id, kind))
        for company_id, connection in local.items():
            if company_id not in rows and connection.version > 0:
                self._manager.reassert(company_id, 0)
                found.append((company_id, Mismatch.RUNTIME_WITHOUT_ROW))
            if self._lacks_credentials_file(connection):
                self._manager.repair_credentials(company_id)
                found.append((company_id, Mismatch.CREDENTIALS_FILE))
        return found

    def _take_in(self, row: Connection) -> Mismatch | None:
        """Learn a row that this process knew nothing of, and act upon it."""
        self._adopt(row)
        saved = self._folders.has_credentials(row.company_id)
        if saved and self._restores:
            self._manager.post(row.company_id, StartupFound())
        else:
            self._manager.post(row.company_id, RecordLoaded(has_credentials=saved))
        return Mismatch.ROW_WITHOUT_RUNTIME

    def _adopt(self, row: Connection) -> None:
        self._manager.adopt(
            row.company_id,
            lambda current: (
                replace(row, client=current.client, generation=current.generation)
                if current.client is ClientPhase.NONE and current.version <= row.version
                else current
            ),
        )

    def _settle(self, connection: Connection, row: Connection) -> Mismatch | None:
        current = self._manager.find(connection.company_id) or connection
        if current.version != connection.version:
            return None
        if row.version > connection.version:
            self._manager.reassert(connection.company_id, row.version)
            return Mismatch.ROW_NEWER
        if row.version < connection.version:
            self._manager.reassert(connection.company_id, row.version)
            return Mismatch.ROW_OUTDATED
        if row.desired_state is not connection.desired_state:
            saved = self._folders.has_credentials(row.company_id)
            self._manager.post(
                row.company_id,
                DesiredStateChanged(desired_state=row.desired_state, has_credentials=saved),
            )
            return Mismatch.DESIRED_STATE
        if (row.status, row.reason) != (connection.status, connection.reason):
            self._manager.reassert(connection.company_id, row.version)
            return Mismatch.ROW_OUTDATED
        return None

    def _lacks_credentials_file(self, connection: Connection) -> bool:
        if not connection.is_connected or connection.client is not ClientPhase.LIVE:
            return False
        return self._folders.inspect(connection.company_id, deep=False).credentials is None
