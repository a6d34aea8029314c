"""What a session folder can be, told apart."""

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm_whatsapp.domain.folders import Credentials, FolderReport, FolderState
from crm_whatsapp.sessions.credentials import write_credentials
from crm_whatsapp.sessions.folder_inspection import inspect_folder
from tests.unit.sessions.store_files import JID, LID, device_values, write_store

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
OTHER = "11111111-2222-4333-8444-555555555555"
SAVED = Credentials(
    company_id=COMPANY,
    jid=JID,
    lid=LID,
    push_name="Loja",
    platform="android",
    paired_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    epoch=7,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / f"session-{COMPANY}"


@pytest.fixture
def paired(folder: Path) -> Path:
    write_store(folder / "store.db", device_values())
    write_credentials(folder, SAVED)
    return folder


def look(folder: Path, *, deep: bool = True) -> FolderReport:
    return inspect_folder(folder, COMPANY, deep=deep)


@pytest.mark.parametrize("deep", [True, False])
def test_a_paired_folder_is_valid(paired: Path, deep: bool) -> None:
    report = look(paired, deep=deep)
    assert (report.state, report.credentials) == (FolderState.VALID, SAVED)
    assert not report.needs_adoption
    assert report.file_count == 2
    assert report.size_bytes == sum(file.stat().st_size for file in paired.iterdir())


@pytest.mark.parametrize("deep", [True, False])
def test_a_store_without_credentials_is_to_be_adopted(folder: Path, deep: bool) -> None:
    write_store(folder / "store.db", device_values())
    report = look(folder, deep=deep)
    assert (report.state, report.needs_adoption) == (FolderState.VALID, True)
    adopted = report.credentials
    assert adopted is not None
    assert replace(adopted, paired_at=SAVED.paired_at) == replace(SAVED, epoch=0)
    assert abs(datetime.now(UTC) - adopted.paired_at) < timedelta(minutes=5)


def test_what_holds_no_session_is_missing(folder: Path) -> None:
    assert look(folder).state is FolderState.MISSING
    folder.mkdir()
    assert look(folder).state is FolderState.MISSING
    (folder / "notes.txt").write_text("x")
    assert look(folder) == FolderReport(state=FolderState.MISSING, file_count=1, size_bytes=1)
    (folder / "store.db").touch()
    assert look(folder).state is FolderState.MISSING
    (folder / "store.db").unlink()
    write_store(folder / "store.db")
    assert look(folder).state is FolderState.MISSING


def test_credentials_without_store_are_corrupt(paired: Path) -> None:
    (paired / "store.db").unlink()
    for deep in (True, False):
        report = look(paired, deep=deep)
        assert (report.state, report.detail) == (
            FolderState.CORRUPT,
            "creds.json is there without store.db",
        )


def test_a_store_emptied_by_a_logout_is_corrupt(paired: Path) -> None:
    with closing(sqlite3.connect(paired / "store.db")) as db, db:
        db.execute("delete from whatsmeow_device")
    report = look(paired)
    assert report.state is FolderState.CORRUPT
    assert "holds no device" in report.detail


def test_credentials_of_another_device_are_corrupt(paired: Path) -> None:
    write_credentials(paired, replace(SAVED, jid="5511999990001:4@s.whatsapp.net"))
    report = look(paired)
    assert report.state is FolderState.CORRUPT
    assert "different devices" in report.detail


def test_credentials_of_another_company_are_corrupt(paired: Path) -> None:
    write_credentials(paired, replace(SAVED, company_id=OTHER))
    for deep in (True, False):
        report = look(paired, deep=deep)
        assert report.state is FolderState.CORRUPT
        assert "another company" in report.detail


@pytest.mark.parametrize("content", [b"", b"{", b"\x00" * 300, b"{}"])
def test_damaged_credentials_are_corrupt_beside_a_good_store(paired: Path, content: bytes) -> None:
    (paired / "creds.json").write_bytes(content)
    report = look(paired)
    assert report.state is FolderState.CORRUPT
    assert "creds.json" in report.detail


@pytest.mark.parametrize("with_credentials", [True, False])
@pytest.mark.parametrize("content", [b"rubbish" * 200, b"\x00" * 8192, b"x"])
def test_a_damaged_store_is_corrupt(paired: Path, content: bytes, with_credentials: bool) -> None:
    (paired / "store.db").write_bytes(content)
    if not with_credentials:
        (paired / "creds.json").unlink()
    report = look(paired)
    assert report.state is FolderState.CORRUPT
    assert "store.db" in report.detail


@pytest.mark.parametrize("name", ["Default", "Crashpad"])
def test_a_chromium_profile_is_foreign(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    report = look(folder)
    assert report.state is FolderState.FOREIGN
    assert "whatsapp-web.js" in report.detail


def test_a_session_of_ours_beside_a_chromium_profile_is_valid(paired: Path) -> None:
    (paired / "Default").mkdir()
    assert look(paired).state is FolderState.VALID


@pytest.mark.parametrize("deep", [True, False])
def test_a_baileys_folder_is_foreign(folder: Path, deep: bool) -> None:
    folder.mkdir()
    (folder / "creds.json").write_text('{"noiseKey": {"private": {}}}')
    (folder / "pre-key-1.json").write_text("{}")
    report = look(folder, deep=deep)
    assert report.state is FolderState.FOREIGN
    assert "Baileys" in report.detail


def test_a_link_is_not_followed(paired: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    paired.rename(outside)
    paired.symlink_to(outside)
    report = look(paired)
    assert report.state is FolderState.UNREADABLE
    assert "symbolic link" in report.detail


def test_a_file_in_place_of_the_folder_is_unreadable(folder: Path) -> None:
    folder.touch()
    assert look(folder).state is FolderState.UNREADABLE


def test_a_store_that_a_writer_holds_is_locked(paired: Path) -> None:
    with closing(sqlite3.connect(paired / "store.db", isolation_level=None)) as db:
        db.execute("pragma locking_mode = exclusive")
        db.execute("begin exclusive")
        db.execute("create table held (x)")
        assert look(paired).state is FolderState.LOCKED
        db.execute("rollback")
    assert look(paired).state is FolderState.VALID


@given(
    creds=st.none() | st.binary(max_size=200),
    store=st.none() | st.binary(max_size=2000),
    deep=st.booleans(),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_rubbish_is_never_valid(
    folder: Path, creds: bytes | None, store: bytes | None, deep: bool
) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in (("creds.json", creds), ("store.db", store)):
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    report = look(folder, deep=deep)
    wanted = {FolderState.CORRUPT} if creds is not None or store else {FolderState.MISSING}
    assert report.state in wanted
    assert report.credentials is None
    assert set(os.listdir(folder)) <= {"creds.json", "store.db"}
