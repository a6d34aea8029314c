"""The device row of a store.db: which account the store is linked to.

The store may be in use by an engine, so it is read without writing to it or making files beside
it. Never call this in a process that holds the same file open through another SQLite library.

How, by what lies beside store.db (measured with SQLite 3.40):

* nothing: nobody has it open for writing in WAL mode. A plain read-only open would make `-wal` and
  `-shm` files, so it is read as immutable, and read again when it changed meanwhile.
* `-wal`: live, or its engine was killed. Read-only with locks; committed data in the log is seen.
* a hot `-journal`: its engine was killed. Reading needs a rollback, so a copy is rolled back.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from crm_whatsapp.sessions.credentials import is_device_jid, is_device_lid
from crm_whatsapp.sessions.durable_file import is_plain
from crm_whatsapp.sessions.store_content import content_of, is_whole

T = TypeVar("T")

FILE_NAME = "store.db"

# whatsmeow store/sqlstore/upgrades/00-latest-schema.sql; lid came with its version 7.
_WANTED = ("jid", "lid", "push_name", "platform")
_KEY_LENGTHS = {
    "noise_key": 32,
    "identity_key": 32,
    "signed_pre_key": 32,
    "signed_pre_key_sig": 64,
    "adv_account_sig": 64,
    "adv_account_sig_key": 32,
    "adv_device_sig": 64,
}
_QUIET_READS = 3
_SMALLEST_DATABASE = 512
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
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
RUBBISH = (UnicodeDecodeError, OverflowError, MemoryError)
"""What sqlite3 raises beside its own errors, for names and sizes made of rubbish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """Who the store is linked to; empty texts are None."""

    jid: str
    lid: str | None
    push_name: str | None
    platform: str | None


class StoreCorrupt(Exception):
    """store.db is there and cannot be used; the text says why."""


class StoreBusy(Exception):
    """store.db is locked by a writer."""


class StoreUnreadable(Exception):
    """The disk does not let store.db be read; nothing is known about it."""


def read_device_row(
    path: Path,
    *,
    quick_check: bool = False,
    also: Callable[[bytes], None] | None = None,
    busy_timeout_seconds: float = 0.25,
) -> DeviceRow | None:
    """Return the one device row; None when the store holds no device (never paired, logged out).

    Args:
        quick_check: also let SQLite check every page (about 1 ms a megabyte).
        also: gets the whole content, up to 256 MiB; again when the store changed meanwhile.

    Raises:
        FileNotFoundError: there is no store.
        StoreCorrupt: not a whatsmeow store, damaged, or with several devices.
        StoreBusy: a writer holds it for longer than the timeout.
        StoreUnreadable: an I/O error.
    """

    def read(db: sqlite3.Connection) -> DeviceRow | None:
        if quick_check:
            _check_pages(db)
        row = one_row(db)
        if also is not None and (content := content_of(db)) is not None:
            also(content)
        return row

    return read_store(path, read, busy_timeout_seconds=busy_timeout_seconds)


def read_store(
    path: Path, read: Callable[[sqlite3.Connection], T], *, busy_timeout_seconds: float = 0.25
) -> T:
    """Let the store be read in the way that changes nothing beside it.

    Args:
        read: gets it with `bytes` as its text factory; is called again when it changed meanwhile.

    Raises: as read_device_row.
    """
    try:
        return _read(path, read, busy_timeout_seconds)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise StoreUnreadable(f"{FILE_NAME} cannot be read: {exc.strerror or exc}") from exc


def _read(path: Path, read: Callable[[sqlite3.Connection], T], busy_timeout_seconds: float) -> T:
    for _ in range(_QUIET_READS):
        before = path.lstat()
        if not is_plain(before):
            raise StoreCorrupt(f"{FILE_NAME} is not a regular file")
        if 0 < before.st_size < _SMALLEST_DATABASE:
            raise StoreCorrupt(f"{FILE_NAME} is cut off")
        if _may_be_open(path):
            break
        try:
            found = _query(path, "mode=ro&immutable=1", read, busy_timeout_seconds)
        except StoreCorrupt:
            if _unchanged(path, before):
                raise
        else:
            if _unchanged(path, before):
                return found
    try:
        return _query(path, "mode=ro", read, busy_timeout_seconds)
    except _NeedsRollback:
        return _read_rolled_back(path, read)


class _NeedsRollback(Exception):
    """A killed writer left a hot journal; it cannot be read without rolling it back."""


def _read_rolled_back(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    # In the session folder itself: the copy holds key material.
    with tempfile.TemporaryDirectory(prefix=".rollback-", dir=path.parent) as folder:
        copy = Path(folder) / path.name
        for suffix in ("", "-journal"):
            shutil.copyfile(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
        return _query(copy, "mode=rw", read, 0.0)


def _may_be_open(path: Path) -> bool:
    return any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))


def _unchanged(path: Path, before: os.stat_result) -> bool:
    after = path.lstat()
    same = (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    return same and not _may_be_open(path)


def _query(
    path: Path, mode: str, read: Callable[[sqlite3.Connection], T], busy_timeout: float
) -> T:
    uri = f"file:{quote(str(path))}?{mode}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=busy_timeout)) as db:
            db.text_factory = bytes
            _check_size(db, path, at_rest="immutable" in mode)
            return read(db)
    except sqlite3.Error as exc:
        raise _translated(exc) from exc
    except RUBBISH as exc:
        raise StoreCorrupt(f"{FILE_NAME} is damaged") from exc


def _check_size(db: sqlite3.Connection, path: Path, *, at_rest: bool) -> None:
    """Refuse a file that was cut off: quick_check reads what is missing as zeros and passes it."""
    page_size = int(db.execute("pragma page_size").fetchone()[0])
    pages = int(db.execute("pragma page_count").fetchone()[0])
    size = path.lstat().st_size
    if size % page_size or (at_rest and size < pages * page_size):
        raise StoreCorrupt(f"{FILE_NAME} is cut off")


def _check_pages(db: sqlite3.Connection) -> None:
    if not is_whole(db):
        raise StoreCorrupt(f"{FILE_NAME} is damaged")
    _check_schema(db)


def _check_schema(db: sqlite3.Connection) -> None:
    """Refuse a schema that a writer would: a read-only connection overlooks a broken CHECK."""
    statements = db.execute(
        "select sql from sqlite_schema where sql is not null and name not like 'sqlite%'"
    ).fetchall()
    with closing(sqlite3.connect(":memory:")) as empty:
        for (statement,) in statements:
            empty.execute(bytes(statement).decode())


def one_row(db: sqlite3.Connection) -> DeviceRow | None:
    """Return the one device row of an open store, checked; None when it holds no device.

    Args:
        db: with `bytes` as its text factory.

    Raises:
        StoreCorrupt: not a whatsmeow store, several devices, or one that is not whole.
        sqlite3.Error, or one of RUBBISH: it cannot be read.
    """
    columns = {bytes(row[1]).decode("utf-8", "replace") for row in _columns(db)}
    if not columns:
        if db.execute("select 1 from sqlite_master limit 1").fetchone():
            raise StoreCorrupt(f"{FILE_NAME} is a database without a whatsmeow_device table")
        return None
    missing = [name for name in ("jid", *_KEY_LENGTHS) if name not in columns]
    if missing:
        raise StoreCorrupt(f"whatsmeow_device in {FILE_NAME} has no column {missing[0]}")
    wanted = [name if name in columns else "null" for name in _WANTED]
    lengths = [f"length(cast({name} as blob))" for name in _KEY_LENGTHS]
    rows = db.execute(
        f"select {', '.join([*wanted, *lengths])} from whatsmeow_device limit 2"  # noqa: S608
    ).fetchall()
    if not rows:
        return None
    if len(rows) > 1:
        raise StoreCorrupt(f"{FILE_NAME} holds more than one device")
    return _checked(rows[0])


def _columns(db: sqlite3.Connection) -> Sequence[tuple[object, bytes]]:
    return db.execute("pragma table_info(whatsmeow_device)").fetchall()


def _checked(row: Sequence[object]) -> DeviceRow:
    jid, lid, push_name, platform = (_text(value) for value in row[: len(_WANTED)])
    if jid is None or not is_device_jid(jid):
        raise StoreCorrupt(f"the device in {FILE_NAME} has no valid jid")
    if lid is not None and not is_device_lid(lid):
        raise StoreCorrupt(f"the device in {FILE_NAME} has no valid lid")
    found = row[len(_WANTED) :]
    for (name, length), actual in zip(_KEY_LENGTHS.items(), found, strict=True):
        if actual != length:
            raise StoreCorrupt(f"{name} of the device in {FILE_NAME} has the wrong length")
    return DeviceRow(jid=jid, lid=lid, push_name=push_name, platform=platform)


def _text(value: object) -> str | None:
    if value is None or value == b"":
        return None
    if not isinstance(value, bytes):
        raise StoreCorrupt(f"the device in {FILE_NAME} holds a number where a text belongs")
    return value.decode("utf-8", "replace")


def _translated(exc: sqlite3.Error) -> Exception:
    code = int(getattr(exc, "sqlite_errorcode", 0) or 0)
    if code == sqlite3.SQLITE_READONLY_ROLLBACK:
        return _NeedsRollback()
    if code & 0xFF in _BUSY:
        return StoreBusy(f"{FILE_NAME} is in use by a writer")
    if code & 0xFF in _DISK:
        return StoreUnreadable(f"{FILE_NAME} cannot be read: {exc}")
    return StoreCorrupt(f"{FILE_NAME} cannot be read: {exc}")
