"""Copies are whole whatever a writer or a kill does, and a store in use stays as it is."""

import os
import pickle
import sqlite3
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.folders import Credentials, FolderState
from crm_whatsapp.domain.ports import StoreCopier
from crm_whatsapp.domain.snapshots import StoreCopy, StoreFingerprint, StoreUnfit
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.store_copier import SqliteStoreCopier
from tests.unit.sessions.processes import lines, run, running
from tests.unit.sessions.real_stores import JID, LID, add_sessions, change, fresh_store

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SAVED = Credentials(
    company_id=COMPANY,
    jid=JID,
    lid=LID,
    push_name="Loja",
    platform="android",
    paired_at=NOON,
    epoch=7,
)
OTHER_JID = "5511999990002:1@s.whatsapp.net"


@pytest.fixture
def folders(tmp_path: Path) -> LocalSessionFolders:
    folders = LocalSessionFolders(tmp_path / "sessions")
    folders.prepare_root()
    return folders


@pytest.fixture
def copier(folders: LocalSessionFolders) -> SqliteStoreCopier:
    return SqliteStoreCopier(folders)


@pytest.fixture
def store(folders: LocalSessionFolders) -> Path:
    """A paired session at rest."""
    folders.prepare(COMPANY)
    path = folders.store_path(COMPANY)
    fresh_store(path)
    folders.write_credentials(SAVED)
    return path


def rows(database: bytes, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(database[:18] + b"\x01\x01" + database[20:])
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        return db.execute(query).fetchall()


def contents(path: Path) -> dict[str, bytes]:
    return {other.name: other.read_bytes() for other in path.parent.iterdir()}


def reason_of(copier: SqliteStoreCopier) -> str:
    with pytest.raises(StoreUnfit) as caught:
        copier.copy(COMPANY)
    return str(caught.value.details["reason"])


# --- out of a folder


def test_it_is_what_the_service_asks_for(copier: SqliteStoreCopier, store: Path) -> None:
    port: StoreCopier = copier
    copy = port.copy(COMPANY)
    assert copy.credentials == SAVED
    assert rows(copy.database, "select jid from whatsmeow_device") == [(JID,)]
    assert rows(copy.database, "select count(*) from whatsmeow_pre_keys") == [(812,)]


def test_a_store_at_rest_is_left_as_it_is(copier: SqliteStoreCopier, store: Path) -> None:
    before, changed = contents(store), store.stat().st_mtime_ns
    copier.copy(COMPANY)
    copier.fingerprint(COMPANY)
    assert contents(store) == before
    assert sorted(before) == ["creds.json", "store.db"]
    assert store.stat().st_mtime_ns == changed


WRITER = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
db.execute("pragma journal_mode=" + sys.argv[2])
db.execute("pragma wal_autocheckpoint=50")
db.execute("update whatsmeow_version set version = 0")
number = 0
while True:
    number += 1
    db.execute("begin immediate")
    db.execute("insert into whatsmeow_sessions select jid, ?, ? from whatsmeow_device",
               (str(number), os.urandom(900)))
    db.execute("delete from whatsmeow_sessions where their_id = ?", (str(number - 200),))
    db.execute("update whatsmeow_version set version = ?", (number,))
    db.execute("commit")
    if number == 300:
        print("writing", flush=True)
"""
CONSISTENT = """
select version, (select count(*) from whatsmeow_sessions),
    (select max(cast(their_id as integer)) from whatsmeow_sessions) from whatsmeow_version
"""


def test_copies_of_a_store_being_written_are_whole(copier: SqliteStoreCopier, store: Path) -> None:
    seen = []
    with running(WRITER, store, "wal") as writer:
        assert lines(writer, 1) == ["writing"]
        for _ in range(60):
            [(version, count, newest)] = rows(copier.copy(COMPANY).database, CONSISTENT)
            copier.fingerprint(COMPANY)
            assert (count, newest) == (200, version)
            seen.append(version)
        assert writer.poll() is None
    assert seen == sorted(seen)
    assert len(set(seen)) > 5, "the writer did not write meanwhile"


def test_with_a_rollback_journal_a_copy_is_whole_or_busy(
    folders: LocalSessionFolders, store: Path
) -> None:
    copier = SqliteStoreCopier(folders, busy_timeout_seconds=1.0)
    copies = 0
    with running(WRITER, store, "delete") as writer:
        assert lines(writer, 1) == ["writing"]
        for _ in range(20):
            began = time.monotonic()
            try:
                [(version, count, newest)] = rows(copier.copy(COMPANY).database, CONSISTENT)
            except StoreUnfit as error:
                assert error.details["reason"] == "busy"
            else:
                assert (count, newest) == (200, version)
                copies += 1
            assert time.monotonic() - began < 10
            if copies == 3:
                break
        assert writer.poll() is None
    assert copies == 3, "a copy is too seldom possible"


HOLDER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma journal_mode=" + sys.argv[2])
db.execute("pragma locking_mode=exclusive")
db.execute("begin exclusive")
db.execute("update whatsmeow_version set version = 5")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_store_that_is_never_let_go_is_busy(
    folders: LocalSessionFolders, store: Path, journal_mode: str
) -> None:
    copier = SqliteStoreCopier(folders, busy_timeout_seconds=0.05)
    with running(HOLDER, store, journal_mode) as holder:
        assert lines(holder, 1) == ["held"]
        began = time.monotonic()
        assert reason_of(copier) == "busy"
        with pytest.raises(StoreUnfit, match="in use"):
            copier.fingerprint(COMPANY)
        assert time.monotonic() - began < 10


KILLED = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma journal_mode=" + sys.argv[2])
db.execute("update whatsmeow_device set push_name = 'committed'")
db.execute("pragma cache_size=1")
db.execute("begin immediate")
db.execute("update whatsmeow_pre_keys set key = zeroblob(32)")
print("written", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_writer_committed_is_in_the_copy(
    copier: SqliteStoreCopier, store: Path
) -> None:
    with running(KILLED, store, "wal") as writer:
        assert lines(writer, 1) == ["written"]
    before = contents(store)
    copy = copier.copy(COMPANY)
    assert rows(copy.database, "select push_name from whatsmeow_device") == [("committed",)]
    zeroed = "select count(*) from whatsmeow_pre_keys where key = zeroblob(32)"
    assert rows(copy.database, zeroed) == [(0,)]
    after = contents(store)
    assert after["store.db"] == before["store.db"]
    assert after["store.db-wal"] == before["store.db-wal"]


def test_a_journal_of_a_killed_writer_is_left_to_the_next_start(
    copier: SqliteStoreCopier, store: Path
) -> None:
    with running(KILLED, store, "delete") as writer:
        assert lines(writer, 1) == ["written"]
    before = contents(store)
    assert "store.db-journal" in before
    assert reason_of(copier) == "unfinished"
    assert contents(store) == before


def test_before_creds_json_is_written_the_device_row_counts(
    copier: SqliteStoreCopier, folders: LocalSessionFolders, store: Path
) -> None:
    folders.remove_credentials(COMPANY)
    adopted = copier.copy(COMPANY).credentials
    changed_at = datetime.fromtimestamp(store.stat().st_mtime, UTC)
    assert adopted == replace(SAVED, epoch=0, paired_at=changed_at)


def second_device(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("create temp table one as select * from whatsmeow_device")
        db.execute("update one set jid = ?", (OTHER_JID,))
        db.execute("insert into whatsmeow_device select * from one")


def cut_off(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096)


def grow(path: Path) -> None:
    """Let the file claim 256 MiB and a page, without taking the room."""
    pages = 2**28 // 4096 + 1
    with path.open("r+b") as file:
        file.truncate(pages * 4096)
        file.seek(28)
        file.write(pages.to_bytes(4, "big"))


def test_every_unfit_store_is_refused(
    copier: SqliteStoreCopier, folders: LocalSessionFolders, store: Path
) -> None:
    sound = store.read_bytes()
    cases = {
        "no-device": lambda: change(store, "delete from whatsmeow_device"),
        "several-devices": lambda: second_device(store),
        "other-device": lambda: change(
            store,
            f"update whatsmeow_device set jid = '{OTHER_JID}'",  # noqa: S608
        ),
        "too-large": lambda: grow(store),
        "damaged": lambda: cut_off(store),
    }
    for reason, spoil in cases.items():
        store.write_bytes(sound)
        spoil()
        assert reason_of(copier) == reason
    for rubbish in (b"", b"x", b"not a database" * 1000, bytes(8192), sound[:1000]):
        store.write_bytes(rubbish)
        assert reason_of(copier) in ("damaged", "no-device")
    store.write_bytes(sound)
    change(store, "drop table whatsmeow_device")
    assert reason_of(copier) == "damaged"
    store.unlink()
    assert reason_of(copier) in ("missing", "damaged")
    folders.remove_credentials(COMPANY)
    assert reason_of(copier) == "missing"
    folders.remove(COMPANY)
    assert reason_of(copier) == "missing"


def test_a_flipped_bit_is_refused_or_harmless(copier: SqliteStoreCopier, store: Path) -> None:
    """In what SQLite itself has a meaning for: this store has no page record."""
    sound = store.read_bytes()
    for page in range(len(sound) // 4096):
        for offset in (0, 3, 8, 17):
            altered = bytearray(sound)
            altered[page * 4096 + offset] ^= 0x40
            store.write_bytes(altered)
            try:
                copy = copier.copy(COMPANY)
            except (StoreUnfit, StorageError):
                continue
            assert rows(copy.database, "select jid from whatsmeow_device") == [(JID,)]


def test_unusable_credentials_are_refused(copier: SqliteStoreCopier, store: Path) -> None:
    (store.parent / "creds.json").write_bytes(b"{")
    assert reason_of(copier) == "damaged"
    store.unlink()
    store.mkdir()
    assert reason_of(copier) == "damaged"
    store.rmdir()
    store.symlink_to(store.parent / "creds.json")
    assert reason_of(copier) == "damaged"


def test_a_link_for_a_folder_is_a_storage_error(
    copier: SqliteStoreCopier, store: Path, tmp_path: Path
) -> None:
    store.parent.rename(tmp_path / "outside")
    store.parent.symlink_to(tmp_path / "outside")
    with pytest.raises(StorageError):
        copier.copy(COMPANY)


def test_free_pages_full_of_old_keys_are_left_out(copier: SqliteStoreCopier, store: Path) -> None:
    add_sessions(store, 2000)
    add_up = "select count(*), max(their_id), sum(length(session)) from whatsmeow_sessions"
    change(store, "delete from whatsmeow_sessions where cast(their_id as integer) > 100")
    copy = copier.copy(COMPANY)
    assert len(copy.database) < store.stat().st_size / 2
    assert copy.database[18:20] == b"\x02\x02"
    with closing(sqlite3.connect(store)) as db:
        assert rows(copy.database, add_up) == db.execute(add_up).fetchall()


# --- fingerprints


IMPORTANT = [
    "update whatsmeow_device set push_name = 'Nova'",
    "update whatsmeow_device set signed_pre_key_id = 2",
    "delete from whatsmeow_pre_keys where key_id = 400",
    "update whatsmeow_pre_keys set uploaded = false where key_id = 812",
    "insert into whatsmeow_pre_keys select jid, 813, key, false from whatsmeow_pre_keys limit 1",
    "update whatsmeow_identity_keys set identity = zeroblob(32)",
    "insert into whatsmeow_app_state_sync_keys select jid, x'01', x'02', 3, x'' "
    "from whatsmeow_device",
    "insert into whatsmeow_app_state_version select jid, 'critical', 1, zeroblob(128) "
    "from whatsmeow_device",
]
RATCHETS = [
    "update whatsmeow_sessions set session = cast(substr(session, 1, 99) || x'01' as blob)",
    "update whatsmeow_sessions set session = null",
    "delete from whatsmeow_sessions",
    "insert into whatsmeow_sender_keys select jid, 'g', 's', x'00ff00' from whatsmeow_device",
]
NEITHER = [
    "insert into whatsmeow_contacts (our_jid, their_jid) select jid, 'c' from whatsmeow_device",
    "update whatsmeow_version set compat = 1",
]


def with_session(path: Path) -> None:
    change(
        path,
        "insert into whatsmeow_sessions select jid, 'x', zeroblob(100) from whatsmeow_device",
    )


@pytest.mark.parametrize(
    ("statement", "important", "ratchets"),
    [(each, True, False) for each in IMPORTANT]
    + [(each, False, True) for each in RATCHETS]
    + [(each, False, False) for each in NEITHER],
)
def test_a_change_shows_in_its_part(
    copier: SqliteStoreCopier, store: Path, statement: str, important: bool, ratchets: bool
) -> None:
    with_session(store)
    before = copier.fingerprint(COMPANY)
    change(store, statement)
    after = copier.fingerprint(COMPANY)
    assert (after.important != before.important) == important
    assert (after.ratchets != before.ratchets) == ratchets


def test_moving_bytes_between_values_shows(copier: SqliteStoreCopier, store: Path) -> None:
    change(
        store,
        "insert into whatsmeow_sender_keys select jid, 'ab', 'c', x'64' from whatsmeow_device",
    )
    before = copier.fingerprint(COMPANY)
    change(store, "update whatsmeow_sender_keys set chat_id = 'a', sender_id = 'bc'")
    assert copier.fingerprint(COMPANY) != before


def test_a_change_still_in_the_log_shows(copier: SqliteStoreCopier, store: Path) -> None:
    before = copier.fingerprint(COMPANY)
    with closing(sqlite3.connect(store)) as live:
        live.execute("update whatsmeow_device set push_name = 'Nova'")
        assert copier.fingerprint(COMPANY) == before
        live.commit()
        after = copier.fingerprint(COMPANY)
        assert after.important != before.important
        live.execute("pragma wal_checkpoint(truncate)")
        assert copier.fingerprint(COMPANY) == after
    assert copier.fingerprint(COMPANY) == after


def settled(path: Path) -> Iterator[None]:
    """Let the store look changed an hour ago, and again after each resumption."""
    while True:
        an_hour_ago = 1_700_000_000
        os.utime(path, (an_hour_ago, an_hour_ago))
        yield


def test_an_unchanged_store_is_not_opened(copier: SqliteStoreCopier, store: Path) -> None:
    ageing = settled(store)
    next(ageing)
    before = copier.fingerprint(COMPANY)
    change(store, "update whatsmeow_device set push_name = 'Nova'")
    next(ageing)  # as if nothing had happened
    assert copier.fingerprint(COMPANY) == before
    os.utime(store)
    assert copier.fingerprint(COMPANY) != before


def test_a_change_within_one_tick_of_the_clock_shows(
    folders: LocalSessionFolders, store: Path
) -> None:
    ageing = settled(store)
    next(ageing)
    copier = SqliteStoreCopier(folders, unix_ns=lambda: store.stat().st_mtime_ns + 1_000_000_000)
    before = copier.fingerprint(COMPANY)
    change(store, "update whatsmeow_device set push_name = 'Nova'")
    next(ageing)
    assert copier.fingerprint(COMPANY) != before


def test_an_unfit_store_has_no_fingerprint(copier: SqliteStoreCopier, store: Path) -> None:
    copier.fingerprint(COMPANY)
    change(store, "delete from whatsmeow_device")
    with pytest.raises(StoreUnfit, match="no device"):
        copier.fingerprint(COMPANY)
    store.write_bytes(b"rubbish" * 1000)
    with pytest.raises(StoreUnfit, match="cannot be read"):
        copier.fingerprint(COMPANY)
    store.unlink()
    with pytest.raises(StoreUnfit, match=r"no store\.db"):
        copier.fingerprint(COMPANY)


# --- into a folder


@pytest.fixture
def copy(copier: SqliteStoreCopier, folders: LocalSessionFolders, store: Path) -> StoreCopy:
    """The copy of a session whose folder is gone."""
    copy = copier.copy(COMPANY)
    folders.remove(COMPANY)
    return copy


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def journal_mode(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        return str(db.execute("pragma journal_mode").fetchone()[0])


def test_what_is_installed_is_the_session(
    copier: SqliteStoreCopier, folders: LocalSessionFolders, copy: StoreCopy
) -> None:
    folders.prepare(COMPANY)
    copier.install(copy, epoch=9)
    path = folders.store_path(COMPANY)
    assert sorted(contents(path)) == ["creds.json", "store.db"]
    assert mode(path) == mode(path.parent / "creds.json") == 0o600
    report = folders.inspect(COMPANY)
    assert report.state is FolderState.VALID
    assert report.credentials == replace(SAVED, epoch=9)
    assert copier.copy(COMPANY).database == copy.database
    assert journal_mode(path) == "wal"


def test_installing_changes_no_fingerprint(
    copier: SqliteStoreCopier, folders: LocalSessionFolders, store: Path
) -> None:
    """Thus the first look after a restore costs no new snapshot."""
    add_sessions(store, 300)
    change(store, "delete from whatsmeow_sessions where cast(their_id as integer) > 50")
    before: StoreFingerprint = copier.fingerprint(COMPANY)
    copy = copier.copy(COMPANY)
    folders.remove(COMPANY)
    folders.prepare(COMPANY)
    copier.install(copy, epoch=9)
    assert copier.fingerprint(COMPANY) == before


def test_a_reset_leaves_out_the_sessions_and_own_sender_keys_alone(
    copier: SqliteStoreCopier, folders: LocalSessionFolders, store: Path
) -> None:
    add_sessions(store, 300)
    add_sender_key = "insert into whatsmeow_sender_keys values ('{}', '5511@g.us', '{}', x'01')"
    own = ("5511999990001:3", "123456789012345_1:3")
    others = ("5511999990001:4", "123456789012345_1:33", "777_1:3")
    change(store, *(add_sender_key.format(JID, sender) for sender in own + others))
    copy = copier.copy(COMPANY)
    before = copier.fingerprint(COMPANY)
    folders.remove(COMPANY)
    folders.prepare(COMPANY)
    copier.install(copy, epoch=9, reset_signal=True)
    installed = copier.copy(COMPANY).database
    assert rows(installed, "select count(*) from whatsmeow_sessions") == [(0,)]
    senders = rows(installed, "select sender_id from whatsmeow_sender_keys order by 1")
    assert senders == sorted((sender,) for sender in others)
    assert copier.fingerprint(COMPANY).important == before.important
    assert journal_mode(folders.store_path(COMPANY)) == "wal"
    assert folders.inspect(COMPANY).state is FolderState.VALID


def test_a_reset_of_what_has_no_sessions_table_installs_nothing(
    copier: SqliteStoreCopier, folders: LocalSessionFolders, store: Path
) -> None:
    change(store, "drop table whatsmeow_sessions")
    copy = copier.copy(COMPANY)
    folders.remove(COMPANY)
    folders.prepare(COMPANY)
    with pytest.raises(StoreUnfit, match="damaged"):
        copier.install(copy, epoch=9, reset_signal=True)
    assert os.listdir(folders.session_path(COMPANY)) == []


def test_only_an_empty_folder_is_installed_into(
    copier: SqliteStoreCopier, folders: LocalSessionFolders, copy: StoreCopy
) -> None:
    with pytest.raises(StorageError, match="No such file"):
        copier.install(copy, epoch=9)
    folders.prepare(COMPANY)
    log = folders.session_path(COMPANY) / "store.db-wal"
    log.write_bytes(b"of another store")
    with pytest.raises(StorageError, match="not empty"):
        copier.install(copy, epoch=9)
    assert contents(log) == {"store.db-wal": b"of another store"}


def test_an_unfit_copy_is_not_installed(
    copier: SqliteStoreCopier, folders: LocalSessionFolders, copy: StoreCopy
) -> None:
    folders.prepare(COMPANY)
    other = replace(copy, credentials=replace(SAVED, jid=OTHER_JID))
    rubbish = [other] + [
        replace(copy, database=database)
        for database in (b"", b"x" * 8192, copy.database[:-4096], copy.database + bytes(4096))
    ]
    for unfit in rubbish:
        with pytest.raises(StoreUnfit):
            copier.install(unfit, epoch=9)
    assert os.listdir(folders.session_path(COMPANY)) == []


INSTALLER = """
import os, pickle, sys, traceback
from pathlib import Path
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.store_copier import SqliteStoreCopier
copy = pickle.load(open(sys.argv[2], "rb"))
company = copy.credentials.company_id
folders = LocalSessionFolders(Path(sys.argv[1]))
copier = SqliteStoreCopier(folders)
"""
FULL_DISK = (
    INSTALLER
    + """
import resource
folders.prepare(company)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    copier.install(copy, epoch=9)
except StorageError as error:
    print(error.message, os.listdir(folders.session_path(company)))
"""
)
# Ends itself with SIGKILL before the n-th call into C that installing makes, for every n. The
# files are left under n.
KILLED_AT_EVERY_CALL = (
    INSTALLER
    + """
import itertools, signal
def end_before(number):
    calls = itertools.count(1)
    def look(frame, event, argument):
        if event == "c_call" and next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
    folders.prepare(company)
    sys.setprofile(look)
    copier.install(copy, epoch=9)
    sys.setprofile(None)
for number in itertools.count(1):
    child = os.fork()
    if not child:
        try:
            end_before(number)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    folders.session_path(company).rename(Path(sys.argv[3]) / str(number))
    if os.WIFEXITED(status):
        print(number, os.WEXITSTATUS(status), flush=True)
        break
"""
)
KILLED_AT_RANDOM = (
    INSTALLER
    + """
while True:
    folders.remove(company)
    folders.prepare(company)
    print("installing", flush=True)
    copier.install(copy, epoch=9)
"""
)


@pytest.fixture
def copy_file(copy: StoreCopy, tmp_path: Path) -> Path:
    """The copy, for a program that installs it."""
    path = tmp_path / "copy.pickle"
    path.write_bytes(pickle.dumps(copy))
    return path


def test_a_full_disk_leaves_no_session(folders: LocalSessionFolders, copy_file: Path) -> None:
    said = run(FULL_DISK, folders.root, copy_file)
    assert "Cannot write" in said
    assert said.endswith("[]")


def assert_nothing_or_whole(folders: LocalSessionFolders, copy: StoreCopy) -> FolderState:
    folder = folders.session_path(COMPANY)
    report = folders.inspect(COMPANY)
    if (folder / "creds.json").exists():
        assert report.credentials == replace(SAVED, epoch=9)
    elif report.state is FolderState.VALID:
        assert report.needs_adoption
        assert report.credentials is not None
        assert report.credentials.epoch == 0
    else:
        assert report.state is FolderState.MISSING
        assert not (folder / "store.db").exists()
        return report.state
    assert report.state is FolderState.VALID
    assert (folder / "store.db").read_bytes() == copy.database
    return report.state


def test_a_kill_at_any_point_leaves_nothing_or_a_whole_session(
    folders: LocalSessionFolders, copy: StoreCopy, copy_file: Path, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    left.mkdir()
    said = run(KILLED_AT_EVERY_CALL, folders.root, copy_file, left)
    points, exit_status = map(int, said.split())
    assert exit_status == 0
    assert points > 100
    states = []
    for number in range(1, points + 1):
        (left / str(number)).rename(folders.session_path(COMPANY))
        states.append(assert_nothing_or_whole(folders, copy))
        with_credentials = (folders.session_path(COMPANY) / "creds.json").exists()
        if not with_credentials and states[-1] is FolderState.MISSING:
            folders.prepare(COMPANY)  # the next attempt is not in the way of the killed one
            assert os.listdir(folders.session_path(COMPANY)) == []
        folders.remove(COMPANY)
    assert states == sorted(states)  # missing, then valid
    assert {FolderState.MISSING, FolderState.VALID} == set(states)


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 4, 7, 11, 16])
def test_a_kill_from_outside_leaves_nothing_or_a_whole_session(
    folders: LocalSessionFolders, copy: StoreCopy, copy_file: Path, delay_ms: int
) -> None:
    with running(KILLED_AT_RANDOM, folders.root, copy_file) as installer:
        assert len(lines(installer, 3)) == 3
        with suppress(subprocess.TimeoutExpired):
            installer.wait(timeout=delay_ms / 1000)
        installer.kill()
        installer.wait(timeout=30)
        assert_nothing_or_whole(folders, copy)
