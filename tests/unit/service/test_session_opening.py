"""Which store a start gets: the local one or a snapshot, and that a late download hurts nobody."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
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
from tests.unit.sessions.real_stores import JID, fresh_store

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
PAIRED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
OTHER_JID = "5511999990001:4@s.whatsapp.net"
READY = "ready"

Work = Callable[[], None]


def credentials(epoch: int, jid: str = JID, paired_at: datetime = PAIRED_AT) -> Credentials:
    return Credentials(
        company_id=COMPANY,
        jid=jid,
        lid=None,
        push_name=None,
        platform=None,
        paired_at=paired_at,
        epoch=epoch,
    )


class World:
    """A folder, a database with snapshots, and an opener between them."""

    def __init__(self, folder: Path) -> None:
        clock = ManualClock()
        self.scratch = folder
        self.folders = LocalSessionFolders(folder / "sessions")
        self.folders.prepare_root()
        self.database = FakeDatabase(clock=clock.monotonic)
        self.cipher = EnvelopeCipher(KeyRing([EncryptionKey(key_id="k1", secret=bytes(32))]))
        self.store = FakeSnapshotStore(self.database)
        self.catalogue = SnapshotCatalogue(self.store)
        self.leases = LeaseKeeper(
            store=FakeLeaseStore(self.database),
            owner_id="pod",
            clock=clock,
            terms=LeaseTerms(),
            started_at=clock.now(),
        )
        self.opener = self.make_opener(self.cipher)

    def make_opener(self, cipher: EnvelopeCipher | None) -> SessionOpener:
        return SessionOpener(
            folders=self.folders,
            installer=SnapshotInstaller(self.folders),
            leases=self.leases,
            catalogue=self.catalogue,
            remote=RemoteSnapshots(self.store, cipher),
        )

    def has_local(self, saved: Credentials, *, adopted: bool = False) -> None:
        self.folders.prepare(COMPANY)
        fresh_store(self.folders.store_path(COMPANY), jid=saved.jid, one_time_keys=5)
        if not adopted:
            self.folders.write_credentials(saved)

    def has_snapshot(
        self, saved: Credentials, seq: int = 1, *, damaged: bool = False, key: str = "k1"
    ) -> None:
        path = self.scratch / f"{saved.epoch}-{seq}.db"
        fresh_store(path, jid=saved.jid, one_time_keys=7)
        copy = StoreCopy(credentials=saved, database=path.read_bytes())
        sealed = self.cipher.seal(copy, epoch=saved.epoch, seq=seq, clean=True)
        if damaged:
            sealed = replace(sealed, payload=sealed.payload[:-1] + b"\0")
        sealed = replace(sealed, meta=replace(sealed.meta, key_id=key))
        self.database.snapshots[(COMPANY, saved.epoch, seq)] = FakeSnapshot(sealed)
        self.catalogue.load()

    def open(self, later: Callable[[Work], None] = lambda work: work()) -> str:
        """Return the answer."""
        answered = threading.Event()
        answers: list[str] = []

        def answer(what: str) -> None:
            answers.append(what)
            answered.set()

        self.opener.open(
            COMPANY,
            ready=lambda: answer(READY),
            refuse=lambda reason, detail: answer(reason),
            later=later,
        )
        assert answered.wait(DEADLINE_SECONDS), "the opener did not answer"
        (only,) = answers
        return only

    def quarantined(self) -> int:
        folder = self.folders.root / "quarantine"
        return len(list(folder.iterdir())) if folder.exists() else 0

    def epoch(self) -> int:
        report = self.folders.inspect(COMPANY)
        assert report.state is FolderState.VALID and report.credentials is not None
        return report.credentials.epoch


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.opener.stop()


@pytest.mark.parametrize(("local", "remote", "epoch"), [(3, 3, 3), (4, 3, 4), (2, 3, 3)])
def test_the_higher_epoch_wins_and_the_local_store_in_the_same(
    world: World, local: int, remote: int, epoch: int
) -> None:
    world.has_local(credentials(local))
    world.has_snapshot(credentials(remote))
    assert world.open() == READY
    assert world.epoch() == epoch
    assert world.quarantined() == (remote > local)


def test_a_later_pairing_here_wins_over_any_epoch(world: World) -> None:
    world.has_local(credentials(0, OTHER_JID, PAIRED_AT + timedelta(days=1)))
    world.has_snapshot(credentials(9))
    assert world.open() == READY
    report = world.folders.inspect(COMPANY)
    assert report.credentials is not None and report.credentials.jid == OTHER_JID


def test_an_adopted_store_of_the_same_pairing_is_no_later_pairing(world: World) -> None:
    world.has_local(credentials(0), adopted=True)
    world.has_snapshot(credentials(9))
    assert world.open() == READY
    assert (world.epoch(), world.quarantined()) == (9, 1)


def test_after_a_damaged_snapshot_the_next_older_one_is_used(world: World) -> None:
    world.has_snapshot(credentials(1))
    world.has_snapshot(credentials(2), damaged=True)
    assert world.open() == READY
    assert world.epoch() == 1


@pytest.mark.parametrize("has_local", [False, True])
def test_a_missing_key_refuses_and_touches_nothing(world: World, has_local: bool) -> None:
    if has_local:
        world.has_local(credentials(1))
    world.has_snapshot(credentials(1))
    world.has_snapshot(credentials(2), key="lost")
    assert world.open() == Reason.KEY_MISSING
    world.opener = world.make_opener(None)
    assert world.open() == Reason.KEY_MISSING
    assert world.folders.has_credentials(COMPANY) == has_local
    assert world.quarantined() == 0


@pytest.mark.parametrize("has_local", [False, True])
def test_with_the_database_away_it_is_tried_again_later(world: World, has_local: bool) -> None:
    if has_local:
        world.has_local(credentials(1))
    world.has_snapshot(credentials(2))
    world.database.reachable = False
    assert world.open() == Reason.STORAGE_UNAVAILABLE
    assert world.quarantined() == 0
    world.database.reachable = True
    assert world.open() == READY


def test_a_damaged_folder_is_set_aside_for_a_snapshot_only(world: World) -> None:
    world.has_local(credentials(5))
    world.folders.store_path(COMPANY).write_bytes(b"rubbish")
    assert world.open() == Reason.STORE_CORRUPT
    assert world.quarantined() == 0
    world.has_snapshot(credentials(2))
    assert world.open() == READY
    assert (world.epoch(), world.quarantined()) == (2, 1)


def test_snapshots_that_are_gone_are_forgotten(world: World) -> None:
    world.has_snapshot(credentials(2))
    world.database.snapshots.clear()
    assert world.open() == Reason.CREDENTIALS_MISSING
    assert world.catalogue.find(COMPANY) is None


def test_a_download_for_a_start_that_was_given_up_touches_nothing(world: World) -> None:
    world.has_local(credentials(1))
    world.has_snapshot(credentials(2))
    dropped = threading.Event()
    answers: list[str] = []
    world.opener.open(
        COMPANY,
        ready=lambda: answers.append(READY),
        refuse=lambda reason, detail: answers.append(reason),
        later=lambda work: dropped.set(),
    )
    assert dropped.wait(DEADLINE_SECONDS)
    assert (answers, world.epoch(), world.quarantined()) == ([], 1, 0)


def test_a_disk_that_refuses_the_snapshot_is_said(world: World) -> None:
    world.has_snapshot(credentials(2))
    world.folders.session_path(COMPANY).symlink_to(world.scratch)
    assert world.open() == Reason.STORAGE_UNAVAILABLE


def test_after_the_stop_a_download_is_refused(world: World) -> None:
    world.has_snapshot(credentials(2))
    world.opener.stop()
    assert world.open() == Reason.STORAGE_UNAVAILABLE
