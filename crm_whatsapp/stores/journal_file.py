"""The SQLite file of the state journal: opened, checked, brought to its schema, set aside.

Schema 2: `connections` holds each company's latest state, `backlog` what Supabase has yet to hear:
transitions (notice = 0) and notices (notice = 1), told apart since schema 2 by a column that an
older release leaves alone. company_id '' in the backlog: a notice about the service as a whole.
"""

import logging
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from crm_whatsapp.domain.errors import StorageError

_LOG = logging.getLogger(__name__)

SCHEMA_VERSION = 2
_SIDE_FILES = ("", "-wal", "-shm", "-journal")
_NOT_THE_FILES_FAULT = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
    }
)

_SCHEMA_1 = """
create table connections (
    company_id text primary key,
    version    integer not null,
    record     text not null
);
create table backlog (
    seq        integer primary key,
    id         text not null unique,
    company_id text not null,
    keep       integer not null,
    record     text not null
);
create index backlog_by_company on backlog (company_id, seq);
"""

_SCHEMA_2 = """
alter table backlog add column notice integer not null default 0;
create index backlog_by_kind on backlog (notice);
"""

_SHAPE_CHECK = (
    "select company_id, version, record from connections limit 0",
    "select seq, id, company_id, keep, record from backlog limit 0",
)


class JournalDamaged(Exception):
    """The file is not a journal that can be read."""


def open_journal(path: Path, busy_timeout_seconds: float) -> tuple[sqlite3.Connection, Path | None]:
    """Open the journal, begin one when there is none, set a damaged one aside.

    Returns:
        The connection (autocommit, any thread), and where a damaged file was put, if any.

    Raises:
        StorageError: the folder or the disk refuses.
    """
    try:
        return _open(path, busy_timeout_seconds), None
    except JournalDamaged as exc:
        aside = _set_aside(path)
        _LOG.warning(
            "The state journal %s could not be read (%s). It was set aside as %s and a new one is "
            "begun; what Supabase had not heard yet is only in there.",
            path,
            exc,
            aside.name,
        )
    try:
        return _open(path, busy_timeout_seconds), aside
    except JournalDamaged as exc:
        raise StorageError(f"No state journal can be made at {path}: {exc}.") from exc


def _open(path: Path, busy_timeout_seconds: float) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(
            path, timeout=busy_timeout_seconds, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as exc:
        raise StorageError(f"The state journal {path} cannot be opened: {exc}.") from exc
    # One damaged text must not make every other row unreadable.
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        _prepare(db)
        path.chmod(0o600)
    except sqlite3.Error as exc:
        db.close()
        if _is_damage(exc, path):
            raise JournalDamaged(str(exc)) from exc
        raise StorageError(f"The state journal {path} cannot be used: {exc}.") from exc
    except UnicodeDecodeError as exc:  # a damaged name in the schema
        db.close()
        raise JournalDamaged("its schema is damaged") from exc
    except OSError as exc:
        db.close()
        raise StorageError(f"The state journal {path} cannot be used: {exc.strerror}.") from exc
    except BaseException:
        db.close()
        raise
    return db


def _is_damage(exc: sqlite3.Error, path: Path) -> bool:
    """Tell a damaged file from a disk that refuses: a damaged header can look like read-only."""
    if primary_code(exc) == sqlite3.SQLITE_READONLY:
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return primary_code(exc) not in _NOT_THE_FILES_FAULT


def _prepare(db: sqlite3.Connection) -> None:
    fresh = not db.execute("select 1 from sqlite_master limit 1").fetchone()
    if fresh:
        db.execute("pragma auto_vacuum = incremental")
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = normal")
    db.execute("pragma journal_size_limit = 4194304")
    if fresh:
        db.executescript(
            f"begin; {_SCHEMA_1} {_SCHEMA_2} pragma user_version = {SCHEMA_VERSION}; commit;"
        )
        return
    verdict = db.execute("pragma integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise JournalDamaged(str(verdict))
    # A newer release's schema is welcome as long as it has these columns.
    for statement in _SHAPE_CHECK:
        db.execute(statement)
    columns = {row[1] for row in db.execute("pragma table_info(backlog)")}
    if "notice" not in columns:  # by the column: a damaged version number must not hide it
        db.executescript(f"begin; {_SCHEMA_2} pragma user_version = {SCHEMA_VERSION}; commit;")


def _set_aside(path: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    try:
        for suffix in _SIDE_FILES:
            source = path.with_name(path.name + suffix)
            if source.exists():
                source.rename(aside.with_name(aside.name + suffix))
    except OSError as exc:
        raise StorageError(
            f"The state journal {path} is damaged and cannot be set aside: {exc.strerror}."
        ) from exc
    return aside


def primary_code(exc: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 when the module itself raised."""
    return int(getattr(exc, "sqlite_errorcode", 0) or 0) & 0xFF


def close_journal(db: sqlite3.Connection) -> None:
    """Close the file, the write-ahead log folded in when the disk allows it."""
    with closing(db):
        try:
            db.execute("pragma wal_checkpoint(truncate)")
        except sqlite3.Error as exc:
            _LOG.warning("The state journal was closed without a checkpoint: %s", exc)
