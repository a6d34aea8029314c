"""The device row: read from live, killed and damaged stores without leaving a trace."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm_whatsapp.sessions.device_row import (
    DeviceRow,
    StoreBusy,
    StoreCorrupt,
    StoreUnreadable,
    read_device_row,
)
from tests.unit.sessions.processes import lines, running
from tests.unit.sessions.store_files import JID, LID, device_values, fill_store, write_store

ROW = DeviceRow(jid=JID, lid=LID, push_name="Loja", platform="android")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "session" / "store.db"


def snapshot(store: Path) -> dict[str, bytes]:
    return {name: (store.parent / name).read_bytes() for name in os.listdir(store.parent)}


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_the_row_of_a_closed_store_is_read_without_a_trace(store: Path, journal_mode: str) -> None:
    write_store(store, device_values(), journal_mode=journal_mode)
    before = snapshot(store)
    assert read_device_row(store, quick_check=True) == ROW
    assert snapshot(store) == before
    assert list(before) == ["store.db"]


def test_a_store_without_device_is_none(store: Path) -> None:
    write_store(store)
    assert read_device_row(store) is None


def test_an_empty_file_and_an_empty_database_are_none(store: Path) -> None:
    store.parent.mkdir()
    store.touch()
    assert read_device_row(store) is None
    with closing(sqlite3.connect(store)) as db:
        db.execute("vacuum")
    assert read_device_row(store) is None


def test_no_store_is_told_apart(store: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_device_row(store)


def test_empty_texts_are_none(store: Path) -> None:
    write_store(store, device_values(lid=None, push_name="", platform=""))
    assert read_device_row(store) == DeviceRow(jid=JID, lid=None, push_name=None, platform=None)


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        ([device_values(), device_values("5511999990002:1@s.whatsapp.net")], "more than one"),
        ([device_values("nobody")], "no valid jid"),
        ([device_values("")], "no valid jid"),
        ([device_values(lid="1@s.whatsapp.net")], "no valid lid"),
        ([device_values(jid=b"\xff\xfe")], "no valid jid"),
        ([device_values(noise_key=b"short")], "noise_key"),
        ([device_values(identity_key=bytes(33))], "identity_key"),
        ([device_values(adv_device_sig=b"")], "adv_device_sig"),
        ([device_values(platform=b"\x01" * 3, signed_pre_key_sig="x")], "signed_pre_key_sig"),
    ],
)
def test_an_unusable_row_is_corrupt(
    store: Path, devices: list[dict[str, object]], reason: str
) -> None:
    write_store(store, *devices)
    with pytest.raises(StoreCorrupt, match=reason):
        read_device_row(store)


def test_another_database_is_corrupt(store: Path) -> None:
    store.parent.mkdir()
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("create table notes (text)")
    with pytest.raises(StoreCorrupt, match="whatsmeow_device"):
        read_device_row(store)


def test_an_older_schema_without_lid_is_read(store: Path) -> None:
    write_store(store, device_values())
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("alter table whatsmeow_device drop column lid")
    row = read_device_row(store)
    assert row is not None
    assert (row.jid, row.lid) == (JID, None)


def test_a_table_of_another_shape_is_corrupt(store: Path) -> None:
    write_store(store, device_values())
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("alter table whatsmeow_device drop column noise_key")
    with pytest.raises(StoreCorrupt, match="noise_key"):
        read_device_row(store)


def test_only_a_regular_file_is_opened(store: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "elsewhere.db", device_values())
    store.parent.mkdir()
    store.symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(StoreCorrupt, match="regular file"):
        read_device_row(store)
    store.unlink()
    store.mkdir()
    with pytest.raises(StoreCorrupt, match="regular file"):
        read_device_row(store)


def test_a_path_that_the_disk_refuses_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnreadable):
        read_device_row(tmp_path / "file" / "store.db")


WRITER = """
import sqlite3, sys
sys.path.insert(0, "tests/unit/sessions")
from store_files import device_values, fill_store
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma journal_mode = " + sys.argv[2])
db.execute("pragma cache_size = 2")
db.execute("begin"); fill_store(db, device_values()); db.execute("commit")
if sys.argv[3] == "busy":
    db.execute("begin")
    db.execute("update whatsmeow_device set jid = 'gone'")
    for number in range(2000):
        db.execute("insert into whatsmeow_pre_keys values ('x', ?, zeroblob(500))", (number,))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_a_live_store_is_read(store: Path, journal_mode: str) -> None:
    store.parent.mkdir()
    with running(WRITER, store, journal_mode, "idle") as process:
        assert lines(process, 1) == ["ready"]
        before = snapshot(store)
        assert read_device_row(store, quick_check=True) == ROW
        assert {name for name in before if not name.endswith("-shm")} <= set(snapshot(store))
        assert snapshot(store)["store.db"] == before["store.db"]


def test_an_open_transaction_in_wal_mode_is_not_seen(store: Path) -> None:
    store.parent.mkdir()
    with running(WRITER, store, "wal", "busy") as process:
        assert lines(process, 1) == ["ready"]
        assert read_device_row(store) == ROW


def test_a_writer_in_delete_mode_makes_it_busy(store: Path) -> None:
    store.parent.mkdir()
    with running(WRITER, store, "delete", "busy") as process:
        assert lines(process, 1) == ["ready"]
        with pytest.raises(StoreBusy):
            read_device_row(store, busy_timeout_seconds=0.05)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_the_store_of_a_killed_engine_shows_what_was_committed(
    store: Path, journal_mode: str
) -> None:
    store.parent.mkdir()
    with running(WRITER, store, journal_mode, "busy") as process:
        assert lines(process, 1) == ["ready"]
        process.kill()
        process.wait(timeout=30)
    before = snapshot(store)
    assert len(before) > 1
    assert read_device_row(store, quick_check=True) == ROW
    after = snapshot(store)
    assert set(after) == set(before)
    assert after["store.db"] == before["store.db"]


def whole_store() -> bytes:
    with closing(sqlite3.connect(":memory:")) as db:
        fill_store(db, device_values())
        db.commit()
        return db.serialize()


WHOLE = whole_store()


def outcome(store: Path, content: bytes) -> DeviceRow | type[Exception] | None:
    store.parent.mkdir(exist_ok=True)
    store.write_bytes(content)
    try:
        return read_device_row(store, quick_check=True)
    except (StoreCorrupt, StoreUnreadable) as exc:
        return type(exc)


@given(content=st.binary(max_size=2000), headed=st.booleans())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_arbitrary_bytes_never_hold_a_device(store: Path, content: bytes, headed: bool) -> None:
    found = outcome(store, (WHOLE[:100] if headed else b"") + content)
    assert not isinstance(found, DeviceRow)
    assert os.listdir(store.parent) == ["store.db"]


@given(cut=st.integers(min_value=1, max_value=len(WHOLE) - 1))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_truncated_store_is_never_valid(store: Path, cut: int) -> None:
    assert outcome(store, WHOLE[:cut]) in (StoreCorrupt, StoreUnreadable)


@given(
    page=st.integers(min_value=0, max_value=len(WHOLE) // 4096 - 1),
    filler=st.sampled_from([0x00, 0xFF, 0x5A]),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_store_with_a_lost_page_is_never_valid(store: Path, page: int, filler: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[page * 4096 : (page + 1) * 4096] = bytes([filler]) * 4096
    assert not isinstance(outcome(store, bytes(damaged)), DeviceRow)


@given(
    flips=st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), min_size=1, max_size=8
    )
)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_flipped_bits_raise_nothing_unexpected(store: Path, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(WHOLE)
    for position, mask in flips:
        damaged[position] ^= mask
    found = outcome(store, bytes(damaged))
    assert not isinstance(found, DeviceRow) or found.jid.endswith("@s.whatsapp.net")
