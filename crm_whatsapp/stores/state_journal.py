"""The local record of every transition, written before Supabase hears of it.

Design: one SQLite file (WAL) used by the web worker alone, one connection behind one lock. A kill
of the process loses nothing; a power cut may lose the last passing transitions, never one marked
final, because those are synced to disk before append returns.
"""

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from crm_whatsapp.domain.connection import Connection
from crm_whatsapp.domain.errors import InvalidInput, StorageError
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition
from crm_whatsapp.stores.connection_record import JOURNAL_FIELDS, read_record, write_record
from crm_whatsapp.stores.journal_file import close_journal, open_journal, primary_code
from crm_whatsapp.stores.transition_record import read_transition, write_transition

_LOG = logging.getLogger(__name__)

_FREE_PAGES_WORTH_RETURNING = 2048  # 8 MB left behind by a long outage

_PUT_ENTRY = "insert or ignore into backlog (id, company_id, keep, record) values (?, ?, ?, ?)"
_PUT_STATE = """
insert into connections (company_id, version, record) values (?, ?, ?)
on conflict (company_id) do update set version = excluded.version, record = excluded.record
"""
_ADOPT_STATE = _PUT_STATE + " where excluded.version >= connections.version"
_COMPACT = """
delete from backlog where seq in (
    select seq from backlog as entry
    where keep = 0
      and seq < (select max(seq) from backlog as later where later.company_id = entry.company_id)
    order by seq limit ?)
"""


class SqliteStateJournal:
    """The StateJournal of the service, in SESSIONS_DIR/state.db.

    Attributes:
        set_aside: where a damaged journal was put at start; None when it was sound.
        dropped_count: intermediate transitions given up since start because the backlog was full.
    """

    def __init__(
        self, path: Path, *, backlog_limit: int = 50_000, busy_timeout_seconds: float = 5.0
    ) -> None:
        """Open the file.

        Args:
            backlog_limit: how many unsent transitions are kept before the passing ones are
                thinned out; each company's newest, every final one and every change of
                desired_state stay whatever their number.

        Raises:
            StorageError: the folder or the disk refuses; a damaged file is no reason.
        """
        self._lock = threading.Lock()
        self._backlog_limit = backlog_limit
        self._path = path
        self._db, self.set_aside = open_journal(path, busy_timeout_seconds)
        self._closed = False
        self.dropped_count = 0
        self._backlog = self.pending_count()
        self._compact_above = backlog_limit

    @property
    def backlog_count(self) -> int:
        """How many are not yet in Supabase, without a look at the disk."""
        return self._backlog

    def append(self, transition: Transition) -> None:
        """Record it and the connection's latest state in one step; the same id only once.

        FORGOTTEN takes the state away instead, so that no later start knows of the company.

        Raises:
            StorageError: the disk is full or not writable.
        """
        connection = transition.connection
        keep = transition.final or transition.sets_desired_state
        entry = (transition.id, connection.company_id, int(keep), write_transition(transition))
        with self._writing(durable=transition.final) as db:
            added = db.execute(_PUT_ENTRY, entry).rowcount
            if added and transition.event == FORGOTTEN:
                db.execute("delete from connections where company_id = ?", (connection.company_id,))
            elif added:
                db.execute(_PUT_STATE, _state_of(connection))
        with self._lock:
            self._backlog += added
            overfull = self._backlog > self._compact_above
        if overfull:
            try:
                self._compact()
            except StorageError as exc:  # the transition itself is recorded
                _LOG.warning("The backlog could not be thinned out: %s", exc)

    def pending(self, limit: int) -> list[Transition]:
        """Return the oldest transitions not yet in Supabase, in order.

        An entry that cannot be read is given up, with an error in the log.
        """
        with self._reading() as db:
            rows = db.execute(
                "select id, record from backlog order by seq limit ?", (limit,)
            ).fetchall()
        found, unreadable = [], []
        for entry_id, record in rows:
            try:
                found.append(read_transition(record))
            except InvalidInput as exc:
                _LOG.error("Transition %s in the state journal is given up: %s", entry_id, exc)
                unreadable.append(str(entry_id))
        if unreadable:
            self.mark_sent(unreadable)
        return found

    def pending_count(self) -> int:
        """Return how many are not yet in Supabase."""
        with self._reading() as db:
            return int(db.execute("select count(*) from backlog").fetchone()[0])

    def mark_sent(self, transition_ids: Sequence[str]) -> None:
        """Forget the backlog entries; the latest state stays."""
        if not transition_ids:
            return
        with self._writing() as db:
            removed = db.executemany(
                "delete from backlog where id = ?", [(entry_id,) for entry_id in transition_ids]
            ).rowcount
        with self._lock:
            self._backlog = max(0, self._backlog - removed)
            self._compact_above = min(self._compact_above, self._next_threshold())
        self._return_free_pages()

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

    def _compact(self) -> None:
        """Bring the backlog a tenth below its limit, as far as only passing entries go."""
        with self._writing() as db:
            count = int(db.execute("select count(*) from backlog").fetchone()[0])
            surplus = count - self._backlog_limit * 9 // 10
            dropped = db.execute(_COMPACT, (surplus,)).rowcount if surplus > 0 else 0
        with self._lock:
            self._backlog = count - dropped
            self._compact_above = self._next_threshold()
            self.dropped_count += dropped
        _LOG.warning(
            "The backlog of the state journal is full (%d): %d intermediate transitions dropped.",
            count,
            dropped,
        )

    def _next_threshold(self) -> int:
        """Return the limit, or a tenth above what is there when that much had to stay."""
        return max(self._backlog_limit, self._backlog + self._backlog_limit // 10)

    def _return_free_pages(self) -> None:
        with self._reading() as db:
            free = int(db.execute("pragma freelist_count").fetchone()[0])
            if free > _FREE_PAGES_WORTH_RETURNING:
                # One row per page without columns: execute() would stop after the first.
                db.executescript(f"pragma incremental_vacuum({_FREE_PAGES_WORTH_RETURNING})")

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
