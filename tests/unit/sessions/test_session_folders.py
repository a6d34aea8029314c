"""The session folders: paths, adoption, removal and quarantine by one rename."""

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crm_whatsapp.domain.errors import ConfigurationError, InvalidInput, StorageError
from crm_whatsapp.domain.folders import Credentials, FolderState
from crm_whatsapp.domain.ports import SessionFolders
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from tests.unit.sessions.processes import lines, run, running
from tests.unit.sessions.store_files import JID, LID, device_values, write_store

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
OTHER = "11111111-2222-4333-8444-555555555555"
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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def folders(root: Path) -> LocalSessionFolders:
    folders = LocalSessionFolders(root, now=lambda: NOON)
    folders.prepare_root()
    return folders


def pair(folders: LocalSessionFolders) -> None:
    folders.prepare(COMPANY)
    write_store(folders.store_path(COMPANY), device_values())
    folders.write_credentials(SAVED)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_what_the_service_asks_for(folders: LocalSessionFolders) -> None:
    port: SessionFolders = folders
    assert port.session_path(COMPANY).is_absolute()


def test_the_layout(folders: LocalSessionFolders, root: Path) -> None:
    pair(folders)
    session = root / f"session-{COMPANY}"
    assert folders.session_path(COMPANY) == session
    assert folders.store_path(COMPANY) == session / "store.db"
    assert folders.lock_path(COMPANY) == root / ".locks" / f"{COMPANY}.lock"
    assert mode(session) == mode(root / ".locks") == 0o700
    assert mode(session / "creds.json") == 0o600


def test_a_relative_root_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="absolute"):
        LocalSessionFolders(Path("sessions"))


@pytest.mark.parametrize("company_id", ["", "..", "../x", "a/b", COMPANY + "\n", f"{{{COMPANY}}}"])
def test_no_path_is_built_from_anything_but_a_company_id(
    folders: LocalSessionFolders, company_id: str
) -> None:
    for method in (
        folders.session_path,
        folders.store_path,
        folders.lock_path,
        folders.has_credentials,
        folders.inspect,
        folders.prepare,
        folders.remove,
        folders.remove_credentials,
    ):
        with pytest.raises(InvalidInput):
            method(company_id)
    with pytest.raises(InvalidInput):
        folders.quarantine(company_id, "x")


def test_credentials_are_seen(folders: LocalSessionFolders) -> None:
    assert not folders.has_credentials(COMPANY)
    folders.prepare(COMPANY)
    assert not folders.has_credentials(COMPANY)
    folders.write_credentials(SAVED)
    assert folders.has_credentials(COMPANY)
    assert not folders.has_credentials(OTHER)


def test_a_store_alone_counts_only_with_a_device(folders: LocalSessionFolders) -> None:
    folders.prepare(COMPANY)
    write_store(folders.store_path(COMPANY))
    assert not folders.has_credentials(COMPANY)
    folders.store_path(COMPANY).unlink()
    write_store(folders.store_path(COMPANY), device_values())
    assert folders.has_credentials(COMPANY)


def test_a_damaged_store_alone_is_not_taken_for_absent(folders: LocalSessionFolders) -> None:
    folders.prepare(COMPANY)
    folders.store_path(COMPANY).write_bytes(b"rubbish" * 1000)
    assert folders.has_credentials(COMPANY)
    assert folders.inspect(COMPANY).state is FolderState.CORRUPT


def test_a_link_is_not_followed(folders: LocalSessionFolders, tmp_path: Path) -> None:
    pair(folders)
    outside = tmp_path / "outside"
    folders.session_path(COMPANY).rename(outside)
    folders.session_path(COMPANY).symlink_to(outside)
    assert folders.inspect(COMPANY).state is FolderState.UNREADABLE
    assert folders.list_companies() == []
    for method in (
        folders.has_credentials,
        folders.remove,
        folders.prepare,
        folders.remove_credentials,
    ):
        with pytest.raises(StorageError):
            method(COMPANY)
    with pytest.raises(StorageError):
        folders.quarantine(COMPANY, "x")
    with pytest.raises(StorageError):
        folders.write_credentials(SAVED)
    assert sorted(os.listdir(outside)) == ["creds.json", "store.db"]


def test_companies_are_listed(folders: LocalSessionFolders, root: Path) -> None:
    folders.prepare(OTHER)
    folders.prepare(COMPANY)
    (root / f"session-{COMPANY.upper()}").mkdir()
    (root / "session-x").mkdir()
    (root / "session-99999999-2222-4333-8444-555555555555").touch()
    assert folders.list_companies() == [OTHER, COMPANY]
    assert LocalSessionFolders(root / "nothing").list_companies() == []


def test_preparing_clears_what_an_aborted_pairing_left(folders: LocalSessionFolders) -> None:
    folders.prepare(COMPANY)
    write_store(folders.store_path(COMPANY))
    folders.store_path(COMPANY).with_name("store.db-journal").write_bytes(b"old")
    folders.prepare(COMPANY)
    assert os.listdir(folders.session_path(COMPANY)) == []


def test_preparing_never_destroys_a_session(folders: LocalSessionFolders) -> None:
    pair(folders)
    with pytest.raises(StorageError, match="not empty"):
        folders.prepare(COMPANY)
    folders.remove_credentials(COMPANY)
    with pytest.raises(StorageError, match="not empty"):
        folders.prepare(COMPANY)
    assert folders.inspect(COMPANY).needs_adoption


def test_preparing_sets_another_librarys_folder_aside(
    folders: LocalSessionFolders, root: Path
) -> None:
    (folders.session_path(COMPANY) / "Default").mkdir(parents=True)
    folders.prepare(COMPANY)
    assert os.listdir(folders.session_path(COMPANY)) == []
    [aside] = (root / "quarantine").iterdir()
    assert aside.name.endswith("-foreign")
    assert os.listdir(aside) == ["Default"]


def test_removing(folders: LocalSessionFolders, root: Path) -> None:
    pair(folders)
    folders.remove(COMPANY)
    assert folders.inspect(COMPANY).state is FolderState.MISSING
    assert os.listdir(root / ".trash") == []
    folders.remove(COMPANY)


def test_removing_ends_what_an_earlier_removal_began(
    folders: LocalSessionFolders, root: Path
) -> None:
    leftover = root / ".trash" / f"{COMPANY}-killed"
    leftover.mkdir(parents=True)
    (leftover / "store.db").touch()
    (root / ".trash" / f"{OTHER}-busy").mkdir()
    folders.remove(COMPANY)
    assert os.listdir(root / ".trash") == [f"{OTHER}-busy"]


def test_removing_credentials_alone(folders: LocalSessionFolders) -> None:
    pair(folders)
    folders.remove_credentials(COMPANY)
    assert os.listdir(folders.session_path(COMPANY)) == ["store.db"]
    folders.remove_credentials(COMPANY)
    folders.remove_credentials(OTHER)


def test_quarantine(folders: LocalSessionFolders, root: Path) -> None:
    pair(folders)
    aside = folders.quarantine(COMPANY, "../Store corrupt!")
    assert aside == root / "quarantine" / f"{COMPANY}-20260301T120000Z-store-corrupt"
    assert sorted(os.listdir(aside)) == ["creds.json", "store.db"]
    assert folders.quarantine(COMPANY, "again") is None
    pair(folders)
    second = folders.quarantine(COMPANY, "../Store corrupt!")
    assert second is not None
    assert second != aside
    assert len(list((root / "quarantine").iterdir())) == 2


def test_writing_credentials_needs_the_folder(folders: LocalSessionFolders) -> None:
    with pytest.raises(StorageError):
        folders.write_credentials(SAVED)


def test_a_file_in_place_of_the_root_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    folders = LocalSessionFolders(tmp_path / "root")
    for call in (folders.prepare_root, folders.list_companies, folders.check_writable):
        with pytest.raises(StorageError):
            call()
    with pytest.raises(StorageError):
        folders.has_credentials(COMPANY)
    with pytest.raises(StorageError):
        folders.prepare(COMPANY)
    assert folders.inspect(COMPANY).state is FolderState.UNREADABLE


def test_a_writable_root_is_left_clean(folders: LocalSessionFolders, root: Path) -> None:
    folders.check_writable()
    assert os.listdir(root) == [".locks"]


FULL_DISK = """
import os, resource, sys
from pathlib import Path
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    LocalSessionFolders(Path(sys.argv[1])).check_writable()
except StorageError as error:
    print(error.message, os.listdir(sys.argv[1]))
"""


def test_a_full_disk_is_found(folders: LocalSessionFolders, root: Path) -> None:
    said = run(FULL_DISK, root)
    assert f"Cannot write to SESSIONS_DIR {root}: File too large." in said
    assert "['.locks']" in said


REMOVER = """
import sys
from itertools import count
from pathlib import Path
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
folders = LocalSessionFolders(Path(sys.argv[1]))
for number in count(1):
    folders.prepare(sys.argv[2])
    for name in [f"file-{position}" for position in range(40)]:
        (folders.session_path(sys.argv[2]) / name).write_bytes(b"x")
    folders.store_path(sys.argv[2]).write_bytes(b"whole")
    folders.remove(sys.argv[2])
    print(number, flush=True)
"""


@pytest.mark.parametrize("rounds", [1, 7])
def test_a_killed_removal_leaves_nothing_half(
    folders: LocalSessionFolders, root: Path, rounds: int
) -> None:
    """A folder in place never has a store without what was written before the store."""
    with running(REMOVER, root, COMPANY) as process:
        lines(process, rounds)
        process.kill()
        process.wait(timeout=30)
    session = folders.session_path(COMPANY)
    names = os.listdir(session) if session.exists() else []
    assert "store.db" not in names or len(names) == 41
    folders.remove(COMPANY)
    assert os.listdir(root / ".trash") == []
