"""Damaged sessions on their way to a start: named, never taken for whole, never a crash.

2,000 damaged folders in all, each walked through everything a start and a scan do with it.
"""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crm_whatsapp.domain.connection import Reason
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.folders import Credentials, FolderState
from crm_whatsapp.domain.snapshots import StoreUnfit
from crm_whatsapp.service.lease_keeper import LeaseKeeper, LeaseTerms
from crm_whatsapp.service.session_opener import RemoteSnapshots, SessionOpener
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue
from crm_whatsapp.sessions.credentials import is_device_jid, is_device_lid
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.snapshot_installer import SnapshotInstaller
from crm_whatsapp.sessions.store_copier import SqliteStoreCopier
from tests.contract.fakes import FakeDatabase, FakeLeaseStore, FakeSnapshotStore
from tests.unit.service.fakes import ManualClock
from tests.unit.sessions.real_stores import JID, LID, fresh_store

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
SAVED = Credentials(
    company_id=COMPANY,
    jid=JID,
    lid=LID,
    push_name="Loja",
    platform="android",
    paired_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    epoch=7,
)
KEY_BYTES = {
    "noise_key": 32,
    "identity_key": 32,
    "signed_pre_key": 32,
    "signed_pre_key_sig": 64,
    "adv_account_sig": 64,
    "adv_account_sig_key": 32,
    "adv_device_sig": 64,
}
IN_NO_CONDITION = (Reason.CREDENTIALS_MISSING, Reason.STORE_CORRUPT, Reason.STORE_FOREIGN)


class Start:
    """The start path on a folder of its own, with nothing to be had from elsewhere."""

    def __init__(self, folder: Path, whole_store: bytes) -> None:
        self.whole_store = whole_store
        self.answers: list[str] = []
        clock = ManualClock()
        database = FakeDatabase(clock=clock.monotonic)
        snapshots = FakeSnapshotStore(database)
        self.folders = LocalSessionFolders(folder)
        self.folders.prepare_root()
        self.session = self.folders.session_path(COMPANY)
        self.session.mkdir(mode=0o700)
        (self.session / "store.db").write_bytes(whole_store)
        self.folders.write_credentials(SAVED)
        self.whole_credentials = (self.session / "creds.json").read_bytes()
        self.copier = SqliteStoreCopier(self.folders, busy_timeout_seconds=0.05)
        catalogue = SnapshotCatalogue(snapshots)
        leases = LeaseKeeper(
            store=FakeLeaseStore(database),
            owner_id="fuzz",
            clock=clock,
            terms=LeaseTerms(),
            started_at=clock.now(),
        )
        self.opener = SessionOpener(
            folders=self.folders,
            installer=SnapshotInstaller(self.folders),
            leases=leases,
            catalogue=catalogue,
            remote=RemoteSnapshots(snapshots, None),
        )

    def fill(self, store: bytes | None, credentials: bytes | None) -> None:
        """Let the folder hold exactly this."""
        shutil.rmtree(self.session, ignore_errors=True)
        self.session.mkdir(mode=0o700)
        if store is not None:
            (self.session / "store.db").write_bytes(store)
        if credentials is not None:
            (self.session / "creds.json").write_bytes(credentials)

    def walk(self) -> str:
        """Do all that a start and a scan do; return how the start was answered."""
        before = contents(self.session)
        saved = self.folders.has_credentials(COMPANY)
        shallow = self.folders.inspect(COMPANY, deep=False)
        deep = self.folders.inspect(COMPANY)
        copied = self._copies()
        assert contents(self.session) == before, "looking has changed the folder"
        self.answers.clear()
        self.opener.open(
            COMPANY,
            ready=lambda: self.answers.append("ready"),
            refuse=lambda reason, detail: self.answers.append(reason),
        )
        (answer,) = self.answers
        valid = deep.state is FolderState.VALID
        assert (answer == "ready") == valid, (answer, deep)
        if valid:
            assert saved and shallow.state is FolderState.VALID
            assert device_is_whole(self.session / "store.db", deep.credentials)
        else:
            assert answer in IN_NO_CONDITION, (answer, deep)
            assert contents(self.session) == before, "a refused folder was changed"
        if copied is not None:
            assert device_is_whole(self.session / "store.db", copied)
        return answer

    def _copies(self) -> Credentials | None:
        with suppress(StoreUnfit, StorageError):
            self.copier.fingerprint(COMPANY)
        with suppress(StoreUnfit, StorageError):
            copy = self.copier.copy(COMPANY)
            return copy.credentials
        return None


def contents(folder: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}


def device_is_whole(path: Path, credentials: Credentials | None) -> bool:
    """Judge without the code under test: one device, of these credentials, with all its keys."""
    with closing(sqlite3.connect(path)) as db:
        db.text_factory = bytes
        assert db.execute("pragma quick_check").fetchall() == [(b"ok",)]
        lengths = ", ".join(f"length(cast({name} as blob))" for name in KEY_BYTES)
        rows = db.execute(f"select jid, lid, {lengths} from whatsmeow_device").fetchall()  # noqa: S608
    if len(rows) != 1:
        return False
    ((jid, lid, *found),) = rows
    return (
        credentials is not None
        and jid == credentials.jid.encode()
        and is_device_jid(credentials.jid)
        and (not lid or (isinstance(lid, bytes) and is_device_lid(lid.decode())))
        and found == list(KEY_BYTES.values())
    )


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "whole.db"
        fresh_store(path, one_time_keys=60)
        store = path.read_bytes()
        made = Start(Path(name) / "sessions", store)
        yield made
        made.opener.stop()


def cases(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=number,
        print_blob=True,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


# --- damage to bytes

Damage = Callable[[bytes], bytes]


def flipped(bits: list[int]) -> Damage:
    def damage(whole: bytes) -> bytes:
        changed = bytearray(whole)
        for bit in bits:
            changed[bit // 8 % len(changed)] ^= 1 << bit % 8
        return bytes(changed)

    return damage


def overwritten(place: int, rubbish: bytes) -> Damage:
    def damage(whole: bytes) -> bytes:
        start = place % len(whole)
        return (whole[:start] + rubbish + whole[start + len(rubbish) :])[: len(whole)]

    return damage


def moved_page(one: int, other: int) -> Damage:
    """Let one page of the database stand where another belongs."""

    def damage(whole: bytes) -> bytes:
        count = max(1, len(whole) // 4096)
        source, target = one % count * 4096, other % count * 4096
        return whole[:target] + whole[source : source + 4096] + whole[target + 4096 :]

    return damage


def misspelt_column(whole: bytes) -> bytes:
    """Break the name of a column in a CHECK, as one flipped bit does."""
    return whole.replace(b"CHECK ( registration_id", b"CHECK ( registrati\xefn_id", 1)


# Places in the header and the schema are as likely as those in all other pages together.
PLACES = st.one_of(st.integers(0, 99), st.integers(0, 4095), st.integers(0, 2**20))
DAMAGES: st.SearchStrategy[Damage] = st.one_of(
    st.builds(flipped, st.lists(PLACES.map(lambda b: b * 8), min_size=1, max_size=8)),
    st.builds(flipped, st.lists(st.integers(0, 2**23), min_size=1, max_size=8)),
    st.builds(overwritten, PLACES, st.binary(min_size=1, max_size=64)),
    st.builds(overwritten, PLACES, st.integers(1, 9000).map(bytes)),
    st.builds(moved_page, st.integers(0, 99), st.integers(0, 99)),
    st.integers(0, 2**20).map(lambda size: lambda whole: whole[: size % len(whole)]),
    st.binary(max_size=200).map(lambda tail: lambda whole: whole + tail),
    st.binary(max_size=2000).map(lambda rubbish: lambda whole: rubbish),
)


@cases(700)
@example(damage=moved_page(62, 2), with_credentials=True)  # an index without its table's row
@example(damage=misspelt_column, with_credentials=True)  # seen by a connection that writes alone
@given(damage=DAMAGES, with_credentials=st.booleans())
def test_a_store_with_damaged_bytes(start: Start, damage: Damage, with_credentials: bool) -> None:
    start.fill(damage(start.whole_store), start.whole_credentials if with_credentials else None)
    start.walk()


@cases(300)
@given(damage=DAMAGES)
def test_credentials_with_damaged_bytes(start: Start, damage: Damage) -> None:
    start.fill(start.whole_store, damage(start.whole_credentials))
    start.walk()


# --- damage to values

ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.binary(max_size=70),
    st.sampled_from([JID, LID, "5511999990002:1@s.whatsapp.net", JID + "\x00", "@", "0@lid"]),
    st.sampled_from([bytes(31), bytes(32), bytes(33), bytes(64), "0" * 32, "0" * 64]),
)
COLUMNS = ["jid", "lid", "platform", "push_name", "registration_id", *KEY_BYTES]


@cases(400)
@given(changes=st.dictionaries(st.sampled_from(COLUMNS), ODD, min_size=1, max_size=4))
def test_a_device_row_of_odd_values(start: Start, changes: dict[str, Any]) -> None:
    start.fill(start.whole_store, start.whole_credentials)
    rebuild(start.session / "store.db", changes)
    start.walk()


def rebuild(path: Path, changes: dict[str, Any]) -> None:
    """Put these values into the device row of a table that accepts anything."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("pragma foreign_keys = off")
        names = [row[1] for row in db.execute("pragma table_info(whatsmeow_device)")]
        (row,) = db.execute("select * from whatsmeow_device").fetchall()
        values = dict(zip(names, row, strict=True)) | changes
        db.execute("drop table whatsmeow_device")
        db.execute(f"create table whatsmeow_device ({', '.join(names)})")
        marks = ", ".join("?" * len(names))
        statement = f"insert into whatsmeow_device values ({marks})"  # noqa: S608
        db.execute(statement, list(values.values()))
        db.commit()


TABLES = [
    "whatsmeow_device",
    "whatsmeow_identity_keys",
    "whatsmeow_pre_keys",
    "whatsmeow_sessions",
    "whatsmeow_sender_keys",
    "whatsmeow_app_state_sync_keys",
    "whatsmeow_app_state_version",
]
TO_TABLES = [
    "drop table {one}",
    "delete from {one}",
    "alter table {one} rename to somewhere_else",
    "alter table {one} rename to aside; alter table {other} rename to {one}; "
    "alter table aside rename to {other}",
    "drop table {one}; create table {one} (jid, their_id)",
    "drop table {one}; create view {one} as select * from {other}",
    "drop table {one}; create view {one} as select * from {one}",
    "drop table {one}; create table {one} as select * from {other}",
    "drop table {one}; create view {one} as with recursive n(jid) as (select 1 union all select "
    "jid + 1 from n limit 9000) select jid, zeroblob(32) as key_id from n",
    "insert into {one} select * from {one}",
    "create table other as select * from {one}; drop table {one}; create table {one} as "
    "select * from other union all select * from other",
    "create table numbers as select 9223372036854775807 as key_id, 1e308 as uploaded union all "
    "select 9223372036854775807, 1e308; drop table {one}; alter table numbers rename to {one}",
    "pragma writable_schema = on; update sqlite_master set sql = 'rubbish' where name = '{one}'",
    "pragma writable_schema = on; update sqlite_master set rootpage = 1 where name = '{one}'",
    "pragma writable_schema = on; update sqlite_master set name = cast(x'ff00fe' as text), "
    "tbl_name = cast(x'ff00fe' as text) where name = '{one}'",
    "pragma journal_mode = delete; pragma page_size = 512; vacuum",
    "pragma journal_mode = delete; pragma encoding = 'UTF-16'; pragma user_version = -1",
]


@cases(300)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(TO_TABLES), st.sampled_from(TABLES), st.sampled_from(TABLES)),
        min_size=1,
        max_size=3,
    ),
    with_credentials=st.booleans(),
)
def test_tables_that_are_not_what_they_should_be(
    start: Start, steps: list[tuple[str, str, str]], with_credentials: bool
) -> None:
    start.fill(start.whole_store, start.whole_credentials if with_credentials else None)
    for step, one, other in steps:
        with (
            closing(sqlite3.connect(start.session / "store.db")) as db,
            suppress(sqlite3.Error, UnicodeDecodeError),
        ):
            db.execute("pragma foreign_keys = off")
            db.executescript(step.format(one=one, other=other))
    start.walk()


NUMBERS = st.one_of(st.integers(), st.sampled_from([2**63, -1, 10**400]), st.floats())
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=30)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = ["format_version", "company_id", "jid", "lid", "push_name", "platform", "paired_at"]


@cases(300)
@given(
    changes=st.dictionaries(
        st.sampled_from([*FIELDS, "epoch", "noiseKey", "more"]),
        st.one_of(JSON, st.sampled_from(["9999-12-31T23:59:59-14:00", "0001-01-01T00:00+14:00"])),
        min_size=1,
        max_size=4,
    ),
    without=st.sets(st.sampled_from(FIELDS), max_size=1),
)
@example(changes={"epoch": 2**63 - 1}, without=set())
@example(changes={"epoch": 10**5000}, without=set())
def test_credentials_of_odd_values(
    start: Start, changes: dict[str, Any], without: set[str]
) -> None:
    record = json.loads(start.whole_credentials) | changes
    content = {name: value for name, value in record.items() if name not in without}
    start.fill(start.whole_store, rendered(content))
    start.walk()


def rendered(content: dict[str, Any]) -> bytes:
    """Return it as JSON, numbers of any length as well."""
    with suppress(ValueError):
        return json.dumps(content).encode()
    huge = json.dumps({**content, "epoch": 0}).replace('"epoch": 0', f'"epoch": 1{"0" * 5000}')
    return huge.encode()


def test_a_whole_session_is_ready(start: Start) -> None:
    start.fill(start.whole_store, start.whole_credentials)
    assert start.walk() == "ready"
