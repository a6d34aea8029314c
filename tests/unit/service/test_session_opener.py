"""A snapshot that may be older than what its session sent last comes back without ratchets."""

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crm_whatsapp.domain.connection import Reason
from crm_whatsapp.domain.folders import Credentials, FolderState
from crm_whatsapp.domain.snapshots import StoreCopy
from crm_whatsapp.service.lease_keeper import LeaseKeeper, LeaseTerms
from crm_whatsapp.service.session_opener import RemoteSnapshots, SessionOpener
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue
from crm_whatsapp.sessions.key_ring import EncryptionKey, KeyRing
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.snapshot_cipher import EnvelopeCipher
from crm_whatsapp.sessions.snapshot_installer import SnapshotInstaller
from tests.contract.fakes import FakeDatabase, FakeLeaseStore, FakeSnapshot, FakeSnapshotStore
from tests.unit.service.fakes import DEADLINE_SECONDS, ManualClock
from tests.unit.sessions.real_stores import JID, LID, add_sessions, fresh_store

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
CREDENTIALS = Credentials(
    company_id=COMPANY,
    jid=JID,
    lid=LID,
    push_name="Loja",
    platform="android",
    paired_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    epoch=1,
)
SESSIONS = 5


class LostDisk:
    """An empty SESSIONS_DIR, and the snapshots of a company that had sessions with five people."""

    def __init__(self, folder: Path) -> None:
        clock = ManualClock()
        self.folders = LocalSessionFolders(folder / "sessions")
        self.folders.prepare_root()
        self.database = FakeDatabase(clock=clock.monotonic)
        self.cipher = EnvelopeCipher(KeyRing([EncryptionKey(key_id="k1", secret=bytes(32))]))
        store = FakeSnapshotStore(self.database)
        self.catalogue = SnapshotCatalogue(store)
        self.opener = SessionOpener(
            folders=self.folders,
            installer=SnapshotInstaller(self.folders),
            leases=LeaseKeeper(
                store=FakeLeaseStore(self.database),
                owner_id="pod",
                clock=clock,
                terms=LeaseTerms(),
                started_at=clock.now(),
            ),
            catalogue=self.catalogue,
            remote=RemoteSnapshots(store, self.cipher),
        )
        path = folder / "store.db"
        fresh_store(path, one_time_keys=10)
        add_sessions(path, SESSIONS)
        self._copy = StoreCopy(credentials=CREDENTIALS, database=path.read_bytes())

    def has_snapshot(self, seq: int, *, clean: bool, damaged: bool = False) -> None:
        """Add one; a damaged one does not match its hash."""
        sealed = self.cipher.seal(self._copy, epoch=1, seq=seq, clean=clean)
        if damaged:
            sealed = replace(sealed, payload=sealed.payload[:-1] + b"\0")
        self.database.snapshots[(COMPANY, 1, seq)] = FakeSnapshot(sealed)

    def restore(self) -> int:
        """Open the session; return how many Signal sessions the client finds."""
        answered = threading.Event()
        refusals: list[tuple[Reason, str]] = []

        def refuse(reason: Reason, detail: str) -> None:
            refusals.append((reason, detail))
            answered.set()

        self.catalogue.load()
        self.opener.open(COMPANY, ready=answered.set, refuse=refuse)
        assert answered.wait(DEADLINE_SECONDS), "the opener did not answer"
        assert refusals == []
        assert self.folders.inspect(COMPANY).state is FolderState.VALID
        with closing(sqlite3.connect(self.folders.store_path(COMPANY))) as db:
            return int(db.execute("select count(*) from whatsmeow_sessions").fetchone()[0])


@pytest.fixture
def disk(tmp_path: Path) -> LostDisk:
    return LostDisk(tmp_path)


def test_a_clean_snapshot_keeps_its_signal_sessions(disk: LostDisk) -> None:
    disk.has_snapshot(1, clean=False)
    disk.has_snapshot(2, clean=True)
    assert disk.restore() == SESSIONS


def test_of_a_running_session_they_are_left_out(disk: LostDisk) -> None:
    disk.has_snapshot(1, clean=True)
    disk.has_snapshot(2, clean=False)
    assert disk.restore() == 0


def test_a_clean_snapshot_behind_a_damaged_one_is_not_the_last(disk: LostDisk) -> None:
    disk.has_snapshot(1, clean=True)
    disk.has_snapshot(2, clean=True, damaged=True)
    assert disk.restore() == 0
