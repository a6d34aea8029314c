"""The log of a killed writer is folded into its store; a store in use is left alone."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.store_log import settle_store, settle_stores
from crm_whatsapp.sessions.store_pages import StorePages
from tests.unit.sessions.processes import lines, running

WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("pragma journal_mode=" + sys.argv[2])
db.execute("create table t (v)")
db.execute("insert into t values (1)")
db.commit()
if sys.argv[2] == "delete":
    db.execute("pragma cache_size=1")
    db.execute("begin immediate")
    db.executemany("insert into t values (?)", [("x" * 3000,)] * 200)
print("written", flush=True)
sys.stdin.read()
"""


def killed_writer(path: Path, journal_mode: str) -> None:
    with running(WRITER, path, journal_mode) as process:
        assert lines(process, 1) == ["written"]


def beside(path: Path) -> list[str]:
    return sorted(other.name for other in path.parent.iterdir() if other != path)


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_what_a_killed_writer_committed_is_in_the_file(tmp_path: Path, journal_mode: str) -> None:
    path = tmp_path / "store.db"
    killed_writer(path, journal_mode)
    assert beside(path)

    settle_store(path)

    assert beside(path) == []
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as db:
        assert db.execute("select v from t").fetchall() == [(1,)]
        assert db.execute("pragma quick_check").fetchone() == ("ok",)


def test_without_a_log_nothing_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"whatever this is")
    settle_store(path)
    assert path.read_bytes() == b"whatever this is"
    settle_store(tmp_path / "missing.db")
    assert beside(path) == []


def test_a_store_in_use_is_a_storage_error_and_keeps_its_log(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    killed_writer(path, "wal")
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("begin")
        reader.execute("select * from t").fetchall()
        with closing(sqlite3.connect(path)) as writer:
            writer.execute("insert into t values (2)")
            writer.commit()
            with pytest.raises(StorageError, match="in use"):
                settle_store(path, 0.01)


def test_many_are_settled_and_the_problems_named(tmp_path: Path) -> None:
    sound, damaged = tmp_path / "sound" / "store.db", tmp_path / "damaged" / "store.db"
    for path in (sound, damaged):
        path.parent.mkdir()
        killed_writer(path, "wal")
    for path in (damaged, damaged.with_name("store.db-wal")):
        path.write_bytes(b"not a database" * 100)
    problems = settle_stores([sound, damaged], 30, pages=StorePages())
    assert [path for path, _ in problems] == [damaged]
    assert beside(sound) == ["store.pages"]


def test_no_time_left_is_said(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    killed_writer(path, "wal")
    assert settle_stores([path], 0, pages=StorePages()) == [(path, "no time was left")]
    assert beside(path)
