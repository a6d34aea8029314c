"""Makes rows and runtime agree, both ways, and counts what did not."""

import threading
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import structlog

from crm_whatsapp.domain.connection import ClientPhase, Connection, Reason
from crm_whatsapp.domain.errors import CrmWhatsappError, StorageError, StoreUnavailable
from crm_whatsapp.domain.events import RecordLoaded, StartupFound
from crm_whatsapp.domain.ports import Clock, ConnectionStore, SessionFolders
from crm_whatsapp.domain.rules.restore_rules import is_unfounded
from crm_whatsapp.service.lease_keeper import LeaseKeeper
from crm_whatsapp.service.session_manager import SessionManager
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue
from crm_whatsapp.service.write_behind import WriteBehind

log = structlog.get_logger(__name__)


class Mismatch(StrEnum):
    """What a row and the runtime can disagree about."""

    ROW_WITHOUT_RUNTIME = "row-without-runtime"
    RUNTIME_WITHOUT_ROW = "runtime-without-row"
    STALE_STATUS = "stale-status"  # claims a client, or one to come, and there is none
    DESIRED_STATE = "desired-state-changed-in-table"
    ROW_OUTDATED = "row-outdated"
    ROW_NEWER = "row-newer"
    CREDENTIALS_FILE = "credentials-file-missing"


_CORRECTED_IN_ROW = (Mismatch.RUNTIME_WITHOUT_ROW, Mismatch.ROW_OUTDATED, Mismatch.ROW_NEWER)
_NEWS = (Mismatch.ROW_WITHOUT_RUNTIME, Mismatch.DESIRED_STATE)
"""Another one each time; the others may be the same that the comparison before has found."""

Found = tuple[str, Mismatch]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSync:
    """The last comparison that was completed."""

    at: datetime
    checked: int
    updated: int


class Reconciliation:
    """Compares every row with its runtime; safe to run at any time.

    Attributes:
        mismatches: how many of each kind were found since start, 0 included; one that a
            comparison finds again, because it could not be mended, counts once.
        last: what the last comparison found.
    """

    def __init__(
        self,
        *,
        manager: SessionManager,
        store: ConnectionStore,
        folders: SessionFolders,
        leases: LeaseKeeper,
        clock: Clock,
        write_behind: WriteBehind,
        catalogue: SnapshotCatalogue,
        flush_timeout_seconds: float,
        restores: bool,
        retry_seconds: float = 15.0,
    ) -> None:
        self._manager = manager
        self._store = store
        self._folders = folders
        self._leases = leases
        self._clock = clock
        self._write_behind = write_behind
        self._catalogue = catalogue
        self._flush_timeout_seconds = flush_timeout_seconds
        self._restores = restores
        self._retry_seconds = retry_seconds
        self._running = threading.Lock()
        self._requested = threading.Event()
        self._stopping = False
        self._uncorrected: Counter[str] = Counter()
        self._noted: set[Found] = set()
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="session-sync", daemon=True)
        self.mismatches: Counter[Mismatch] = Counter(dict.fromkeys(Mismatch, 0))
        self.last: LastSync | None = None

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

    def sync_by_clock(self) -> None:
        """Run one comparison; one that finds the database away is made up for when it is back.

        Raises:
            StoreUnavailable: as sync.
        """
        try:
            self.sync()
        except StoreUnavailable:
            self.request()  # whose thread tries on: nobody else may notice that it is back
            raise

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

        Asks the database twice: for the rows (1,000 a call) and for the newest snapshots.

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
            self._note_all(found)
            checked = len(rows.keys() | seen.keys())
            updated = len({company_id for company_id, _ in found})
            self.last = LastSync(at=self._clock.now(), checked=checked, updated=updated)
        log.info(f"Session sync complete: {checked} checked, {updated} updated")
        return updated

    def _note_all(self, found: list[Found]) -> None:
        """Count and log what is new; forget what has been mended since the comparison before."""
        with self._counting:
            again = self._noted & set(found)
            self._noted = set(found)
        for item in found:
            if item not in again or item[1] in _NEWS:
                self._note(item)

    def _note(self, item: Found) -> None:
        company_id, kind = item
        with self._counting:
            self.mismatches[kind] += 1
        log.warning("row and runtime disagreed", company_id=company_id, kind=kind.value)

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

    def _compare(self, seen: dict[str, Connection], rows: dict[str, Connection]) -> list[Found]:
        """Compare what was seen before the flush with the rows read after it.

        All that was seen has been written by then; a connection that has changed since is left
        for the next comparison.
        """
        found: list[Found] = []
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
            if kind is not Mismatch.ROW_WITHOUT_RUNTIME:
                self._question(seen.get(company_id))
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
        self._bring_up_or_correct(row.company_id)
        return Mismatch.ROW_WITHOUT_RUNTIME

    def _question(self, seen: Connection | None) -> None:
        """Look after a connection that claims a client when nothing here runs or will."""
        if seen is None or not self._manager.starts_are_decided:
            return  # start-up will bring it up, or correct it
        if is_unfounded(seen, self._clock.now()) and self._manager.find(seen.company_id) == seen:
            self._bring_up_or_correct(seen.company_id)

    def _bring_up_or_correct(self, company_id: str) -> None:
        """Start what is saved and wanted; correct a claim that nothing is behind then.

        What another instance holds the lease of is its to write.
        """
        saved = self._manager.has_credentials(company_id)
        if saved and self._restores:
            self._manager.post(company_id, StartupFound())

        def correct(connection: Connection) -> None:
            if is_unfounded(connection, self._clock.now()):
                self._note((company_id, Mismatch.STALE_STATUS))
                self._manager.post(company_id, RecordLoaded(has_credentials=saved))
            self._manager.then(company_id, let_go)

        def let_go(connection: Connection) -> None:
            if connection.client is ClientPhase.NONE:
                self._leases.give_up(company_id)

        def judge(connection: Connection) -> None:
            if is_unfounded(connection, self._clock.now()):
                self._leases.permit(
                    company_id,
                    granted=lambda: self._manager.then(company_id, correct),
                    denied=lambda seconds: None,
                )

        self._manager.then(company_id, judge)

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
            return not self._folders.has_credentials_file(connection.company_id)
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
    if not blank or connection.client is not ClientPhase.NONE:
        return False
    return row.version > 0 or row.status is not connection.status
