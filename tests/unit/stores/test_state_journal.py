"""The journal: what it was told is still there after restarts, kills and full disks."""

import logging
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm_whatsapp.domain.connection import (
    ClientPhase,
    Connection,
    DesiredState,
    Intent,
    PairingMethod,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.domain.errors import InvalidInput, StorageError
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.ports import StateJournal
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition
from crm_whatsapp.stores.connection_record import JOURNAL_FIELDS
from crm_whatsapp.stores.state_journal import SqliteStateJournal

REPOSITORY = Path(__file__).resolve().parents[3]
COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
OTHER = "11111111-2222-4333-8444-555555555555"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteStateJournal]:
    opened = SqliteStateJournal(path)
    yield opened
    opened.close()


def change(
    company_id: str = COMPANY,
    version: int = 1,
    *,
    final: bool = False,
    sets_desired_state: bool = False,
    status: Status = Status.CONNECTING,
    event: str = "ClientDisconnected",
) -> Transition:
    return Transition(
        id=str(uuid.uuid4()),
        connection=Connection(company_id=company_id, version=version, status=status),
        event=event,
        from_status=Status.CONNECTED,
        occurred_at=NOON + timedelta(seconds=version),
        final=final,
        sets_desired_state=sets_desired_state,
    )


def told(
    company_id: str | None = COMPANY, *, kind: NoticeKind = NoticeKind.MESSAGE, text: str = "hello"
) -> Notice:
    return Notice(
        id=str(uuid.uuid4()),
        kind=kind,
        company_id=company_id,
        occurred_at=NOON,
        data={"text": text},
    )


def reopened(journal: SqliteStateJournal, path: Path) -> SqliteStateJournal:
    journal.close()
    return SqliteStateJournal(path)


def test_it_is_what_the_service_asks_for(journal: SqliteStateJournal) -> None:
    port: StateJournal = journal
    assert port.pending_count() == 0
    assert port.load_connections() == []


def test_everything_needed_after_a_restart_is_kept(journal: SqliteStateJournal, path: Path) -> None:
    stored = Connection(
        company_id=COMPANY,
        user_id="user-7",
        desired_state=DesiredState.STOP,
        status=Status.BANNED,
        reason=Reason.TEMPORARY_BAN,
        message="suspended",
        user_action=UserAction.WAIT,
        degraded=True,
        jid="5511999990001:3@s.whatsapp.net",
        lid="1:3@lid",
        phone_number="+5511999990001",
        push_name="Ação 🤝",
        platform="android",
        last_connected_at=NOON,
        last_disconnected_at=NOON + timedelta(microseconds=1),
        last_event_at=NOON,
        retry_at=NOON,
        qr_expires_at=NOON,
        status_deadline_at=NOON,
        restore_attempts=2,
        version=9,
        intent=Intent.LOGOUT,
        engine_crashes=1,
        second_chance_used=True,
        failed_at=NOON,
    )
    local = replace(
        stored,
        client=ClientPhase.LIVE,
        generation=4,
        unreachable_attempts=3,
        replaced_retries=1,
        connected_since=NOON,
        pairing_method=PairingMethod.PAIRING_CODE,
        pairing_phone="+5511999990001",
    )
    blank = Connection(company_id=OTHER)
    same = {name for name in JOURNAL_FIELDS if getattr(stored, name) == getattr(blank, name)}
    assert same == {"desired_state"}
    sent = replace(change(final=True), connection=local)
    journal.append(sent)
    again = reopened(journal, path)
    assert again.load_connections() == [stored]
    assert again.pending(10) == [replace(sent, connection=stored)]
    again.close()


def test_the_latest_state_of_each_company(journal: SqliteStateJournal) -> None:
    for version in (1, 2, 3):
        journal.append(change(COMPANY, version))
    journal.append(change(OTHER, 1))
    states = {c.company_id: c.version for c in journal.load_connections()}
    assert states == {COMPANY: 3, OTHER: 1}


def test_the_backlog_is_sent_in_order_and_forgotten(
    journal: SqliteStateJournal, path: Path
) -> None:
    changes = [change(COMPANY, version) for version in range(1, 8)]
    for one in changes:
        journal.append(one)
    assert journal.pending(3) == changes[:3]
    journal.mark_sent([one.id for one in changes[:3]])
    journal.mark_sent([one.id for one in changes[:3]])
    journal.mark_sent([])
    assert journal.pending_count() == 4
    again = reopened(journal, path)
    assert again.pending(100) == changes[3:]
    again.mark_sent([one.id for one in changes[3:]])
    assert (again.pending(100), again.pending_count()) == ([], 0)
    assert [c.version for c in again.load_connections()] == [7]
    again.close()


def test_one_id_is_recorded_once(journal: SqliteStateJournal) -> None:
    first = change(COMPANY, 1)
    journal.append(first)
    journal.append(change(COMPANY, 2))
    journal.append(first)
    assert journal.pending_count() == 2
    assert [c.version for c in journal.load_connections()] == [2]


def test_adopting_takes_what_is_newer_and_sends_nothing(journal: SqliteStateJournal) -> None:
    journal.append(change(COMPANY, 5))
    journal.adopt(Connection(company_id=COMPANY, version=4, push_name="old"))
    assert [c.push_name for c in journal.load_connections()] == [None]
    journal.adopt(Connection(company_id=COMPANY, version=5, push_name="same"))
    journal.adopt(Connection(company_id=OTHER, version=0, push_name="new"))
    assert {c.push_name for c in journal.load_connections()} == {"same", "new"}
    assert journal.pending_count() == 1


def test_a_forgotten_company_is_unknown_to_the_next_start_while_its_end_waits_to_be_sent(
    journal: SqliteStateJournal, path: Path
) -> None:
    first, last = change(version=1), change(version=2, event=FORGOTTEN)
    journal.append(first)
    journal.append(last)
    again = reopened(journal, path)
    assert again.load_connections() == []
    assert [item.id for item in again.pending(10)] == [first.id, last.id]
    again.close()


def test_a_closed_journal_says_so(journal: SqliteStateJournal) -> None:
    journal.close()
    journal.close()
    with pytest.raises(StorageError, match="closed"):
        journal.append(change())


def test_threads_share_it(journal: SqliteStateJournal) -> None:
    companies = [str(uuid.uuid4()) for _ in range(8)]

    def work(company_id: str) -> None:
        for version in range(1, 41):
            journal.append(change(company_id, version, final=version % 10 == 0))
            journal.pending_count()

    threads = [threading.Thread(target=work, args=(company_id,)) for company_id in companies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert journal.pending_count() == 320
    assert {c.version for c in journal.load_connections()} == {40}


def test_the_counts_stay_right_while_others_send(journal: SqliteStateJournal) -> None:
    done = threading.Event()

    def send() -> None:
        while not done.is_set() or journal.pending_count():
            journal.mark_sent([entry.id for entry in journal.pending(10)])

    sender = threading.Thread(target=send)
    sender.start()
    for version in range(1, 401):
        journal.append(change(COMPANY, version))
        journal.append_notice(told(), keep=True)
    done.set()
    sender.join(timeout=60)
    assert journal.pending_count() == journal.backlog_count == 0


def test_two_hundred_appends_take_well_under_a_second(journal: SqliteStateJournal) -> None:
    started = time.monotonic()
    for version in range(200):
        journal.append(change(str(uuid.uuid4()), version, final=version % 4 == 0))
    assert time.monotonic() - started < 1.0


# --- the limit -------------------------------------------------------------------------------


def test_a_full_backlog_keeps_the_newest_and_the_final_of_every_company(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = SqliteStateJournal(path, backlog_limit=100)
    quiet = change(OTHER, 1)
    stop = change(COMPANY, 2, final=True)
    wish = change(COMPANY, 3, sets_desired_state=True)
    for one in (quiet, change(COMPANY, 1), stop, wish):
        journal.append(one)
    with caplog.at_level(logging.WARNING):
        for version in range(4, 501):
            journal.append(change(COMPANY, version))
    assert journal.pending_count() <= 100
    assert journal.dropped_count == 500 + 1 - journal.pending_count()
    left = journal.pending(1000)
    assert left[:3] == [quiet, stop, wish]
    assert left[-1].connection.version == 500
    assert [t.connection.version for t in left[1:]] == sorted(
        t.connection.version for t in left[1:]
    )
    assert "intermediate transitions dropped" in caplog.text
    again = reopened(journal, path)
    assert again.pending(1000) == left
    assert [c.version for c in again.load_connections() if c.company_id == COMPANY] == [500]
    again.close()


def test_final_entries_alone_may_exceed_the_limit(path: Path) -> None:
    journal = SqliteStateJournal(path, backlog_limit=20)
    finals = [change(COMPANY, version, final=True) for version in range(1, 61)]
    for one in finals:
        journal.append(one)
    assert journal.pending(100) == finals
    assert journal.dropped_count == 0
    journal.mark_sent([one.id for one in finals])
    for version in range(61, 121):
        journal.append(change(COMPANY, version))
    assert journal.pending_count() <= 20
    journal.close()


# --- notices ---------------------------------------------------------------------------------


def test_notices_wait_in_the_order_of_everything_else(
    journal: SqliteStateJournal, path: Path
) -> None:
    first, code, second, about_all = (
        change(version=1),
        told(kind=NoticeKind.QR),
        change(OTHER, 1),
        told(None, kind=NoticeKind.ALERT),
    )
    journal.append(first)
    journal.append_notice(code, keep=False)
    journal.append(second)
    journal.append_notice(about_all, keep=True)
    journal.append_notice(code, keep=False)
    again = reopened(journal, path)
    assert again.pending(10) == [first, code, second, about_all]
    assert again.pending(10, notices=False) == [first, second]
    assert (again.pending_count(), again.pending_count(notices=False)) == (4, 2)
    assert again.backlog_count == 4
    again.mark_sent([first.id, code.id])
    assert again.pending(10) == [second, about_all]
    assert again.backlog_count == 2
    assert {c.company_id for c in again.load_connections()} == {COMPANY, OTHER}
    again.close()


def test_the_heads_are_what_each_company_has_waited_with_longest(
    journal: SqliteStateJournal,
) -> None:
    first, second, third = change(COMPANY, 1), told(OTHER), told(None)
    journal.append(first)
    journal.append_notice(second, keep=True)
    journal.append_notice(told(COMPANY), keep=True)
    journal.append(change(OTHER, 1))
    journal.append_notice(third, keep=True)
    journal.append_notice(told(None), keep=True)
    assert journal.pending_heads(5, notices=False) == [first]
    assert journal.pending_heads(5, notices=True) == [second, third]
    assert journal.pending_heads(1, notices=True) == [second]
    journal.mark_sent([first.id, second.id])
    assert [item.id for item in journal.pending_heads(5, notices=False)] == [
        item.id for item in journal.pending(10) if isinstance(item, Transition)
    ]


def test_a_batch_is_what_fits_into_one_request(journal: SqliteStateJournal) -> None:
    long = [told(text="x" * 400_000) for _ in range(5)]
    for one in long:
        journal.append_notice(one, keep=True)
    assert journal.pending(100) == long[:2]
    journal.mark_sent([one.id for one in long[:4]])
    assert journal.pending(100) == long[4:]


def test_what_cannot_be_written_down_is_refused(journal: SqliteStateJournal) -> None:
    with pytest.raises(InvalidInput):
        journal.append_notice(told(text=object()), keep=True)  # type: ignore[arg-type]
    assert journal.pending_count() == 0


def test_a_later_notice_does_not_make_the_newest_transition_droppable(path: Path) -> None:
    journal = SqliteStateJournal(path, backlog_limit=20)
    newest = change(OTHER, 1)
    journal.append(newest)
    journal.append_notice(told(OTHER), keep=True)
    for version in range(1, 100):
        journal.append(change(COMPANY, version))
        if version % 10 == 0:
            journal.append_notice(told(COMPANY), keep=True)
    assert newest in journal.pending(1000)
    assert journal.pending(1000, notices=False)[-1].connection.version == 99  # type: ignore[union-attr]
    assert journal.lost_notices == journal.dropped_notices == 0
    assert journal.backlog_count == journal.pending_count()
    journal.close()


def test_passing_notices_go_first_then_the_oldest_and_never_a_transition(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = SqliteStateJournal(path, notice_limit=20)
    quiet = change(version=1)
    journal.append(quiet)
    kept = [told() for _ in range(15)]
    for one in kept:
        journal.append_notice(told(kind=NoticeKind.QR), keep=False)
        journal.append_notice(one, keep=True)
    assert (journal.dropped_notices, journal.lost_notices) == (10, 0)
    assert [item for item in journal.pending(100) if item in kept] == kept
    with caplog.at_level(logging.WARNING):
        more = [told() for _ in range(25)]
        for one in more:
            journal.append_notice(one, keep=True)
    left = journal.pending(100)
    assert left[0] == quiet
    assert len(left) - 1 <= 20
    assert left[1:] == [*kept, *more][-len(left[1:]) :]
    assert journal.lost_notices == 40 - len(left[1:])
    assert journal.dropped_notices == 15
    assert "others lost" in caplog.text
    assert "hello" not in caplog.text
    again = reopened(journal, path)
    assert again.pending(100) == left
    again.close()


def test_notices_are_bounded_by_their_size_too(path: Path) -> None:
    journal = SqliteStateJournal(path, notice_bytes_limit=1_000_000)
    for _ in range(100):
        journal.append_notice(told(text="x" * 100_000), keep=True)
    assert 5 <= journal.pending_count() <= 10
    assert journal.lost_notices == 100 - journal.pending_count()
    journal.close()


def test_the_companies_whose_end_waits(journal: SqliteStateJournal) -> None:
    journal.append(change(OTHER, 1, event="says forgotten"))
    journal.append_notice(told(text='"forgotten"'), keep=True)
    last = change(COMPANY, 2, event=FORGOTTEN, final=True)
    journal.append(last)
    assert journal.forgotten_companies() == [COMPANY]
    journal.mark_sent([last.id])
    assert journal.forgotten_companies() == []


# --- other releases --------------------------------------------------------------------------


def rewrite(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute(statement, values).rowcount > 0


def test_a_record_of_another_release_is_read_as_far_as_possible(
    journal: SqliteStateJournal, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal.append(change(COMPANY, 3))
    journal.close()
    record = (
        f'{{"company_id": "{COMPANY}", "status": "hibernating", "reason": "temporary-ban", '
        '"user_action": "dance", "desired_state": "run", "new_field": [1], "version": 3, '
        '"retry_at": "2026-03-01T12:00:00", "failed_at": "soon", "restore_attempts": -4}'
    )
    rewrite(path, "update connections set record = ?", record)
    again = SqliteStateJournal(path)
    with caplog.at_level(logging.WARNING):
        [connection] = again.load_connections()
    assert (connection.status, connection.reason) == (Status.BANNED, Reason.TEMPORARY_BAN)
    assert (connection.desired_state, connection.user_action) == (
        DesiredState.RUN,
        UserAction.WAIT,
    )
    assert (connection.retry_at, connection.failed_at) == (NOON, None)
    assert connection.restore_attempts == 0
    assert "hibernating" in caplog.text
    again.close()


def test_an_unreadable_record_does_not_hide_the_others(
    journal: SqliteStateJournal, path: Path
) -> None:
    good = change(OTHER, 1)
    journal.append(change(COMPANY, 1))
    journal.append(good)
    journal.close()
    for record in ("{", "[]", "{}", "null", '{"company_id": 5}', "[" * 5000):
        rewrite(path, "update connections set record = ? where company_id = ?", record, COMPANY)
        rewrite(path, "update backlog set record = ? where company_id = ?", record, COMPANY)
        again = SqliteStateJournal(path)
        assert [c.company_id for c in again.load_connections()] == [OTHER]
        assert again.pending(10) == [good]
        assert again.pending_count() == 1
        again.append(change(COMPANY, 1))
        again.close()


def test_a_file_of_the_first_schema_is_read_and_goes_on(
    journal: SqliteStateJournal, path: Path
) -> None:
    first = change(COMPANY, 3)
    journal.append(first)
    journal.close()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "drop index backlog_by_kind; alter table backlog drop column notice;"
            "pragma user_version = 1"
        )
    again = SqliteStateJournal(path)
    assert again.set_aside is None
    second, notice = change(OTHER, 1), told()
    again.append_notice(notice, keep=True)
    again.append(second)
    assert again.pending(10) == [first, notice, second]
    again.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma user_version").fetchone() == (2,)
        # What the release before this one does with it.
        db.execute(
            "insert into backlog (id, company_id, keep, record) "
            "select 'older', company_id, keep, record from backlog where id = ?",
            (second.id,),
        )
        db.commit()
    again = SqliteStateJournal(path)
    assert again.pending(10) == [first, notice, second, second]
    again.close()


def test_a_notice_that_cannot_be_read_is_given_up(journal: SqliteStateJournal, path: Path) -> None:
    notice, good = told(), change()
    journal.append_notice(notice, keep=True)
    journal.append(good)
    journal.close()
    rewrite(path, "update backlog set record = '{}' where id = ?", notice.id)
    again = SqliteStateJournal(path)
    assert again.pending(10) == [good]
    assert again.backlog_count == again.pending_count() == 1
    again.close()


def test_a_schema_of_a_newer_release_is_used(journal: SqliteStateJournal, path: Path) -> None:
    journal.append(change(COMPANY, 3))
    journal.close()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "alter table backlog add column extra text; create table more (x);"
            "pragma user_version = 7"
        )
    again = SqliteStateJournal(path)
    again.append(change(COMPANY, 4))
    assert again.set_aside is None
    assert again.pending_count() == 2
    again.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma user_version").fetchone() == (7,)


# --- damage ----------------------------------------------------------------------------------


def header_byte(position: int, value: int) -> bytes:
    """Return the first page of a journal with one byte of its header changed."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("create table t (x)")
        content = bytearray(db.serialize())
    content[position] = value
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"rubbish" * 1000,
        b"\x00" * 8192,
        b"SQLite format 3\x00" + b"\xff" * 4080,
        header_byte(18, 255),  # written by a format that this SQLite only reads
        header_byte(19, 255),
        header_byte(16, 7),
    ],
)
def test_a_damaged_file_is_set_aside(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        journal = SqliteStateJournal(path)
    assert journal.set_aside is not None
    assert journal.set_aside.name.startswith("state.db.corrupt-")
    assert journal.set_aside.read_bytes() == content
    assert "set aside" in caplog.text
    journal.append(change())
    assert reopened(journal, path).pending_count() == 1


def test_another_database_is_set_aside(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("create table notes (text)")
    journal = SqliteStateJournal(path)
    assert journal.set_aside is not None
    journal.close()


def test_a_lost_page_is_set_aside(path: Path) -> None:
    journal = SqliteStateJournal(path)
    for version in range(300):
        journal.append(change(COMPANY, version))
    journal.close()
    content = bytearray(path.read_bytes())
    content[8192:12288] = b"\x5a" * 4096
    path.write_bytes(content)
    again = SqliteStateJournal(path)
    assert again.set_aside is not None
    assert again.load_connections() == []
    again.close()


def test_a_log_that_holds_everything_heals_the_file(path: Path) -> None:
    journal = SqliteStateJournal(path)
    journal.append(change())
    log = path.with_name("state.db-wal").read_bytes()
    journal.close()
    path.write_bytes(b"rubbish" * 1000)
    path.with_name("state.db-wal").write_bytes(log)
    again = SqliteStateJournal(path)
    assert again.set_aside is None
    assert [c.company_id for c in again.load_connections()] == [COMPANY]
    again.close()


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "state.db"
    journal = SqliteStateJournal(path)
    for version in range(20):
        journal.append(change(COMPANY, version))
    journal.close()
    return path


@given(
    flips=st.lists(st.tuples(st.integers(0, 2**30), st.integers(1, 255)), min_size=1, max_size=6),
    kept_share=st.floats(0.0, 1.0) | st.just(1.0),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_damage_keeps_the_service_from_starting(
    path: Path, sound_file: Path, flips: list[tuple[int, int]], kept_share: float
) -> None:
    for old in path.parent.iterdir():
        old.unlink()
    sound = sound_file.read_bytes()
    damaged = bytearray(sound[: int(len(sound) * kept_share)])
    for position, mask in flips:
        if damaged:
            damaged[position % len(damaged)] ^= mask
    path.write_bytes(damaged)
    journal = SqliteStateJournal(path)
    journal.load_connections()
    journal.pending(100)
    journal.append(change(OTHER, 1))
    journal.close()


def test_a_sound_file_is_not_set_aside(journal: SqliteStateJournal) -> None:
    assert journal.set_aside is None


def test_a_folder_in_its_place_is_a_storage_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError, match="state journal"):
        SqliteStateJournal(path)


def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="state journal"):
        SqliteStateJournal(tmp_path / "nothing" / "state.db")


# --- kills and full disks --------------------------------------------------------------------

PRELUDE = """
import sys, uuid
from datetime import UTC, datetime
from pathlib import Path
from crm_whatsapp.domain.connection import Connection, Status
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.stores.connection_record import JOURNAL_FIELDS
from crm_whatsapp.stores.state_journal import SqliteStateJournal
def change(version):
    return Transition(id=str(uuid.uuid4()), event="x", from_status=Status.CONNECTED,
        connection=Connection(company_id=sys.argv[2], version=version),
        occurred_at=datetime.now(UTC), final=version % 7 == 0)
journal = SqliteStateJournal(Path(sys.argv[1]))
"""

WRITER = (
    PRELUDE
    + """
from itertools import count
for version in count(1):
    journal.append(change(version))
    if version % 3 == 0:
        journal.mark_sent([journal.pending(1)[0].id])
    print(version, flush=True)
"""
)

FULL_DISK = (
    PRELUDE
    + """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
recorded = 0
try:
    while True:
        journal.append(change(recorded + 1))
        recorded += 1
except StorageError as error:
    print(recorded, error.message)
assert journal.pending_count() == recorded
assert journal.load_connections()[0].version == recorded
"""
)


@pytest.mark.parametrize("appends", [1, 10, 100, 400])
def test_a_killed_writer_has_lost_nothing_it_reported(path: Path, appends: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), COMPANY],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    reported = [process.stdout.readline() for _ in range(appends)]
    process.kill()
    process.communicate(timeout=30)
    journal = SqliteStateJournal(path)
    assert journal.set_aside is None
    [connection] = journal.load_connections()
    assert connection.version >= int(reported[-1])
    versions = [transition.connection.version for transition in journal.pending(10_000)]
    assert versions == list(range(versions[0], connection.version + 1))
    journal.close()


def test_a_full_disk_is_a_storage_error_and_loses_nothing(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), COMPANY],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    recorded = int(done.stdout.split()[0])
    assert recorded > 20
    journal = SqliteStateJournal(path)
    assert journal.set_aside is None
    assert journal.pending_count() == recorded
    journal.append(change(COMPANY, recorded + 1))
    assert [c.version for c in journal.load_connections()] == [recorded + 1]
    journal.close()


def test_no_more_room_is_a_storage_error_that_says_so(
    journal: SqliteStateJournal,
) -> None:
    """The database is not allowed to grow, which SQLite reports exactly as a full disk."""
    db: sqlite3.Connection = journal._db
    pages = db.execute("pragma page_count").fetchone()[0]
    db.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(StorageError, match="Free some space"):
        for version in range(1, 1000):
            journal.append(change(COMPANY, version))
    recorded = journal.pending_count()
    db.execute("pragma max_page_count = 100000")
    journal.append(change(COMPANY, recorded + 1))
    assert journal.pending_count() == recorded + 1


def test_another_holder_of_the_file_is_a_storage_error(path: Path) -> None:
    journal = SqliteStateJournal(path, busy_timeout_seconds=0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("begin immediate")
        with pytest.raises(StorageError, match="locked"):
            journal.append(change())
        holder.execute("rollback")
    journal.append(change())
    assert journal.pending_count() == 1
    journal.close()
