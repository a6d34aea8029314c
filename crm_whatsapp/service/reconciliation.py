"""Makes rows and runtime agree, both ways, and counts what did not."""

import threading
from collections import Counter
from enum import StrEnum

import structlog

from crm_whatsapp.domain.connection import ClientPhase, Connection, Reason
from crm_whatsapp.domain.errors import CrmWhatsappError, StorageError, StoreUnavailable
from crm_whatsapp.domain.events import RecordLoaded, StartupFound
from crm_whatsapp.domain.ports import ConnectionStore, SessionFolders
from crm_whatsapp.service.session_manager import SessionManager
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue
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


_CORRECTED_IN_ROW = (Mismatch.RUNTIME_WITHOUT_ROW, Mismatch.ROW_OUTDATED, Mismatch.ROW_NEWER)


class Reconciliation:
    """Compares every row with its runtime; safe to run at any time."""

    def __init__(
        self,
        *,
        manager: SessionManager,
        store: ConnectionStore,
        folders: SessionFolders,
        write_behind: WriteBehind,
        catalogue: SnapshotCatalogue,
        flush_timeout_seconds: float,
        restores: bool,
        retry_seconds: float = 15.0,
    ) -> None:
        self._manager = manager
        self._store = store
        self._folders = folders
        self._write_behind = write_behind
        self._catalogue = catalogue
        self._flush_timeout_seconds = flush_timeout_seconds
        self._restores = restores
        self._retry_seconds = retry_seconds
        self._running = threading.Lock()
        self._requested = threading.Event()
        self._stopping = False
        self._uncorrected: Counter[str] = Counter()
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
            except StoreUnavailable as error:
                log.warning("session sync postponed", detail=error.message)
                # Nobody else may notice that the database is back: with nothing to write, and no
                # session to renew a lease for, as after a lost disk.
                self._requested.wait(self._retry_seconds)
                self._requested.set()
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
            seen = {item.company_id: item for item in self._manager.connections()}
            if not self._write_behind.flush(self._flush_timeout_seconds):
                log.warning("session sync postponed: transitions still wait to be written")
                return 0
            rows = {row.company_id: row for row in self._store.list_connections()}
            self._catalogue.load()
            if self._stopping:
                return 0
            found = self._compare(seen, rows)
            self._bring_back_remote()
        for company_id, kind in found:
            self.mismatches[kind] += 1
            log.warning("row and runtime disagreed", company_id=company_id, kind=kind.value)
        checked = len(rows.keys() | seen.keys())
        updated = len({company_id for company_id, _ in found})
        log.info(f"Session sync complete: {checked} checked, {updated} updated")
        return updated

    def _bring_back_remote(self) -> None:
        """Start what was given up as lost before its snapshot was heard of."""
        for company_id in self._catalogue.companies() if self._restores else ():
            connection = self._manager.find(company_id)
            if connection is None or (
                connection.reason is Reason.CREDENTIALS_MISSING
                and connection.client is ClientPhase.NONE
            ):
                self._manager.post(company_id, StartupFound())

    def adopt_rows(self, company_ids: set[str]) -> None:
        """Before start-up restores: learn from the rows what the journal does not know.

        Raises:
            StoreUnavailable: start-up goes on without.
        """
        for row in self._store.list_connections():
            if row.company_id in company_ids:
                self._manager.rows.adopt(row)

    def _compare(
        self, seen: dict[str, Connection], rows: dict[str, Connection]
    ) -> list[tuple[str, Mismatch]]:
        """Compare what was seen before the flush with the rows read after it.

        All that was seen has been written by then; a connection that has changed since is left
        for the next comparison.
        """
        found: list[tuple[str, Mismatch]] = []
        for company_id in sorted(seen.keys() | rows.keys()):
            kind = self._compare_one(company_id, seen.get(company_id), rows.get(company_id))
            if kind is not None:
                found.append((company_id, kind))
            if kind not in _CORRECTED_IN_ROW:
                del self._uncorrected[company_id]
            connection = self._manager.find(company_id)
            if connection is not None and self._lacks_credentials_file(connection):
                self._manager.repair_credentials(company_id)
                found.append((company_id, Mismatch.CREDENTIALS_FILE))
        return found

    def _compare_one(
        self, company_id: str, seen: Connection | None, row: Connection | None
    ) -> Mismatch | None:
        current = self._manager.find(company_id)
        if row is not None and (current is None or _is_news(current, row)):
            return self._take_in(row)
        if current is None or seen is None or current.version != seen.version:
            return None
        if row is not None:
            return self._settle(current, row)
        if current.version > 0 and self._correct_row(current, 0):
            return Mismatch.RUNTIME_WITHOUT_ROW
        return None

    def _take_in(self, row: Connection) -> Mismatch | None:
        """Learn a row that this process knew nothing of, and act upon it."""
        if not self._manager.rows.adopt(row):
            return None
        saved = self._manager.has_credentials(row.company_id)
        if saved and self._restores:
            self._manager.post(row.company_id, StartupFound())
        else:
            self._manager.post(row.company_id, RecordLoaded(has_credentials=saved))
        return Mismatch.ROW_WITHOUT_RUNTIME

    def _settle(self, connection: Connection, row: Connection) -> Mismatch | None:
        if row.version != connection.version:
            newer = row.version > connection.version
            corrected = self._correct_row(connection, row.version)
            kind = Mismatch.ROW_NEWER if newer else Mismatch.ROW_OUTDATED
            return kind if corrected else None
        if row.desired_state is not connection.desired_state:
            self._manager.rows.follow_table(connection, row.desired_state)
            return Mismatch.DESIRED_STATE
        if (row.status, row.reason) != (connection.status, connection.reason):
            corrected = self._correct_row(connection, row.version)
            return Mismatch.ROW_OUTDATED if corrected else None
        return None

    def _correct_row(self, connection: Connection, row_version: int) -> bool:
        """Write the row again; ever more seldom when that does not help.

        A row that a trigger, a policy or another instance changes back each time would otherwise
        be written, with a line in the history, at every comparison for ever.
        """
        if connection.reason is Reason.HELD_ELSEWHERE:
            return False  # the row is the other instance's to write
        self._uncorrected[connection.company_id] += 1
        times = self._uncorrected[connection.company_id]
        if times & (times - 1):  # the 1st, 2nd, 4th, 8th, ... time in a row
            return True
        if times > 2:
            log.error(
                "the row does not stay as it is written",
                company_id=connection.company_id,
                times=times,
            )
        self._manager.rows.reassert(connection.company_id, row_version)
        return True

    def _lacks_credentials_file(self, connection: Connection) -> bool:
        if not connection.is_connected or connection.client is not ClientPhase.LIVE:
            return False
        try:
            return self._folders.inspect(connection.company_id, deep=False).credentials is None
        except StorageError as error:
            log.error(
                "the session folder cannot be read",
                company_id=connection.company_id,
                detail=error.message,
            )
            return False


def _is_news(connection: Connection, row: Connection) -> bool:
    """Tell whether the row knows of a session that this process has never heard of."""
    blank = connection.version == 0 and connection.reason is Reason.NEVER_CONNECTED
    return blank and connection.client is ClientPhase.NONE and row.version > 0
