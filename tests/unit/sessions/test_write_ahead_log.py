"""A log read here and by SQLite says the same, to the last whole transaction."""

import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crm_whatsapp.sessions.write_ahead_log import (
    Commit,
    LogDamaged,
    LogHeader,
    ends_in_index,
    hash_of,
    open_log,
)

HEADER_BYTES = 32
FRAME_BYTES = 24 + 4096


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A store in use, with five transactions in its log."""
    with closing(sqlite3.connect(tmp_path / "live.db", isolation_level=None)) as live:
        live.execute("pragma journal_mode = wal")
        live.execute("create table t (id integer primary key, v blob)")
        for number in range(4):
            live.execute("insert into t (v) values (?)", (bytes([number]) * 6000,))
        yield live


@pytest.fixture
def store(db: sqlite3.Connection, tmp_path: Path) -> Path:
    """The files as a kill would leave them now."""
    path = tmp_path / "store.db"
    for suffix in ("", "-wal", "-shm"):
        shutil.copyfile(tmp_path / f"live.db{suffix}", tmp_path / f"store.db{suffix}")
    return path


def log_of(store: Path) -> Path:
    return store.with_name("store.db-wal")


def commits(store: Path) -> list[Commit]:
    with open_log(store) as log:
        return list(log.commits_after(header_of(store).start))


def header_of(store: Path) -> LogHeader:
    with open_log(store) as log:
        header = log.header()
    assert header is not None
    return header


def pages_in_log(store: Path) -> dict[int, bytes]:
    """Return the newest hash of every page in the log."""
    return {page: content for commit in commits(store) for page, content in commit.pages}


def pages_by_sqlite(store: Path) -> dict[int, bytes]:
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        content = db.serialize()
    return {
        number + 1: hash_of(content[number * 4096 : (number + 1) * 4096])
        for number in range(len(content) // 4096)
    }


def transactions_by_sqlite(store: Path) -> int:
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        if not db.execute("select 1 from sqlite_schema").fetchone():
            return 0
        return 1 + int(db.execute("select count(*) from t").fetchone()[0])


def test_every_transaction_is_read(store: Path) -> None:
    found = commits(store)
    assert len(found) == 5
    assert found[-1].total == len(pages_by_sqlite(store))
    frames = (log_of(store).stat().st_size - HEADER_BYTES) // FRAME_BYTES
    assert found[-1].end.frame == frames == sum(len(commit.pages) for commit in found)
    expected = pages_by_sqlite(store)
    for page, content in pages_in_log(store).items():
        assert expected[page] == content


def test_one_may_go_on_from_any_transaction(store: Path) -> None:
    found = commits(store)
    with open_log(store) as log:
        for number, commit in enumerate(found):
            assert log.holds(commit.end)
            assert log.reaches(commit.end)
            assert list(log.commits_after(commit.end)) == found[number + 1 :]


def test_the_log_ends_where_sqlite_ends_it(store: Path) -> None:
    """Wherever it is cut off or altered, as many transactions are found as SQLite recovers."""
    whole = log_of(store).read_bytes()
    for place in range(HEADER_BYTES, len(whole), 997):
        for damaged in (whole[:place], altered(whole, place)):
            log_of(store).write_bytes(damaged)
            store.with_name("store.db-shm").unlink(missing_ok=True)
            assert len(commits(store)) == transactions_by_sqlite(store), place


def test_what_is_overwritten_is_not_held_and_the_rest_is(
    db: sqlite3.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "live.db"
    before = header_of(path)
    with open_log(path) as log:
        old = list(log.commits_after(before.start))
        db.execute("pragma wal_checkpoint").fetchone()
        db.execute("delete from t where id = 1")
        after = log.header()
        assert after is not None
        assert before.start.precedes(after.start.salts)
        assert not before.start.precedes(before.start.salts)
        held = [log.holds(commit.end) for commit in old]
        assert held == sorted(held)  # from the front
        assert (held[0], held[-1]) == (False, True)
        assert [commit.end.salts for commit in log.commits_after(after.start)] == [
            after.start.salts
        ]
        assert list(log.commits_after(old[-2].end)) == old[-1:]
        assert not log.is_first_run()


def test_a_new_log_is_in_its_first_run(store: Path) -> None:
    with open_log(store) as log:
        assert log.is_first_run()


@pytest.mark.parametrize("content", [None, b"", b"\x37\x7f", bytes(32), bytes(5000)])
def test_without_a_header_there_is_nothing(store: Path, content: bytes | None) -> None:
    log_of(store).unlink()
    if content is not None:
        log_of(store).write_bytes(content)
    with open_log(store) as log:
        assert log.header() is None


def test_a_bit_flipped_in_the_header_is_damage(store: Path) -> None:
    """SQLite would take the log for empty."""
    whole = log_of(store).read_bytes()
    for bit in range(HEADER_BYTES * 8):
        log_of(store).write_bytes(altered(whole, bit // 8, 1 << bit % 8))
        with open_log(store) as log, pytest.raises(LogDamaged):
            log.header()


def test_a_link_is_no_log(store: Path) -> None:
    log_of(store).rename(store.with_name("elsewhere"))
    log_of(store).symlink_to(store.with_name("elsewhere"))
    with pytest.raises(LogDamaged), open_log(store):
        pass


def test_a_log_of_a_machine_with_other_words_is_read(store: Path) -> None:
    """Its checksums add up numbers of the other byte order; SQLite reads it too."""
    log_of(store).write_bytes(with_other_words(log_of(store).read_bytes()))
    store.with_name("store.db-shm").unlink()
    assert len(commits(store)) == 5
    assert transactions_by_sqlite(store) == 5


def test_the_index_names_the_last_frame(store: Path) -> None:
    last = commits(store)[-1].end
    assert ends_in_index(store) == {(last.salts, last.frame)}


@pytest.mark.parametrize("bit", range(0, 48 * 8, 5))
def test_a_copy_in_the_index_counts_only_if_its_checksum_is_right(store: Path, bit: int) -> None:
    index = store.with_name("store.db-shm")
    whole = ends_in_index(store)
    index.write_bytes(altered(index.read_bytes(), bit // 8, 1 << bit % 8))
    assert ends_in_index(store) == whole, "the other copy"
    index.write_bytes(altered(index.read_bytes(), 48 + bit // 8, 1 << bit % 8))
    assert ends_in_index(store) == set()


def test_a_writer_killed_between_its_two_notes_leaves_two_ends(
    db: sqlite3.Connection, store: Path, tmp_path: Path
) -> None:
    before = commits(store)[-1].end
    db.execute("insert into t (v) values (?)", (bytes(6000),))
    shutil.copyfile(tmp_path / "live.db-wal", log_of(store))
    newer = (tmp_path / "live.db-shm").read_bytes()
    index = store.with_name("store.db-shm")
    index.write_bytes(index.read_bytes()[:48] + newer[48:])
    after = commits(store)[-1].end
    assert after.frame > before.frame
    assert ends_in_index(store) == {(end.salts, end.frame) for end in (before, after)}


def test_an_index_that_is_cut_off_or_missing_names_less(store: Path) -> None:
    index = store.with_name("store.db-shm")
    for size, ends in ((95, 1), (48, 1), (47, 0), (3, 0), (0, 0)):
        index.write_bytes(index.read_bytes()[:size])
        assert len(ends_in_index(store)) == ends
    index.unlink()
    assert ends_in_index(store) == set()


def altered(content: bytes, place: int, mask: int = 0x10) -> bytes:
    changed = bytearray(content)
    changed[place] ^= mask
    return bytes(changed)


def with_other_words(log: bytes) -> bytes:
    """Return the log as a machine of the other byte order would have written it."""
    (magic,) = struct.unpack_from(">I", log)
    order = "<" if magic & 1 else ">"

    def summed(start: tuple[int, int], content: bytes) -> tuple[int, int]:
        first, second = start
        words = struct.unpack(f"{order}{len(content) // 4}I", content)
        for one, two in zip(words[::2], words[1::2], strict=True):
            first = (first + one + second) & 0xFFFFFFFF
            second = (second + two + first) & 0xFFFFFFFF
        return first, second

    header = struct.pack(">I", magic ^ 1) + log[4:24]
    checksum = summed((0, 0), header)
    parts = [header, struct.pack(">II", *checksum)]
    for start in range(HEADER_BYTES, len(log), FRAME_BYTES):
        frame = log[start : start + FRAME_BYTES]
        checksum = summed(summed(checksum, frame[:8]), frame[24:])
        parts += [frame[:16], struct.pack(">II", *checksum), frame[24:]]
    return b"".join(parts)
