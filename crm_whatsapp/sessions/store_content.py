"""The whole content of a database: out of an open one, and into one in memory."""

import sqlite3

from crm_whatsapp.sessions.snapshot_cipher import MOST_DATABASE_BYTES

_JOURNAL_BYTES = slice(18, 20)  # of the header: 1, 1 rollback journal; 2, 2 write-ahead log
_NO_LOG = b"\x01\x01"
_LOG = b"\x02\x02"


def content_of(db: sqlite3.Connection) -> bytes | None:
    """Return all pages as they are, those in the log too; None above 256 MiB.

    Raises:
        sqlite3.Error: they cannot be read.
    """
    page_size = int(db.execute("pragma page_size").fetchone()[0])
    pages = int(db.execute("pragma page_count").fetchone()[0])
    if pages == 0:
        return b""
    return db.serialize() if page_size * pages <= MOST_DATABASE_BYTES else None


def open_in_memory(content: bytes) -> sqlite3.Connection:
    """Return a database in memory with this content, with `bytes` as its text factory.

    Raises:
        sqlite3.Error: it is none.
    """
    db = sqlite3.connect(":memory:")
    db.text_factory = bytes
    # A database in memory has no write-ahead log and does not open one that wants it.
    db.deserialize(_with(_NO_LOG, content))
    return db


def is_whole(db: sqlite3.Connection) -> bool:
    """Let SQLite check every page and index.

    Raises:
        sqlite3.Error: too much is wrong for that.
    """
    verdict = db.execute("pragma integrity_check(1)").fetchone()
    return verdict is not None and verdict[0] in ("ok", b"ok")


def wants_log(content: bytes) -> bool:
    """Tell whether it is a database that is written through a write-ahead log."""
    return content[_JOURNAL_BYTES] == _LOG


def with_journal_of(content: bytes, other: bytes) -> bytes:
    """Return the content, to be written through the same kind of journal as the other."""
    return _with(other[_JOURNAL_BYTES], content)


def page_size_of(content: bytes) -> int:
    """Return the size of its pages in bytes."""
    size = int.from_bytes(content[16:18], "big")
    return 65_536 if size == 1 else size


def _with(journal: bytes, content: bytes) -> bytes:
    return b"".join((content[: _JOURNAL_BYTES.start], journal, content[_JOURNAL_BYTES.stop :]))
