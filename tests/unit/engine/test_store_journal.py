"""The journal mode of a store."""

import contextlib
import sqlite3
import stat
from pathlib import Path

from crm_whatsapp.engine.store_journal import prepare_empty_store, use_write_ahead_log


def journal_mode(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_an_existing_store_is_switched_once(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("CREATE TABLE whatsmeow_device (jid TEXT)")
    assert journal_mode(store) == "delete"
    use_write_ahead_log(store, company_id="c-1")
    assert journal_mode(store) == "wal"
    before = store.stat().st_mtime_ns
    use_write_ahead_log(store, company_id="c-1")
    assert store.stat().st_mtime_ns == before


def test_what_is_no_database_is_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    use_write_ahead_log(store, company_id="c-1")
    assert not store.exists()
    store.write_bytes(b"rubbish" * 100)
    use_write_ahead_log(store, company_id="c-1")
    assert store.read_bytes() == b"rubbish" * 100


def test_an_empty_store_is_private_and_in_wal_mode(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    prepare_empty_store(store, company_id="c-1")
    assert journal_mode(store) == "wal"
    assert stat.S_IMODE(store.stat().st_mode) == 0o600


def test_a_store_without_a_folder_is_no_error(tmp_path: Path) -> None:
    prepare_empty_store(tmp_path / "missing" / "store.db", company_id="c-1")
