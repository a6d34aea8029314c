"""Finds bits that have flipped in a store, also after a kill: keeps and compares page records.

A record is made before a client starts, and moves on while it runs: `look` is called every few
seconds and costs one stat for a store whose log has not changed. It is compared before the next
start and before a copy is taken for a snapshot. A clean stop writes down what the file is to hold
before the log is folded in, so that a flipped bit is never taken for content.

Whoever opens a store in this process holds its turn: the index of its log is read plainly, and
closing such a handle would take away the locks that SQLite holds on it in the same process.
"""

import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions import device_row as store
from crm_whatsapp.sessions.page_check import PageCheck
from crm_whatsapp.sessions.page_record import (
    FILE_NAME,
    PageRecord,
    hashes_of,
    read_record,
    remove_record,
    write_record,
)
from crm_whatsapp.sessions.page_trail import follow
from crm_whatsapp.sessions.store_content import content_of, page_size_of, wants_log
from crm_whatsapp.sessions.write_ahead_log import LogDamaged, LogMoved, open_log

_logger = structlog.get_logger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FRAMES_A_RECORD = 64
"""A record is written again after so many frames: a start then has to follow few, 5 ms at most."""
_MOST_FRAMES_AT_A_START = 128
"""Of a log without a record; a longer one is left to the first look."""

_Stamp = tuple[int, int, int] | None
_OBSTACLES = (
    LogDamaged,
    LogMoved,
    OSError,
    StorageError,
    store.StoreBusy,
    store.StoreCorrupt,
    store.StoreUnreadable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the last look found: stamps of the log and of the record's file, and the records.

    record: moved on since it was written as `written`.
    """

    log: _Stamp
    file: _Stamp
    record: PageRecord
    written: PageRecord


class StorePages:
    """The page records of all sessions. Threads may share it; paths are those of the folders."""

    def __init__(self, *, boot_id: str | None = None) -> None:
        """Keep records for this boot of the machine.

        Args:
            boot_id: None for that of the kernel, or one of its own where the kernel tells none.
        """
        self._boot_id = boot_id
        self._lock = threading.Lock()
        self._turns: dict[Path, threading.Lock] = {}
        self._known: dict[Path, _Known] = {}

    @contextmanager
    def turn(self, session: Path) -> Iterator[None]:
        """Keep others in this process from opening this store meanwhile. Not to be nested."""
        with self._turn(session):
            yield

    def begin_check(self, session: Path) -> PageCheck | None:
        """Begin to compare the store with its record, None without one; in its turn.

        Raises:
            OSError: the log or the record cannot be read.
        """
        known = self._present(session)
        path = session / store.FILE_NAME
        if known is None:
            return None
        if known.record is not known.written:
            # Once SQLite has opened a damaged log, nothing else tells how long it was.
            with suppress(StorageError):
                self._write(session, known.record, known.log)
        return PageCheck(path, known.record, place=self._place(path))

    def prepare(self, session: Path) -> None:
        """Have a record for a client that is about to start; in the store's turn.

        No session waits for it: what stands in the way is logged, and the first look tries again.
        """
        path = session / store.FILE_NAME
        try:
            known = self._present(session)
            if known is not None and known.record.place == self._place(path):
                with open_log(path) as log:
                    if follow(known.record, log, same_place=True) is not None:
                        return
            self._make(session, most_frames=_MOST_FRAMES_AT_A_START)
        except FileNotFoundError:
            return
        except _OBSTACLES as error:
            _logger.warning("no page record was made", folder=session.name, detail=str(error))

    def look(self, session: Path) -> None:
        """Let the record of a running store move on; never waits for the store's turn."""
        stamp = _stamp(session / f"{store.FILE_NAME}-wal")
        known = self._known.get(session)
        if known is not None and known.log == stamp:
            return
        turn = self._turn(session)
        if not turn.acquire(blocking=False):
            return
        try:
            self._move_on(session, stamp)
        except FileNotFoundError:
            self._known.pop(session, None)
        except _OBSTACLES as error:
            _logger.debug("a page record stays behind", folder=session.name, detail=str(error))
        finally:
            turn.release()

    def close(self, session: Path) -> None:
        """Write down what store.db is to hold once its log is folded in; in the store's turn.

        Not what it will hold: the next start and the next copy compare.

        Raises:
            StorageError: the log is damaged and must stay, or the disk refuses.
            OSError: the log or the record cannot be read.
        """
        check = self.begin_check(session)
        if check is None:
            return
        if check.damage is not None:
            raise StorageError(f"{session / store.FILE_NAME} is damaged: {check.damage}.")
        if check.trail is None:
            remove_record(session)
            return
        record = replace(check.trail.record, closed=True)
        try:
            write_record(session, record, durably=True)
        except StorageError:
            remove_record(session)  # it would be compared with what the log has changed

    def complete(self, session: Path) -> None:
        """Make the record of a store at rest if there is none; in the store's turn."""
        if self._present(session) is None:
            self.prepare(session)

    def _turn(self, session: Path) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(session, threading.Lock())

    def _place(self, path: Path) -> str:
        if self._boot_id is None:
            try:
                self._boot_id = _BOOT_ID.read_text().strip()
            except OSError:
                self._boot_id = uuid.uuid4().hex
        status = path.stat()
        return f"{self._boot_id} {status.st_dev} {status.st_ino}"

    def _present(self, session: Path) -> _Known | None:
        """Return the record with what the last look found, if it is still the same file."""
        file = _stamp(session / FILE_NAME)
        known = self._known.get(session)
        if known is not None and known.file == file:
            return known
        record = read_record(session)
        if record is None:
            return None
        return _Known(log=None, file=file, record=record, written=record)

    def _move_on(self, session: Path, stamp: _Stamp) -> None:
        path = session / store.FILE_NAME
        known = self._present(session)
        trail = None
        if known is not None and known.record.place == self._place(path):
            with open_log(path) as log:
                trail = follow(known.record, log, same_place=True)
        if known is None or trail is None:
            self._make(session, stamp)
            return
        moved = replace(known, log=stamp, record=trail.record)
        self._known[session] = moved
        if _is_far(moved.written, moved.record):
            self._write(session, moved.record, stamp)

    def _make(self, session: Path, stamp: _Stamp = None, *, most_frames: int | None = None) -> None:
        path = session / store.FILE_NAME
        place = self._place(path)
        record = _record_of(path, place, most_frames)
        if record is not None and place == self._place(path):
            self._write(session, record, stamp)

    def _write(self, session: Path, record: PageRecord, stamp: _Stamp) -> None:
        write_record(session, record)
        file = _stamp(session / FILE_NAME)
        self._known[session] = _Known(log=stamp, file=file, record=record, written=record)


def _is_far(written: PageRecord, record: PageRecord) -> bool:
    """Tell whether a written record is too far behind for a start, or of an earlier log."""
    old, new = written.position, record.position
    if old is None or new is None or old.salts != new.salts:
        return old is not new
    return new.frame - old.frame >= _FRAMES_A_RECORD


def _record_of(path: Path, place: str, most_frames: int | None) -> PageRecord | None:
    """Return a record of the store as it reads now; None when it cannot be had at the moment.

    The store is trusted. What is written meanwhile is in the log, so it is known which pages.
    """
    with open_log(path) as log:
        header = log.header()
        # SQLite may not show yet the last transaction that is in the log, but those before it.
        ends = deque([header.start] if header is not None else [None], maxlen=2)
        if header is not None:
            for commit in log.commits_after(header.start):
                ends.append(commit.end)
                if most_frames is not None and commit.end.frame > most_frames:
                    return None
        content = store.read_store(path, content_of)
        if content is None or not wants_log(content):
            return None  # a rollback journal does not say what it changes
        page_size = page_size_of(content)
        record = PageRecord(
            page_size=page_size,
            hashes=hashes_of(content, page_size),
            position=ends[0],
            closed=header is None,
            place=place,
        )
        if header is None:
            return record if _has_no_log(path) else None
        trail = follow(record, log, same_place=True)
        return trail.record if trail is not None else None


def _has_no_log(path: Path) -> bool:
    with open_log(path) as log:
        return log.header() is None


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
