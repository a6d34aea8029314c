"""What an ended engine leaves beside store.db: a log whose content is not in the file yet.

whatsmeow's database is never closed by neonize, so SQLite does not get to fold the write-ahead log
in when the engine ends. Nothing is lost by that, but store.db alone would be an old session:
whoever copies one file, or moves the disk, must find it whole.
"""

import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.store_pages import StorePages

_SUFFIXES = ("-wal", "-journal")
_THREADS = 4


def settle_store(path: Path, busy_timeout_seconds: float = 0.5) -> None:
    """Fold the log into store.db and remove it; nothing is done without one.

    Only for a store whose engine has ended.

    Raises:
        StorageError: somebody still uses the store, it is damaged, or the disk refuses.
    """
    if not any(_has_content(path.with_name(path.name + suffix)) for suffix in _SUFFIXES):
        return
    uri = f"file:{quote(str(path))}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=busy_timeout_seconds)) as db:
            db.execute("select count(*) from sqlite_master").fetchone()  # rolls back a hot journal
            busy = db.execute("pragma wal_checkpoint(truncate)").fetchone()[0]
    except sqlite3.Error as exc:
        raise StorageError(f"The log beside {path} cannot be folded in: {exc}.") from exc
    if busy:
        raise StorageError(f"The log beside {path} cannot be folded in: it is in use.")


def settle_stores(
    paths: Sequence[Path], timeout_seconds: float, *, pages: StorePages
) -> list[tuple[Path, str]]:
    """Settle each, and write down what it holds; return those that could not be, or not in time.

    Args:
        pages: told before the log is folded in. A store that it finds damaged keeps its log.
    Returns:
        The stores, and why.
    """
    give_up_at = time.monotonic() + timeout_seconds

    def settle(path: Path) -> tuple[Path, str] | None:
        if time.monotonic() >= give_up_at:
            return path, "no time was left"
        try:
            with pages.turn(path.parent):
                pages.close(path.parent)
                settle_store(path)
                pages.complete(path.parent)
        except StorageError as error:
            return path, error.message
        except OSError as error:
            return path, str(error)
        return None

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="settle-store") as pool:
        return [problem for problem in pool.map(settle, paths) if problem is not None]


def _has_content(path: Path) -> bool:
    try:
        return path.lstat().st_size > 0
    except FileNotFoundError:
        return False
