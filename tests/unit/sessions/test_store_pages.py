"""A store is what was written to it, to the bit, or said not to be: whatever ended its client."""

import random
import shutil
import sqlite3
import stat
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crm_whatsapp.domain.folders import Credentials, FolderState
from crm_whatsapp.domain.snapshots import StoreUnfit
from crm_whatsapp.sessions.page_record import FILE_NAME, PageRecord, read_record, write_record
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.store_copier import SqliteStoreCopier
from crm_whatsapp.sessions.store_log import settle_store, settle_stores
from crm_whatsapp.sessions.store_pages import StorePages
from tests.unit.sessions.processes import lines, running
from tests.unit.sessions.real_stores import JID, fresh_store
from tests.unit.sessions.writing_client import (
    Preserved,
    flip,
    new_store,
    verdict,
    writing,
)

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
SAVED = Credentials(
    company_id=COMPANY,
    jid=JID,
    lid=None,
    push_name="Ana",
    platform="android",
    paired_at=datetime(2026, 1, 8, tzinfo=UTC),
    epoch=1,
)
NAME_CHANGER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
for name in sys.stdin:
    db.execute("update whatsmeow_device set push_name = ?", (name.strip(),))
    db.commit()
    print("written", flush=True)
"""


SQL_CLIENT = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for sql in sys.stdin:
    db.execute(sql).fetchall()
    print("done", flush=True)
"""
CHANGE_NAME = "update whatsmeow_device set push_name = '{}'"


@pytest.fixture
def folders(tmp_path: Path) -> LocalSessionFolders:
    made = LocalSessionFolders(tmp_path)
    made.prepare_root()
    made.prepare(COMPANY)
    fresh_store(made.store_path(COMPANY), one_time_keys=10)
    made.write_credentials(SAVED)
    return made


@pytest.fixture
def session(folders: LocalSessionFolders) -> Path:
    return folders.session_path(COMPANY)


@pytest.fixture
def pages() -> StorePages:
    return StorePages()


def state(folders: LocalSessionFolders) -> FolderState:
    """Return what a new service finds."""
    return LocalSessionFolders(folders.root).inspect(COMPANY).state


def run_client(folders: LocalSessionFolders, *names: str) -> None:
    """Let a client start, write these names one by one, each seen by the service, and be killed."""
    folders.keep_before_start(COMPANY)
    with running(NAME_CHANGER, folders.store_path(COMPANY)) as client:
        assert client.stdin is not None
        for name in names:
            client.stdin.write(f"{name}\n")
            client.stdin.flush()
            assert lines(client, 1) == ["written"]
            folders.pages.look(folders.session_path(COMPANY))


def stop_cleanly(folders: LocalSessionFolders) -> Path:
    path = folders.store_path(COMPANY)
    assert settle_stores([path], 5.0, pages=folders.pages) == []
    return path


def record_of(session: Path) -> PageRecord:
    record = read_record(session)
    assert record is not None
    return record


def place_of(path: Path, value: bytes) -> int:
    """Return the first bit of a value that is in the file once."""
    content = path.read_bytes()
    assert content.count(value) == 1
    return content.index(value) * 8


def one_time_key(path: Path) -> bytes:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return bytes(
            db.execute("select key from whatsmeow_pre_keys where key_id = 7").fetchone()[0]
        )


# --- a store at rest


def test_what_a_clean_stop_left_is_valid(folders: LocalSessionFolders, session: Path) -> None:
    run_client(folders, "Bia")
    stop_cleanly(folders)
    assert state(folders) is FolderState.VALID
    assert stat.S_IMODE((session / FILE_NAME).stat().st_mode) == 0o600


def test_a_bit_flipped_anywhere_after_a_clean_stop_is_found(folders: LocalSessionFolders) -> None:
    path = stop_cleanly(folders)
    seed = random.randrange(2**32)  # noqa: S311
    places = random.Random(seed)  # noqa: S311
    for _ in range(200):
        bit = places.randrange(path.stat().st_size * 8)
        flip(path, bit)
        assert state(folders) is FolderState.CORRUPT, f"bit {bit}, seed {seed}"
        flip(path, bit)
    assert state(folders) is FolderState.VALID


def test_a_clean_stop_does_not_take_a_flipped_bit_for_content(
    folders: LocalSessionFolders,
) -> None:
    run_client(folders, "Bia")
    path = folders.store_path(COMPANY)
    flip(path, place_of(path, one_time_key(path)))
    for _ in range(2):
        stop_cleanly(folders)
        assert not path.with_name("store.db-wal").exists()
        assert state(folders) is FolderState.CORRUPT


def test_a_fold_that_was_cut_off_is_no_damage(folders: LocalSessionFolders, session: Path) -> None:
    run_client(folders, "Bia")
    with folders.pages.turn(session):
        folders.pages.close(session)
    assert state(folders) is FolderState.VALID
    settle_store(folders.store_path(COMPANY))
    assert not (session / "store.db-wal").exists()
    assert state(folders) is FolderState.VALID
    run_client(folders, "Caio")
    assert state(folders) is FolderState.VALID


# --- after a kill


def test_a_bit_flipped_in_a_value_after_a_kill_is_found(folders: LocalSessionFolders) -> None:
    run_client(folders, "Bia", "Caio")
    path = folders.store_path(COMPANY)
    assert path.with_name("store.db-wal").stat().st_size > 0
    bit = place_of(path, one_time_key(path))
    assert state(folders) is FolderState.VALID
    flip(path, bit)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert state(folders) is FolderState.CORRUPT
    flip(path, bit)
    assert state(folders) is FolderState.VALID


@pytest.mark.parametrize("name", ["Aaaaaa", "Bbbbbb", "Cccccc"])
def test_a_bit_flipped_in_the_log_is_found_where_it_hides_what_was_written(
    folders: LocalSessionFolders, session: Path, name: str
) -> None:
    """SQLite itself would go on from the transaction before, and say nothing."""
    run_client(folders, "Aaaaaa", "Bbbbbb", "Cccccc")
    log = session / "store.db-wal"
    flip(log, log.read_bytes().index(name.encode()) * 8)
    assert state(folders) is FolderState.CORRUPT
    assert state(folders) is FolderState.CORRUPT  # also once SQLite has had a look


def test_a_bit_flipped_in_the_last_transaction_is_found_though_no_look_saw_it(
    folders: LocalSessionFolders, session: Path
) -> None:
    folders.keep_before_start(COMPANY)
    with running(NAME_CHANGER, folders.store_path(COMPANY)) as client:
        assert client.stdin is not None
        client.stdin.write("Zelia\n")
        client.stdin.flush()
        assert lines(client, 1) == ["written"]
    log = session / "store.db-wal"
    flip(log, log.read_bytes().index(b"Zelia") * 8)
    for _ in range(2):
        assert state(folders) is FolderState.CORRUPT


def test_a_bit_flipped_in_the_log_before_the_record_is_found(
    folders: LocalSessionFolders, session: Path
) -> None:
    """SQLite reads the log up to the damage, over a file that has everything: an old name again."""
    other_page = "update whatsmeow_pre_keys set uploaded = not uploaded where key_id = 1"
    with running(SQL_CLIENT, folders.store_path(COMPANY)) as client:
        assert client.stdin is not None

        def run(sql: str) -> None:
            assert client.stdin is not None
            client.stdin.write(f"{sql}\n")
            client.stdin.flush()
            assert lines(client, 1) == ["done"]

        run(CHANGE_NAME.format("Aaaaaa"))
        first_frames = (session / "store.db-wal").stat().st_size
        run(other_page)
        (session / FILE_NAME).unlink(missing_ok=True)
        with folders.pages.turn(session):
            folders.pages.complete(session)
        assert record_of(session).position is not None
        run(CHANGE_NAME.format("Cccccc"))
        run("pragma wal_checkpoint(passive)")
    assert state(folders) is FolderState.VALID
    flip(session / "store.db-wal", (first_frames + 24 + 100) * 8)
    assert state(folders) is FolderState.CORRUPT


@pytest.mark.parametrize("cut", [1, 4096, 4097, 4119])
def test_a_torn_end_of_the_log_is_no_damage(
    folders: LocalSessionFolders, session: Path, cut: int
) -> None:
    """What a kill in the midst of a write leaves, and what lay there before."""
    run_client(folders, "Bia")
    log = session / "store.db-wal"
    whole = log.read_bytes()
    frame = whole[-4120:]
    for rest in (b"", bytes(4096), frame[24:]):
        log.write_bytes(whole + (frame[:24] + rest)[:cut])
        assert state(folders) is FolderState.VALID


def test_without_a_look_since_the_start_everything_is_told_from_the_log(tmp_path: Path) -> None:
    session = tmp_path / "session"
    path = new_store(session)
    pages = StorePages()
    with pages.turn(session):
        pages.prepare(session)
    with writing(path, seed=1) as client:
        client.write(40)
    assert verdict(session) is None
    preserved = Preserved(session)
    dice = random.Random(1)  # noqa: S311
    for _ in range(20):
        preserved.flip("store.db", dice.randrange(4096 * 8))
        assert verdict(session) is None  # the log has a newer first page


# --- what is not there, or not ours


@pytest.mark.parametrize(
    "content", [None, b"", b"crm_whatsapp pages 2\n" + bytes(200), b"crm_whatsapp pages 1\n{"]
)
def test_without_a_whole_record_of_this_release_a_store_is_accepted(
    folders: LocalSessionFolders, session: Path, content: bytes | None
) -> None:
    """An older release kept a hash in store.sha256, or nothing."""
    stop_cleanly(folders)
    (session / "store.sha256").write_text("0" * 64)
    if content is None:
        (session / FILE_NAME).unlink()
    else:
        (session / FILE_NAME).write_bytes(content)
    assert state(folders) is FolderState.VALID
    folders.keep_before_start(COMPANY)
    assert record_of(session).pages == folders.store_path(COMPANY).stat().st_size // 4096


def test_a_bit_flipped_in_the_record_is_no_damage_to_the_store(
    folders: LocalSessionFolders, session: Path
) -> None:
    stop_cleanly(folders)
    record = session / FILE_NAME
    for bit in range(0, record.stat().st_size * 8, 7):
        flip(record, bit)
        assert state(folders) is FolderState.VALID, bit
        flip(record, bit)


def test_a_store_with_a_rollback_journal_has_no_record(tmp_path: Path, pages: StorePages) -> None:
    """Nothing tells which of its pages were written. Clients get it switched before they start."""
    session = tmp_path / "session"
    path = new_store(session)
    with closing(sqlite3.connect(path)) as db:
        db.execute("pragma journal_mode = delete")
    with pages.turn(session):
        pages.prepare(session)
    assert read_record(session) is None


def test_a_store_folded_by_other_hands_is_accepted_and_recorded_anew(
    folders: LocalSessionFolders, session: Path
) -> None:
    run_client(folders, "Bia")
    with closing(sqlite3.connect(folders.store_path(COMPANY))) as db, db:
        db.execute("update whatsmeow_device set push_name = 'by hand'")
    assert not (session / "store.db-wal").exists()
    assert state(folders) is FolderState.VALID
    folders.keep_before_start(COMPANY)
    path = folders.store_path(COMPANY)
    flip(path, place_of(path, b"by hand"))
    assert state(folders) is FolderState.CORRUPT


# --- other places


def test_a_copied_folder_is_valid_and_still_protected(
    folders: LocalSessionFolders, session: Path, tmp_path: Path
) -> None:
    run_client(folders, "Bia")
    other = LocalSessionFolders(tmp_path / "other")
    other.prepare_root()
    shutil.copytree(session, other.session_path(COMPANY))
    path = other.store_path(COMPANY)
    bit = place_of(path, one_time_key(path))
    flip(path, bit)
    assert state(other) is FolderState.CORRUPT
    flip(path, bit)
    assert state(other) is FolderState.VALID
    run_client(other, "Caio")
    assert state(other) is FolderState.VALID
    flip(path, bit)
    assert state(other) is FolderState.CORRUPT


@pytest.mark.parametrize("left_bytes", [0, 32, 32 + 4120, 32 + 4120 + 100])
def test_what_a_power_cut_took_from_the_log_is_no_damage(
    folders: LocalSessionFolders, session: Path, left_bytes: int
) -> None:
    """The client does not sync its log. Another boot of the machine tells."""
    run_client(folders, "Bia", "Caio", "Davi")
    write_record(session, replace(record_of(session), place="an earlier boot"))
    log = session / "store.db-wal"
    log.write_bytes(log.read_bytes()[:left_bytes])
    assert state(folders) is FolderState.VALID
    run_client(folders, "Eva")
    assert state(folders) is FolderState.VALID
    path = folders.store_path(COMPANY)
    flip(path, place_of(path, one_time_key(path)))
    assert state(folders) is FolderState.CORRUPT


def test_a_hole_in_the_log_after_a_power_cut_is_no_damage(
    folders: LocalSessionFolders, session: Path
) -> None:
    run_client(folders, "Bia", "Caio", "Davi")
    log = session / "store.db-wal"
    content = bytearray(log.read_bytes())
    content[32 + 4120 : 32 + 2 * 4120] = bytes(4120)
    log.write_bytes(content)
    assert state(folders) is FolderState.CORRUPT
    write_record(session, replace(record_of(session), place="an earlier boot"))
    assert state(folders) is FolderState.VALID
    run_client(folders, "Eva")
    assert state(folders) is FolderState.VALID


def test_the_copy_of_before_the_start_brings_its_record(
    folders: LocalSessionFolders, session: Path
) -> None:
    run_client(folders, "Bia")
    run_client(folders, "Caio", "Davi")
    assert folders.put_back(COMPANY)
    assert state(folders) is FolderState.VALID
    run_client(folders, "Eva")
    folders.put_back(COMPANY)
    path = folders.store_path(COMPANY)
    flip(path, place_of(path, one_time_key(path)))
    assert state(folders) is FolderState.CORRUPT
    assert stat.S_IMODE((session / FILE_NAME).stat().st_mode) == 0o600


# --- snapshots


def test_a_flipped_bit_gets_into_no_snapshot(folders: LocalSessionFolders, session: Path) -> None:
    copier = SqliteStoreCopier(folders, pages=folders.pages)
    folders.keep_before_start(COMPANY)
    path = folders.store_path(COMPANY)
    bit = place_of(path, one_time_key(path))
    with running(NAME_CHANGER, path) as client:
        assert client.stdin is not None
        client.stdin.write("Bia\n")
        client.stdin.flush()
        assert lines(client, 1) == ["written"]
        whole = copier.copy(COMPANY)
        flip(path, bit)
        with pytest.raises(StoreUnfit) as caught:
            copier.copy(COMPANY)
        assert caught.value.details["reason"] == "damaged"
        flip(path, bit)
        assert copier.copy(COMPANY) == whole
        flip(log := session / "store.db-wal", log.read_bytes().index(b"Bia") * 8)
        with pytest.raises(StoreUnfit):
            copier.copy(COMPANY)


def test_copies_of_a_store_that_is_written_are_never_refused(tmp_path: Path) -> None:
    folders = LocalSessionFolders(tmp_path)
    folders.prepare_root()
    folders.prepare(COMPANY)
    fresh_store(folders.store_path(COMPANY), one_time_keys=10)
    folders.write_credentials(SAVED)
    folders.keep_before_start(COMPANY)
    copier = SqliteStoreCopier(folders, pages=folders.pages)
    done = threading.Event()
    found: list[FolderState] = []

    def inspect_all_the_time() -> None:
        while not done.is_set():
            found.append(folders.inspect(COMPANY).state)

    # Reading the index of the log in one thread takes no lock away from SQLite in the other.
    inspecting = threading.Thread(target=inspect_all_the_time)
    inspecting.start()
    try:
        with writing(folders.store_path(COMPANY), seed=3, checkpoint_frames=50) as client:
            for number in range(40):
                client.order(8)
                copier.copy(COMPANY)
                copier.fingerprint(COMPANY)
                if number % 3 == 0:
                    folders.pages.look(folders.session_path(COMPANY))
                client.await_written()
    finally:
        done.set()
        inspecting.join()
    assert len(found) > 10
    assert set(found) == {FolderState.VALID}


# --- cost and obstacles


def test_an_idle_store_costs_no_write(folders: LocalSessionFolders, session: Path) -> None:
    run_client(folders, "Bia")
    before = (session / FILE_NAME).stat()
    for _ in range(5):
        folders.pages.look(session)
    after = (session / FILE_NAME).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_few_changes_cost_no_write_and_many_cost_one(tmp_path: Path, pages: StorePages) -> None:
    session = tmp_path / "session"
    path = new_store(session)
    with pages.turn(session):
        pages.prepare(session)
    written = set()
    frames = []
    with writing(path, seed=2, checkpoint_frames=100_000) as client:
        for _ in range(60):
            client.write(1)
            pages.look(session)
            record = record_of(session)
            assert record.position is not None
            written.add(record.position.frame)
            frames.append(record.position.frame)
    assert frames == sorted(frames)
    assert len(written) <= 2 + frames[-1] / 64


def test_a_record_that_cannot_be_written_stops_nothing(
    folders: LocalSessionFolders, session: Path
) -> None:
    obstacle = session / f".{FILE_NAME}.tmp"
    obstacle.mkdir()
    run_client(folders, "Bia")
    assert read_record(session) is None
    assert state(folders) is FolderState.VALID
    stop_cleanly(folders)
    assert state(folders) is FolderState.VALID
    obstacle.rmdir()
    run_client(folders, "Caio")
    assert read_record(session) is not None
    assert state(folders) is FolderState.VALID


def test_a_record_that_a_clean_stop_cannot_renew_is_removed(
    folders: LocalSessionFolders, session: Path
) -> None:
    run_client(folders, "Bia")
    stop_cleanly(folders)
    obstacle = session / f".{FILE_NAME}.tmp"
    obstacle.mkdir()
    run_client(folders, "Caio")
    stop_cleanly(folders)
    assert not (session / "store.db-wal").exists()
    assert state(folders) is FolderState.VALID


def test_folding_in_a_damaged_log_hides_nothing(
    folders: LocalSessionFolders, session: Path
) -> None:
    """SQLite leaves out what comes after the damage."""
    run_client(folders, "Bia", "Caio")
    log = session / "store.db-wal"
    flip(log, log.read_bytes().index(b"Caio") * 8)
    stop_cleanly(folders)
    assert not log.exists()
    assert state(folders) is FolderState.CORRUPT


def test_a_log_that_lacks_what_was_committed_is_not_folded_in(
    folders: LocalSessionFolders, session: Path
) -> None:
    run_client(folders, "Bia")
    log = session / "store.db-wal"
    flip(log, (32 + 8) * 8)  # the salts of its only frame
    ((path, why),) = settle_stores([folders.store_path(COMPANY)], 5, pages=folders.pages)
    assert path == folders.store_path(COMPANY)
    assert "damaged" in why
    assert log.stat().st_size
    assert state(folders) is FolderState.CORRUPT


def test_a_look_does_not_wait_for_who_has_the_store_open(
    folders: LocalSessionFolders, session: Path
) -> None:
    run_client(folders, "Bia")
    (session / FILE_NAME).unlink()
    with folders.pages.turn(session):
        folders.pages.look(session)
    assert read_record(session) is None
    folders.pages.look(session)
    assert read_record(session) is None  # its log has not changed since
