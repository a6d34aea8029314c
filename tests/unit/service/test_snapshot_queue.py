"""What the keeper of snapshots owes those who ask it: their turn, an answer, another attempt."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from crm_whatsapp.domain.connection import ClientPhase
from crm_whatsapp.domain.errors import StorageError, StoreUnavailable
from crm_whatsapp.domain.folders import Credentials
from crm_whatsapp.domain.snapshots import (
    KeyMissing,
    SealedSnapshot,
    SnapshotDamaged,
    StoreCopy,
    StoreFingerprint,
)
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


class Store(FakeCopier):
    """A store that a test changes. `problem` is raised by every copy, `blind` by every look."""

    def __init__(self) -> None:
        self.important, self.ratchets, self.epoch = 0, 0, 1
        self.problem: Exception | None = None
        self.blind: Exception | None = None
        self.during_copy: Callable[[], None] = lambda: None

    def copy(self, company_id: str) -> StoreCopy:
        self.during_copy()
        if self.problem is not None:
            raise self.problem
        credentials = Credentials(
            company_id=company_id,
            jid=jid_of(company_id),
            lid=None,
            push_name=None,
            platform=None,
            paired_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
            epoch=self.epoch,
        )
        return StoreCopy(credentials=credentials, database=b"a store")

    def fingerprint(self, company_id: str) -> StoreFingerprint:
        if self.blind is not None:
            raise self.blind
        return StoreFingerprint(important=str(self.important), ratchets=str(self.ratchets))


class Remote(FakeSnapshotStore):
    """garbles: reads back something else. loses_answer: writes, and fails all the same."""

    garbles = False
    loses_answer = False

    def write(self, owner_id: str, sealed: SealedSnapshot) -> None:
        super().write(owner_id, sealed)
        if self.loses_answer:
            raise StoreUnavailable("The answer was lost.")

    def read(self, company_id: str, epoch: int, seq: int) -> SealedSnapshot:
        sealed = super().read(company_id, epoch, seq)
        return replace(sealed, wrapped_key=b"other") if self.garbles else sealed


class Rig:
    """A keeper whose company has its lease."""

    def __init__(self, **terms: float) -> None:
        self.clock = ManualClock()
        self.database = FakeDatabase(clock=self.clock.monotonic)
        self.store = Store()
        self.remote = Remote(self.database)
        self.catalogue = SnapshotCatalogue(self.remote)
        self.leases = LeaseKeeper(
            store=FakeLeaseStore(self.database),
            owner_id="pod",
            clock=self.clock,
            terms=LeaseTerms(ttl_seconds=300),
            started_at=self.clock.now(),
        )
        self.leases.start()
        granted = threading.Event()
        self.leases.permit(COMPANY, granted=granted.set, denied=lambda _: None)
        assert granted.wait(DEADLINE_SECONDS)
        self.store.epoch = self.leases.epoch_of(COMPANY)
        self.keeper = SnapshotKeeper(
            store=self.remote,
            cipher=EnvelopeCipher(KeyRing([EncryptionKey(key_id="k1", secret=bytes(32))])),
            copier=self.store,
            leases=self.leases,
            catalogue=self.catalogue,
            clock=self.clock,
            terms=SnapshotTerms(**terms),  # type: ignore[arg-type]
        )

    def start(self) -> None:
        self.keeper.start()
        self.keeper.let_go()

    def finish(self, *, at_rest: bool = True) -> None:
        """Ask for the last snapshot and wait for the answer."""
        done = threading.Event()
        self.keeper.finish(COMPANY, done.set, at_rest=lambda: at_rest)
        assert done.wait(DEADLINE_SECONDS), "done was not called"

    def live(self) -> list[tuple[int, bool]]:
        """Return (seq, clean) of the live snapshots, newest first."""
        found = self.database.live_snapshots(COMPANY)
        return [(sealed.meta.seq, sealed.meta.clean) for sealed in found]

    def end(self) -> None:
        self.keeper.stop()
        self.leases.stop(DEADLINE_SECONDS)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.end()


# --- what is due


def test_nothing_is_written_twice_and_only_live_sessions_are_looked_at(rig: Rig) -> None:
    assert rig.keeper.scan([online(client=ClientPhase.STARTING)]) == 0
    assert rig.keeper.scan([LIVE]) == 1
    assert rig.keeper.take(COMPANY)
    assert not rig.keeper.take(COMPANY)
    assert rig.keeper.take(COMPANY, even_if_same=True)
    assert rig.keeper.scan([LIVE]) == 0
    rig.store.important += 1
    assert rig.keeper.scan([LIVE]) == 1


def test_a_stop_without_a_change_is_marked_clean_once(rig: Rig) -> None:
    rig.keeper.take(COMPANY)
    assert rig.keeper.take(COMPANY, clean=True)
    assert not rig.keeper.take(COMPANY, clean=True)
    assert rig.live() == [(2, True), (1, False)]


def test_over_the_budget_only_what_matters_is_written() -> None:
    rig = Rig(daily_bytes=1, ratchet_interval_seconds=60)
    rig.keeper.take(COMPANY)
    rig.store.ratchets += 1
    assert not rig.keeper.take(COMPANY), "a login may not get round the budget"
    rig.clock.advance(60)
    assert rig.keeper.scan([LIVE]) == 0
    rig.store.important += 1
    assert rig.keeper.take(COMPANY)
    assert rig.keeper.take(COMPANY, clean=True)
    rig.store.ratchets += 1
    assert rig.keeper.take(COMPANY), "a clean one may not stand for what has changed since"
    rig.end()


def test_the_budget_is_new_every_day() -> None:
    rig = Rig(daily_bytes=1)
    rig.keeper.take(COMPANY)
    rig.store.ratchets += 1
    rig.clock.advance(86_400)
    assert rig.keeper.scan([LIVE]) == 1
    rig.end()


def test_a_store_that_cannot_be_read_does_not_stop_the_scan(rig: Rig) -> None:
    rig.keeper.take(COMPANY)
    rig.store.blind = StorageError("The disk refuses.")
    assert rig.keeper.scan([LIVE]) == 0


# --- what fails


@pytest.mark.parametrize("error", [StorageError("Full."), ValueError("unforeseen")])
def test_a_problem_is_noted_waits_ever_longer_and_is_cleared(rig: Rig, error: Exception) -> None:
    rig.store.problem = error
    for pause in (1, 2, 4, 8, 15, 15):
        with pytest.raises(type(error)):
            rig.keeper.take(COMPANY)
        assert COMPANY in rig.keeper.problems()
        assert rig.keeper.scan([LIVE]) == 0
        rig.clock.advance(pause)
        assert rig.keeper.scan([LIVE]) == 1
    rig.store.problem = None
    assert rig.keeper.take(COMPANY)
    assert rig.keeper.problems() == {}
    assert rig.keeper.state(COMPANY).failures == 0


def test_a_snapshot_that_reads_back_differently_does_not_count(rig: Rig) -> None:
    rig.remote.garbles = True
    with pytest.raises(SnapshotDamaged):
        rig.keeper.take(COMPANY)
    assert rig.catalogue.find(COMPANY) is None
    assert rig.keeper.written == 0
    rig.remote.garbles = False
    assert rig.keeper.take(COMPANY)
    assert rig.live() == [(2, False), (1, False)]


def test_a_lost_answer_does_not_block_the_next_snapshot(rig: Rig) -> None:
    rig.remote.loses_answer = True
    with pytest.raises(StoreUnavailable):
        rig.keeper.take(COMPANY)
    rig.remote.loses_answer = False
    assert rig.keeper.take(COMPANY)
    assert rig.live()[0] == (2, False)


# --- who waits


def test_everybody_who_waits_for_the_last_snapshot_is_told(rig: Rig) -> None:
    told = [threading.Event() for _ in range(3)]
    for event in told:
        rig.keeper.finish(COMPANY, event.set)
    rig.start()
    assert all(event.wait(DEADLINE_SECONDS) for event in told)
    assert rig.live() == [(1, True)]


@pytest.mark.parametrize("error", [StorageError("Full."), ValueError("unforeseen")])
def test_done_is_called_when_the_last_snapshot_fails(rig: Rig, error: Exception) -> None:
    rig.store.problem = error
    rig.start()
    rig.finish()
    rig.store.problem = None
    rig.finish()
    assert rig.live()[0][1]


def test_done_is_called_when_the_keeper_stops_before_its_turn(rig: Rig) -> None:
    told = threading.Event()
    rig.keeper.finish(COMPANY, told.set)
    rig.keeper.stop()
    assert told.is_set()
    rig.finish()
    assert rig.live() == []


def test_a_listener_that_fails_does_not_end_the_thread() -> None:
    rig = Rig(threads=1)

    def fail() -> None:
        raise ValueError("a listener's own fault")

    rig.start()
    rig.keeper.finish(COMPANY, fail)
    rig.finish()
    rig.end()


def test_a_session_that_was_started_again_is_not_called_clean(rig: Rig) -> None:
    rig.start()
    rig.finish(at_rest=False)
    assert rig.live() == [(1, False)]


def test_the_threads_stop_with_a_full_queue(rig: Rig) -> None:
    for number in range(50):
        rig.keeper.request(f"{number:08x}-0000-4000-8000-000000000000")
    rig.keeper.stop()
    rig.keeper.start()
    for thread in rig.keeper._threads:
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()
    assert rig.keeper.failed == 0


# --- out of use


def test_what_is_retired_while_a_copy_is_made_stays_out_of_use(rig: Rig) -> None:
    rig.store.during_copy = lambda: rig.keeper.retire(COMPANY)
    rig.keeper.take(COMPANY)
    assert rig.catalogue.find(COMPANY) is None
    rig.start()
    rig.finish()
    assert rig.live() == []
    assert rig.catalogue.find(COMPANY) is None


def test_an_outage_delays_a_retirement_and_a_new_pairing_waits_for_it(rig: Rig) -> None:
    rig.keeper.take(COMPANY)
    rig.database.reachable = False
    rig.keeper.retire(COMPANY)
    rig.start()
    rig.finish()
    assert rig.catalogue.find(COMPANY) is None
    rig.database.reachable = True
    rig.catalogue.load()
    assert rig.catalogue.find(COMPANY) is None, "it is not heard of again before it is gone"
    assert rig.keeper.take(COMPANY)
    assert rig.live() == [(2, False)], "the number goes on: the old rows are still there"


def test_for_good_outlasts_a_later_ordinary_retirement(rig: Rig) -> None:
    rig.keeper.take(COMPANY)
    rig.keeper.retire(COMPANY, for_good=True)
    rig.keeper.retire(COMPANY)
    rig.start()
    rig.finish()
    assert rig.database.snapshots == {}


def test_without_a_key_nothing_is_copied_and_what_is_dead_is_still_retired(rig: Rig) -> None:
    rig.keeper.take(COMPANY)
    off = SnapshotKeeper(
        store=rig.remote,
        cipher=None,
        copier=rig.store,
        leases=rig.leases,
        catalogue=rig.catalogue,
        clock=rig.clock,
        terms=SnapshotTerms(),
    )
    told, retired = threading.Event(), threading.Event()
    tombstone = rig.remote.tombstone

    def noted(company_id: str) -> None:
        tombstone(company_id)
        retired.set()

    rig.remote.tombstone = noted  # type: ignore[method-assign]

    with pytest.raises(KeyMissing):
        off.take(COMPANY)
    off.finish(COMPANY, told.set)
    assert told.is_set(), "who waits for a last snapshot does not wait for a key"
    assert off.scan([LIVE]) == 0

    off.start()
    off.let_go()
    off.retire(COMPANY)
    assert retired.wait(DEADLINE_SECONDS), "nothing was retired"
    off.stop()
    assert rig.live() == []
