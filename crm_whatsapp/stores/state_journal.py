"""The local record of every transition and every wanted notice, before Supabase hears of them.

Design: one SQLite file (WAL) used by the web worker alone, one connection behind one lock. A kill
of the process loses nothing; a power cut may lose the last passing transitions, never one marked
final, because those are synced to disk before append returns.
"""

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from crm_whatsapp.domain.connection import Connection
from crm_whatsapp.domain.errors import InvalidInput, StorageError
from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.ports import JournalEntry
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition
from crm_whatsapp.stores.connection_record import JOURNAL_FIELDS, read_record, write_record
from crm_whatsapp.stores.journal_compaction import (
    WaitingNotice,
    choose_notices,
    drop_passing_transitions,
)
from crm_whatsapp.stores.journal_file import close_journal, open_journal, primary_code
from crm_whatsapp.stores.notice_record import read_notice, write_notice
from crm_whatsapp.stores.transition_record import read_transition, write_transition

_LOG = logging.getLogger(__name__)

_FREE_PAGES_WORTH_RETURNING = 2048  # 8 MB left behind by a long outage
_PAGES_RETURNED_AT_ONCE = 256  # whoever records waits for it

_REQUEST_CHARACTERS = 1_000_000  # of records; gateways refuse what is much longer

_PUT_ENTRY = """
insert or ignore into backlog (id, company_id, keep, record, notice) values (?, ?, ?, ?, ?)
"""
_PUT_STATE = """
insert into connections (company_id, version, record) values (?, ?, ?)
on conflict (company_id) do update set version = excluded.version, record = excluded.record
"""
_DROP_STATE = "delete from connections where company_id = ?"
_ADOPT_STATE = _PUT_STATE + " where excluded.version >= connections.version"
_PENDING = "select id, notice, record from backlog order by seq limit ?"
_PENDING_TRANSITIONS = """
select id, notice, record from backlog where notice = 0 order by seq limit ?
"""
_HEADS = """
select id, notice, record from backlog
where notice = ? and seq in (select min(seq) from backlog group by company_id)
order by seq limit ?
"""
_PERHAPS_FORGOTTEN = "select record from backlog where notice = 0 and instr(record, ?) order by seq"
_NOTICES = "select id, keep, length(record) from backlog where notice = 1 order by seq"
_COUNT = "select count(*) from backlog"
_COUNT_TRANSITIONS = "select count(*) from backlog where notice = 0"


class SqliteStateJournal:
    """The StateJournal of the service, in SESSIONS_DIR/state.db.

    Attributes:
        set_aside: where a damaged journal was put at start; None when it was sound.
        dropped_count: intermediate transitions given up since start because the backlog was full.
        dropped_notices: passing notices given up since start, for the same reason.
        lost_notices: notices given up since start that should have been kept.
    """

    def __init__(
        self,
        path: Path,
        *,
        backlog_limit: int = 50_000,
        notice_limit: int = 50_000,
        notice_bytes_limit: int = 64 * 1024 * 1024,
        busy_timeout_seconds: float = 5.0,
    ) -> None:
        """Open the file.

        Args:
            backlog_limit: how many unsent transitions are kept before the passing ones are
                thinned out; each company's newest, every final one and every change of
                desired_state stay whatever their number.
            notice_limit, notice_bytes_limit: how much is kept of notices; above it passing ones
                go first, then the oldest of all.

        Raises:
            StorageError: the folder or the disk refuses; a damaged file is no reason.
        """
        # Held over a write and its counts: another thread must not send an entry in between.
        self._lock = threading.RLock()
        self._backlog_limit = backlog_limit
        self._notice_limit = notice_limit
        self._notice_bytes_limit = notice_bytes_limit
        self._path = path
        self._db, self.set_aside = open_journal(path, busy_timeout_seconds)
        self._closed = False
        self.dropped_count = 0
        self.dropped_notices = 0
        self.lost_notices = 0
        self._transitions = self.pending_count(notices=False)
        self._notices = self._waiting_notices()
        self._notice_bytes = sum(item.characters for item in self._notices.values())
        self._compact_above = backlog_limit

    @property
    def backlog_count(self) -> int:
        """How many are not yet in Supabase, without a look at the disk."""
        return self._transitions + len(self._notices)

    @property
    def notice_count(self) -> int:
        """How many of these are notices."""
        return len(self._notices)

    def append(self, transition: Transition) -> None:
        """Record it and the connection's latest state in one step; the same id only once.

        FORGOTTEN takes the state away instead, so that no later start knows of the company.

        Raises:
            StorageError: the disk is full or not writable.
        """
        connection = transition.connection
        keep = transition.final or transition.sets_desired_state
        record = write_transition(transition)
        entry = (transition.id, connection.company_id, int(keep), record, 0)
        with self._lock:
            with self._writing(durable=transition.final) as db:
                added = db.execute(_PUT_ENTRY, entry).rowcount
                if added and transition.event == FORGOTTEN:
                    db.execute(_DROP_STATE, (connection.company_id,))
                elif added:
                    db.execute(_PUT_STATE, _state_of(connection))
            self._transitions += added
            overfull = self._transitions > self._compact_above
        if overfull:
            try:
                self._compact()
            except StorageError as exc:  # the transition itself is recorded
                _LOG.warning("The backlog could not be thinned out: %s", exc)

    def append_notice(self, notice: Notice, *, keep: bool) -> None:
        """Record a notice in the order of everything else; the same id only once.

        Raises:
            StorageError: the disk is full or not writable.
            InvalidInput: it cannot be written down, see write_notice.
        """
        record = write_notice(notice)
        entry = (notice.id, notice.company_id or "", int(keep), record, 1)
        with self._lock:
            with self._writing() as db:
                added = db.execute(_PUT_ENTRY, entry).rowcount
            if added:
                self._notices[notice.id] = WaitingNotice(len(record), keep)
                self._notice_bytes += len(record)
            overfull = (
                len(self._notices) > self._notice_limit
                or self._notice_bytes > self._notice_bytes_limit
            )
        if overfull:
            try:
                self._thin_notices()
            except StorageError as exc:  # the notice itself is recorded
                _LOG.warning("The notices in the journal could not be thinned out: %s", exc)

    def pending(self, limit: int, *, notices: bool = True) -> list[JournalEntry]:
        """Return the oldest entries not yet in Supabase, in order: as many as fit one request.

        An entry that cannot be read is given up, with an error in the log.
        """
        rows: list[tuple[str, int, str]] = []
        characters = 0
        with (
            self._reading() as db,
            closing(db.execute(_PENDING if notices else _PENDING_TRANSITIONS, (limit,))) as cursor,
        ):
            for row in cursor:
                characters += len(row[2])
                if rows and characters > _REQUEST_CHARACTERS:
                    break
                rows.append(row)
        return self._read(rows)

    def pending_heads(self, limit: int, *, notices: bool) -> list[JournalEntry]:
        """Return the oldest entry of each company, where it is a notice, or where it is none."""
        with self._reading() as db:
            rows = db.execute(_HEADS, (int(notices), limit)).fetchall()
        return self._read(rows)

    def pending_count(self, *, notices: bool = True) -> int:
        """Return how many are not yet in Supabase; notices: False leaves them out."""
        with self._reading() as db:
            return int(db.execute(_COUNT if notices else _COUNT_TRANSITIONS).fetchone()[0])

    def mark_sent(self, entry_ids: Sequence[str]) -> None:
        """Forget the backlog entries; the latest state stays."""
        if not entry_ids:
            return
        with self._lock:
            with self._writing() as db:
                removed = db.executemany(
                    "delete from backlog where id = ?", [(entry_id,) for entry_id in entry_ids]
                ).rowcount
            told = [self._notices.pop(item) for item in entry_ids if item in self._notices]
            self._notice_bytes -= sum(item.characters for item in told)
            self._transitions -= removed - len(told)
            self._compact_above = min(self._compact_above, self._next_threshold())
        self._return_free_pages()

    def forgotten_companies(self) -> list[str]:
        """Return the companies whose end is not yet in Supabase, oldest first."""
        with self._reading() as db:
            rows = db.execute(_PERHAPS_FORGOTTEN, (f'"{FORGOTTEN}"',)).fetchall()
        found = []
        for (record,) in rows:
            try:
                transition = read_transition(record)
            except InvalidInput:  # `pending` gives it up
                continue
            if transition.event == FORGOTTEN:
                found.append(transition.connection.company_id)
        return found

    def load_connections(self) -> list[Connection]:
        """Return the latest recorded state of every company, what only a process knows unset."""
        with self._reading() as db:
            rows = db.execute("select company_id, record from connections").fetchall()
        found = []
        for company_id, record in rows:
            try:
                read = read_record(json.loads(record))
            except (ValueError, TypeError, AttributeError, RecursionError, InvalidInput) as exc:
                _LOG.error("State of company %s in the journal is unreadable: %s", company_id, exc)
                continue
            for problem in read.problems:
                _LOG.warning("State of company %s in the journal: %s", company_id, problem)
            found.append(read.connection)
        return found

    def adopt(self, connection: Connection) -> None:
        """Take over a state that Supabase already has; an older version than ours is ignored."""
        with self._writing() as db:
            db.execute(_ADOPT_STATE, _state_of(connection))

    def close(self) -> None:
        """Close the file; every later call raises StorageError."""
        with self._lock:
            if not self._closed:
                self._closed = True
                close_journal(self._db)

    def _read(self, rows: Sequence[tuple[str, int, str]]) -> list[JournalEntry]:
        found: list[JournalEntry] = []
        unreadable = []
        for entry_id, is_notice, record in rows:
            try:
                found.append(read_notice(record) if is_notice else read_transition(record))
            except InvalidInput as exc:
                _LOG.error("Entry %s in the state journal is given up: %s", entry_id, exc)
                unreadable.append(str(entry_id))
        if unreadable:
            self.mark_sent(unreadable)
        return found

    def _compact(self) -> None:
        """Bring the transitions below their limit, as far as only passing ones go."""
        with self._lock:
            with self._writing() as db:
                count, dropped = drop_passing_transitions(db, self._backlog_limit)
            self._transitions = count - dropped
            self._compact_above = self._next_threshold()
            self.dropped_count += dropped
        _LOG.warning(
            "The backlog of the state journal is full (%d): %d intermediate transitions dropped.",
            count,
            dropped,
        )

    def _thin_notices(self) -> None:
        with self._lock:
            chosen = choose_notices(self._notices, self._notice_limit, self._notice_bytes_limit)
            lost = sum(self._notices[entry_id].keep for entry_id in chosen)
            self.mark_sent(chosen)
            self.dropped_notices += len(chosen) - lost
            self.lost_notices += lost
        _LOG.log(
            logging.ERROR if lost else logging.WARNING,
            "Too many notices wait in the state journal: %d passing ones dropped, %d others lost.",
            len(chosen) - lost,
            lost,
        )

    def _waiting_notices(self) -> dict[str, WaitingNotice]:
        """Return what is to be remembered of every notice in the backlog, oldest first."""
        with self._reading() as db:
            rows = db.execute(_NOTICES).fetchall()
        return {
            str(entry_id): WaitingNotice(int(length or 0), bool(keep))
            for entry_id, keep, length in rows
        }

    def _next_threshold(self) -> int:
        """Return the limit, or a fiftieth above what is there when that much had to stay."""
        return max(self._backlog_limit, self._transitions + self._backlog_limit // 50)

    def _return_free_pages(self) -> None:
        with self._reading() as db:
            free = int(db.execute("pragma freelist_count").fetchone()[0])
            if free > _FREE_PAGES_WORTH_RETURNING:
                # One row per page without columns: execute() would stop after the first.
                db.executescript(f"pragma incremental_vacuum({_PAGES_RETURNED_AT_ONCE})")

    @contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Run one transaction; durable waits until the disk has it."""
        with self._reading() as db:
            # Not allowed inside a transaction; with FULL the commit syncs the whole log so far.
            db.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                _quietly(lambda: db.execute("rollback"))
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise StorageError("The state journal is closed.")
            try:
                yield self._db
            except sqlite3.Error as exc:
                full = primary_code(exc) == sqlite3.SQLITE_FULL
                hint = " Free some space." if full else ""
                raise StorageError(
                    f"The state journal {self._path} cannot be used: {exc}.{hint}"
                ) from exc


def _state_of(connection: Connection) -> tuple[str, int, str]:
    record = json.dumps(write_record(connection, JOURNAL_FIELDS), separators=(",", ":"))
    return connection.company_id, connection.version, record


def _quietly(call: Callable[[], object]) -> None:
    """Undo after a failure: SQLite has rolled back by itself when the disk was full."""
    try:
        call()
    except sqlite3.Error as exc:
        _LOG.debug("rollback: %s", exc)
