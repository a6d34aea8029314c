"""When the next snapshot is due."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from crm_whatsapp.domain.connection import ClientPhase
from crm_whatsapp.domain.folders import Credentials
from crm_whatsapp.domain.snapshots import StoreCopy, StoreFingerprint
from crm_whatsapp.service.lease_keeper import LeaseKeeper, LeaseTerms
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue
from crm_whatsapp.service.snapshot_keeper import SnapshotKeeper
from crm_whatsapp.service.snapshot_ledger import SnapshotTerms
from crm_whatsapp.sessions.key_ring import EncryptionKey, KeyRing
from crm_whatsapp.sessions.snapshot_cipher import EnvelopeCipher
from tests.contract.fakes import FakeDatabase, FakeLeaseStore, FakeSnapshotStore
from tests.unit.service.fakes import DEADLINE_SECONDS, FakeCopier, ManualClock, jid_of
from tests.unit.service.pod import COMPANY, online

LIVE = online(client=ClientPhase.LIVE)


class ChangingStore(FakeCopier):
    """A store whose ratchets a test moves."""

    def __init__(self, epoch: int) -> None:
        self.ratchets = 0
        self._copy = StoreCopy(
            credentials=Credentials(
                company_id=COMPANY,
                jid=jid_of(COMPANY),
                lid=None,
                push_name="Loja",
                platform="android",
                paired_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
                epoch=epoch,
            ),
            database=b"a store",
        )

    def copy(self, company_id: str) -> StoreCopy:
        return self._copy

    def fingerprint(self, company_id: str) -> StoreFingerprint:
        return StoreFingerprint(important="", ratchets=str(self.ratchets))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def database(clock: ManualClock) -> FakeDatabase:
    return FakeDatabase(clock=clock.monotonic)


@pytest.fixture
def leases(clock: ManualClock, database: FakeDatabase) -> Iterator[LeaseKeeper]:
    """The company's lease is held."""
    leases = LeaseKeeper(
        store=FakeLeaseStore(database),
        owner_id="pod",
        clock=clock,
        terms=LeaseTerms(),
        started_at=clock.now(),
    )
    leases.start()
    granted = threading.Event()
    leases.permit(COMPANY, granted=granted.set, denied=lambda *_: None)
    assert granted.wait(DEADLINE_SECONDS), "the lease was not granted"
    yield leases
    leases.stop(DEADLINE_SECONDS)


@pytest.fixture
def store(leases: LeaseKeeper) -> ChangingStore:
    return ChangingStore(leases.epoch_of(COMPANY))


@pytest.fixture
def keeper(
    clock: ManualClock, database: FakeDatabase, leases: LeaseKeeper, store: ChangingStore
) -> SnapshotKeeper:
    snapshots = FakeSnapshotStore(database)
    return SnapshotKeeper(
        store=snapshots,
        cipher=EnvelopeCipher(KeyRing([EncryptionKey(key_id="k1", secret=bytes(32))])),
        copier=store,
        leases=leases,
        catalogue=SnapshotCatalogue(snapshots),
        clock=clock,
        terms=SnapshotTerms(),
    )


def test_ratchets_alone_wait_for_their_interval(
    clock: ManualClock, keeper: SnapshotKeeper, store: ChangingStore
) -> None:
    keeper.take(COMPANY)
    store.ratchets += 1
    assert keeper.scan([LIVE]) == 0
    clock.advance(SnapshotTerms().ratchet_interval_seconds)
    assert keeper.scan([LIVE]) == 1


def test_a_clean_snapshot_is_followed_by_another_at_the_first_change(
    keeper: SnapshotKeeper, store: ChangingStore
) -> None:
    """Otherwise a restore would take it for the last condition of the session."""
    keeper.take(COMPANY, clean=True)
    assert keeper.scan([LIVE]) == 0
    store.ratchets += 1
    assert keeper.scan([LIVE]) == 1
    assert keeper.take(COMPANY)
    meta = keeper.state(COMPANY).meta
    assert meta is not None and not meta.clean
    store.ratchets += 1
    assert keeper.scan([LIVE]) == 0
