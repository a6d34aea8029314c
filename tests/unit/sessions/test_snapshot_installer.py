"""A snapshot takes its place by one rename: whatever happens, no half session is ever there."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.folders import Credentials, FolderState
from crm_whatsapp.domain.snapshots import StoreCopy, StoreUnfit
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.snapshot_installer import SnapshotInstaller
from crm_whatsapp.sessions.store_copier import SqliteStoreCopier
from tests.unit.sessions.real_stores import fresh_store
from tests.unit.sessions.test_store_copier import COMPANY, SAVED

NEWER = SAVED.epoch + 1


@pytest.fixture
def folders(tmp_path: Path) -> LocalSessionFolders:
    folders = LocalSessionFolders(tmp_path / "sessions")
    folders.prepare_root()
    return folders


@pytest.fixture
def copy(folders: LocalSessionFolders) -> StoreCopy:
    """The copy of a session that is there."""
    folders.prepare(COMPANY)
    fresh_store(folders.store_path(COMPANY))
    folders.write_credentials(SAVED)
    return SqliteStoreCopier(folders).copy(COMPANY)


def quarantined(folders: LocalSessionFolders) -> list[str]:
    return sorted(path.name for path in (folders.root / "quarantine").glob("*"))


def credentials(folders: LocalSessionFolders) -> Credentials | None:
    return folders.inspect(COMPANY).credentials


def test_the_session_takes_the_place_of_a_damaged_one(
    folders: LocalSessionFolders, copy: StoreCopy
) -> None:
    folders.store_path(COMPANY).write_bytes(b"rubbish" * 1000)
    SnapshotInstaller(folders).install(copy, epoch=NEWER)
    assert folders.inspect(COMPANY).state is FolderState.VALID
    assert credentials(folders) == replace(SAVED, epoch=NEWER)
    (aside,) = quarantined(folders)
    assert aside.endswith("-replaced-by-snapshot")


def test_what_an_aborted_pairing_left_makes_room(
    folders: LocalSessionFolders, copy: StoreCopy
) -> None:
    folders.remove(COMPANY)
    folders.prepare(COMPANY)
    (folders.session_path(COMPANY) / "store.db-wal").write_bytes(b"")
    SnapshotInstaller(folders).install(copy, epoch=NEWER)
    assert folders.inspect(COMPANY).state is FolderState.VALID
    assert not quarantined(folders)


def test_an_unfit_copy_leaves_the_present_session_alone(
    folders: LocalSessionFolders, copy: StoreCopy
) -> None:
    with pytest.raises(StoreUnfit):
        SnapshotInstaller(folders).install(replace(copy, database=b"rubbish"), epoch=NEWER)
    assert credentials(folders) == SAVED
    assert not quarantined(folders)


def test_a_disk_that_refuses_is_said(folders: LocalSessionFolders, copy: StoreCopy) -> None:
    (folders.root / ".incoming").write_text("in the way")
    with pytest.raises(StorageError, match="incoming"):
        SnapshotInstaller(folders).install(copy, epoch=NEWER)
    assert credentials(folders) == SAVED


def test_killed_before_any_call_it_leaves_the_old_session_none_or_the_new_one(
    folders: LocalSessionFolders, copy: StoreCopy
) -> None:
    seen = set()
    for number in itertools.count(1):
        status = install_and_die_before_call(number, folders, copy)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        report = folders.inspect(COMPANY)
        epoch = report.credentials.epoch if report.credentials else None
        seen.add((report.state, epoch, report.needs_adoption))
        # The next start begins anew, and leaves one session and no second one set aside.
        SnapshotInstaller(folders).install(copy, epoch=NEWER + 1)
        assert credentials(folders) == replace(SAVED, epoch=NEWER + 1)
        folders.remove(COMPANY)
        SnapshotInstaller(folders).install(copy, epoch=SAVED.epoch)
    assert seen <= {
        (FolderState.VALID, SAVED.epoch, False),
        (FolderState.MISSING, None, False),
        (FolderState.VALID, NEWER, False),
    }
    assert len(seen) == 3, f"the kills did not reach every stage: {seen}"


def install_and_die_before_call(number: int, folders: LocalSessionFolders, copy: StoreCopy) -> int:
    """Install in a child that kills itself before its n-th system call; return how it ended."""
    child = os.fork()
    if not child:
        calls = itertools.count(1)

        def look(frame: object, event: str, argument: object) -> None:
            touches_disk = getattr(argument, "__module__", None) == "posix"
            if event == "c_call" and touches_disk and next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(look)
            SnapshotInstaller(folders).install(copy, epoch=NEWER)
            sys.setprofile(None)
        except BaseException:  # noqa: BLE001 - a child ends here whatever happens
            traceback.print_exc()
            os._exit(3)
        os._exit(0)
    return os.waitpid(child, 0)[1]
