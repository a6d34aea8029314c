"""Copies of a store: out of a session folder, also while its client runs, and back into one.

The store of a running client belongs to an engine process. It is read through SQLite alone: closing
a plain file handle on it would drop the locks that this process's SQLite holds on the same file
(POSIX, fcntl). A copy is made in memory, so that no key lies about in a temporary file and nothing
is left behind by a kill; through a file it would take half as much CPU again, twice the time.

How a store is opened, by what lies beside it, is as in device_row.py: without a log it is at rest,
and is read as immutable, since a plain read-only open would make `-wal` and `-shm` files.
"""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.folders import Credentials, FolderState
from crm_whatsapp.domain.ports import SessionFolders
from crm_whatsapp.domain.snapshots import StoreCopy, StoreDamaged, StoreFingerprint, StoreUnfit
from crm_whatsapp.sessions.device_row import RUBBISH
from crm_whatsapp.sessions.durable_file import is_plain, refused, write_durably
from crm_whatsapp.sessions.signal_reset import forget_ratchets
from crm_whatsapp.sessions.snapshot_cipher import MOST_DATABASE_BYTES
from crm_whatsapp.sessions.store_content import content_of, open_in_memory, with_journal_of
from crm_whatsapp.sessions.store_fingerprint import fingerprint_of
from crm_whatsapp.sessions.store_fitness import (
    Unfit,
    check_copy,
    no_device,
    pages_bytes,
    require_whole,
    unfit,
)
from crm_whatsapp.sessions.store_pages import StorePages

T = TypeVar("T")

_QUIET_READS = 3
_BUSY_SLEEP_SECONDS = 0.02
_RACY_NANOSECONDS = 2_000_000_000
_VACUUM_ABOVE_FREE = 1 / 8

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DISK = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


@dataclass(frozen=True, slots=True)
class _Stamp:
    """Tells two conditions of the files apart; changed_at_ns: the newest change."""

    files: tuple[tuple[int, int, int] | None, ...]
    changed_at_ns: int

    @property
    def has_log(self) -> bool:
        return any(self.files[1:])


class SqliteStoreCopier:
    """The StoreCopier of this machine. Safe to share between threads."""

    def __init__(
        self,
        folders: SessionFolders,
        *,
        pages: StorePages | None = None,
        busy_timeout_seconds: float = 2.0,
        monotonic: Callable[[], float] = time.monotonic,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Copy the stores of these folders.

        Args:
            pages: those of the folders; they tell of bits that have flipped.
            busy_timeout_seconds: how long a copy or fingerprint waits for a writer.
            unix_ns: the clock of the file system; tells whether a later change would be seen.
        """
        self._folders = folders
        self._pages = pages or StorePages()
        self._busy_timeout_seconds = busy_timeout_seconds
        self._monotonic = monotonic
        self._unix_ns = unix_ns
        self._known: dict[str, tuple[_Stamp, StoreFingerprint]] = {}

    def copy(self, company_id: str) -> StoreCopy:
        """Copy the store, also while its client runs, and check the copy.

        Returns:
            The copy, with the credentials of creds.json, or those it will get when it is missing.
        Raises:
            StoreUnfit: it is damaged, busy, or does not hold exactly the expected device.
            StorageError: the disk refuses.
        """
        credentials = self._credentials(company_id)
        path = self._folders.store_path(company_id)
        with self._pages.turn(path.parent):
            database = self._compared(path, self._copy_from)
        copy = StoreCopy(credentials=credentials, database=database)
        check_copy(copy)
        return copy

    def fingerprint(self, company_id: str) -> StoreFingerprint:
        """Tell the store's present condition without copying it.

        Three stats while the files do not change; after a change 0.5 ms for a fresh store, 10 ms
        for one of 5,000 sessions (measured).

        Raises:
            StoreUnfit, StorageError: as copy.
        """
        path = self._folders.store_path(company_id)
        stamp = _stamp(path)
        known = self._known.get(company_id)
        if known is not None and known[0] == stamp:
            return known[1]
        with self._pages.turn(path.parent):
            fingerprint = self._read(path, fingerprint_of)
        if fingerprint is None:
            raise no_device()
        # A later change within the same tick of the file system's clock would go unseen.
        if self._unix_ns() - stamp.changed_at_ns > _RACY_NANOSECONDS:
            self._known[company_id] = (stamp, fingerprint)
        else:
            self._known.pop(company_id, None)
        return fingerprint

    def verify(self, company_id: str) -> None:
        """Compare every page with what clients wrote into it, also while one runs.

        Without a page record nobody can tell, and nothing is said. 0.4 ms for a fresh store.

        Raises:
            StoreDamaged: bits have flipped; older snapshots do not have them.
            StoreUnfit, StorageError: as copy.
        """
        path = self._folders.store_path(company_id)
        with self._pages.turn(path.parent):
            self._compared(path, lambda store: b"")

    def install(self, copy: StoreCopy, *, epoch: int, reset_signal: bool = False) -> None:
        """Write store.db and creds.json into the company's empty folder, durably.

        creds.json comes last: it is the signal that there is a session. A kill in between leaves
        nothing, or a whole store that is adopted with epoch 0, which any snapshot outranks.

        Args:
            epoch: of the lease under which it is installed; creds.json gets it.
            reset_signal: leave out the Signal sessions: the client went on after the copy.
        Raises:
            StoreUnfit: the copy would not do as a store; nothing was written.
            StorageError: the folder is missing or not empty, or the disk refuses.
        """
        check_copy(copy)
        company_id = copy.credentials.company_id
        _require_empty(self._folders.session_path(company_id))
        database = _without_ratchets(copy.database) if reset_signal else copy.database
        write_durably(self._folders.store_path(company_id), database)
        self._folders.write_credentials(replace(copy.credentials, epoch=epoch))

    def _credentials(self, company_id: str) -> Credentials:
        report = self._folders.inspect(company_id, deep=False)
        if report.credentials is not None:
            return report.credentials
        if report.state is FolderState.UNREADABLE:
            raise StorageError(f"{self._folders.session_path(company_id)}: {report.detail}.")
        if report.state is FolderState.LOCKED:
            raise unfit(Unfit.BUSY, f"{report.detail}.")
        if report.state is FolderState.MISSING:
            reason = Unfit.NO_DEVICE if _is_there(self._folders, company_id) else Unfit.MISSING
            raise unfit(reason, "There is no paired session in the folder.")
        raise unfit(Unfit.DAMAGED, f"The session folder cannot be used: {report.detail}.")

    def _read(self, path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do the work on the store, opened in the way that changes nothing beside it."""
        for _ in range(_QUIET_READS):
            before = _stamp(path)
            if before.has_log:
                break
            try:
                result = self._on(path, "mode=ro&immutable=1", work, before)
            except StoreUnfit:
                if _stamp(path) == before:
                    raise
            else:
                if _stamp(path) == before:
                    return result
        return self._on(path, "mode=ro", work, None)

    def _on(
        self,
        path: Path,
        mode: str,
        work: Callable[[sqlite3.Connection], T],
        at_rest: _Stamp | None,
    ) -> T:
        uri = f"file:{quote(str(path))}?{mode}"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=self._busy_timeout_seconds)) as db:
                db.text_factory = bytes
                _check_size(db, at_rest)
                return work(db)
        except sqlite3.Error as exc:
            raise _translated(exc) from exc
        except RUBBISH as exc:
            raise unfit(Unfit.DAMAGED, "store.db is damaged.") from exc

    def _compared(self, path: Path, work: Callable[[sqlite3.Connection], bytes]) -> bytes:
        """Do the work on the store, unless bits have flipped in it.

        Raises:
            StoreDamaged: they have.
        """
        try:
            check = self._pages.begin_check(path.parent)
            if check is None:
                return self._read(path, work)

            def compare(store: sqlite3.Connection) -> bytes:
                store.execute("begin")  # what is compared is what the work gets
                content = content_of(store)
                if content is not None:
                    check.take(content)
                return work(store)

            result = b"" if check.damage else self._read(path, compare)
            damage = check.judge()
        except FileNotFoundError as exc:
            raise unfit(Unfit.MISSING, "There is no store.db.") from exc
        except OSError as exc:
            raise refused("read", path, exc) from exc
        if damage is not None:
            message = f"store.db was changed by no client: {damage}."
            raise StoreDamaged(message, reason=Unfit.DAMAGED)
        return result

    def _copy_from(self, store: sqlite3.Connection) -> bytes:
        give_up_at = self._monotonic() + self._busy_timeout_seconds

        def give_up_in_time(status: int, _remaining: int, _total: int) -> None:
            if status & 0xFF in _BUSY and self._monotonic() >= give_up_at:
                raise unfit(Unfit.BUSY, "store.db is in use by a writer that does not let go.")

        with closing(sqlite3.connect(":memory:")) as memory:
            memory.text_factory = bytes
            # All pages in one step, thus one read transaction: with a write-ahead log no writer
            # can delay it or make it start again.
            store.backup(memory, progress=give_up_in_time, sleep=_BUSY_SLEEP_SECONDS)
            database = memory.serialize()
            if not _wastes_space(memory):
                return database
            require_whole(memory)  # a vacuum would leave out what it cannot read
            memory.execute("vacuum")
            return with_journal_of(memory.serialize(), database)


def _without_ratchets(database: bytes) -> bytes:
    try:
        with closing(open_in_memory(database)) as db:
            db.text_factory = str
            with db:
                forget_ratchets(db)
            return with_journal_of(db.serialize(), database)
    except sqlite3.Error as exc:
        raise unfit(Unfit.DAMAGED, f"The store is damaged: {exc}.") from exc


def _check_size(db: sqlite3.Connection, at_rest: _Stamp | None) -> None:
    """Refuse a store too large, or cut off: SQLite reads what is missing as zeros."""
    size = pages_bytes(db)
    if size > MOST_DATABASE_BYTES:
        raise unfit(Unfit.TOO_LARGE, "The store is larger than 256 MiB.")
    if at_rest is not None and at_rest.files[0] is not None and at_rest.files[0][1] < size:
        raise unfit(Unfit.DAMAGED, "store.db is cut off.")


def _wastes_space(db: sqlite3.Connection) -> bool:
    """Tell whether free pages are worth a vacuum: they hold old keys, which do not compress.

    Measured, 8.2 MB with a third of the pages free: 4.8 MB sealed without, 2.4 MB with, for 35 ms.
    A fresh store has none; its vacuum would save 0.3 of 37.5 KB for 1 ms.
    """
    free = int(db.execute("pragma freelist_count").fetchone()[0])
    return free > _VACUUM_ABOVE_FREE * int(db.execute("pragma page_count").fetchone()[0])


def _stamp(path: Path) -> _Stamp:
    files: list[tuple[int, int, int] | None] = []
    changed_at_ns = 0
    for suffix in ("", "-wal", "-journal"):
        try:
            status = path.with_name(path.name + suffix).lstat()
        except FileNotFoundError:
            files.append(None)
            continue
        except OSError as exc:
            raise refused("read", path, exc) from exc
        if not is_plain(status):
            raise unfit(Unfit.DAMAGED, f"{path.name}{suffix} is not a regular file.")
        files.append((status.st_ino, status.st_size, status.st_mtime_ns))
        changed_at_ns = max(changed_at_ns, status.st_mtime_ns)
    if files[0] is None:
        raise unfit(Unfit.MISSING, "There is no store.db.")
    return _Stamp(files=tuple(files), changed_at_ns=changed_at_ns)


def _require_empty(folder: Path) -> None:
    try:
        names = os.listdir(folder)
    except OSError as exc:
        raise refused("install a session into", folder, exc) from exc
    if names:
        raise StorageError(f"{folder} is not empty: set it aside before a session is installed.")


def _is_there(folders: SessionFolders, company_id: str) -> bool:
    return folders.store_path(company_id).exists()


def _translated(exc: sqlite3.Error) -> Exception:
    code = int(getattr(exc, "sqlite_errorcode", 0) or 0)
    if code == sqlite3.SQLITE_READONLY_ROLLBACK:
        return unfit(Unfit.UNFINISHED, "store.db has a rollback journal of a killed writer.")
    if code & 0xFF in _BUSY:
        return unfit(Unfit.BUSY, "store.db is in use by a writer that does not let go.")
    if code & 0xFF in _DISK:
        return StorageError(f"store.db cannot be read: {exc}.")
    return unfit(Unfit.DAMAGED, f"store.db cannot be read: {exc}.")
