"""The copy of before the start: whole, private, replaced in one step, used up by its use."""

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

from crm_whatsapp.sessions import before_start


def write_store(path: Path, word: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("pragma journal_mode=wal")
        db.execute("create table if not exists words (word)")
        db.execute("insert into words values (?)", (word,))


def words(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute("select word from words")]


def test_what_happened_since_the_start_is_undone(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    write_store(store, "before")
    before_start.keep(tmp_path)
    write_store(store, "after")

    assert before_start.put_back(tmp_path)

    assert words(store) == ["before"]
    assert not before_start.put_back(tmp_path)


def test_a_log_that_was_not_folded_in_belongs_to_the_copy(tmp_path: Path) -> None:
    store, running = tmp_path / "store.db", tmp_path / "running.db"
    with closing(sqlite3.connect(running)) as db:
        db.execute("pragma journal_mode=wal")
        db.execute("create table words (word)")
        db.execute("insert into words values ('in the log')")
        db.commit()
        shutil.copyfile(running, store)
        shutil.copyfile(tmp_path / "running.db-wal", tmp_path / "store.db-wal")
    before_start.keep(tmp_path)
    store.unlink()
    (tmp_path / "store.db-wal").unlink()

    assert before_start.put_back(tmp_path)

    assert words(store) == ["in the log"]


def test_only_the_newest_copy_is_kept_and_nobody_else_reads_it(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    write_store(store, "one")
    before_start.keep(tmp_path)
    write_store(store, "two")
    before_start.keep(tmp_path)

    kept = tmp_path / "before-start"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert stat.S_IMODE((kept / "store.db").stat().st_mode) == 0o600
    assert before_start.put_back(tmp_path)
    assert words(store) == ["one", "two"]
