"""Leases and a database that hangs: neither those who ask nor those who give up wait for it."""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest

from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.domain.leases import InstanceReport, Lease, LeaseClaim
from crm_whatsapp.service.lease_keeper import LeaseKeeper, LeaseTerms
from tests.contract.fakes import FakeDatabase, FakeLeaseStore

OWNER = "11111111-2222-4333-8444-555555555555"
COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
OTHER = "9d6f2061-60e5-4e93-a0df-f55dd5c3d40c"
DEADLINE_SECONDS = 20.0


class SteppedClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds


class HangingLeaseStore(FakeLeaseStore):
    """Answers at once until `frozen` is set; then a call lasts five seconds and fails."""

    def __init__(self, clock: SteppedClock) -> None:
        super().__init__(FakeDatabase())
        self.clock = clock
        self.frozen = False
        self.in_call = threading.Event()
        self.give_in = threading.Event()
        self.calls: list[tuple[str, list[str]]] = []

    def claim(
        self, owner_id: str, company_ids: Sequence[str], ttl_seconds: float
    ) -> list[LeaseClaim]:
        self._note("claim", company_ids)
        return super().claim(owner_id, company_ids, ttl_seconds)

    def release(self, owner_id: str, leases: Sequence[Lease]) -> None:
        self._note("release", [lease.company_id for lease in leases])
        super().release(owner_id, leases)

    def _note(self, call: str, company_ids: Sequence[str]) -> None:
        self.calls.append((call, list(company_ids)))
        if self.frozen:
            self.in_call.set()
            assert self.give_in.wait(DEADLINE_SECONDS)
            self.clock.seconds += 5.0
            raise StoreUnavailable


@pytest.fixture
def store() -> HangingLeaseStore:
    return HangingLeaseStore(SteppedClock())


@pytest.fixture
def keeper(store: HangingLeaseStore) -> Iterator[LeaseKeeper]:
    made = LeaseKeeper(
        store=store,
        owner_id=OWNER,
        clock=store.clock,
        terms=LeaseTerms(away_seconds=15.0),
        started_at=store.clock.now(),
    )
    made.start()
    yield made
    store.give_in.set()
    made.stop(DEADLINE_SECONDS)


def ask(keeper: LeaseKeeper, company_id: str) -> threading.Event:
    """Ask for a permit; the event is set when it is granted."""
    granted = threading.Event()

    def denied(seconds: float) -> None:
        raise AssertionError(f"denied for {seconds} s")

    keeper.permit(company_id, granted=granted.set, denied=denied)
    return granted


def test_giving_up_does_not_wait_for_the_database(
    keeper: LeaseKeeper, store: HangingLeaseStore
) -> None:
    assert ask(keeper, COMPANY).wait(DEADLINE_SECONDS)
    store.frozen = True
    keeper.give_up(COMPANY)
    assert store.in_call.wait(DEADLINE_SECONDS)
    assert keeper.owner_of(COMPANY) is None


def test_a_lease_is_released_before_it_is_claimed_again(
    keeper: LeaseKeeper, store: HangingLeaseStore
) -> None:
    assert ask(keeper, COMPANY).wait(DEADLINE_SECONDS)
    keeper.give_up(COMPANY)
    assert ask(keeper, COMPANY).wait(DEADLINE_SECONDS)
    assert [call for call, _ in store.calls] == ["claim", "release", "claim"]
    assert keeper.epoch_of(COMPANY) > 0


def test_after_one_call_that_hung_the_next_starts_do_not_wait(
    keeper: LeaseKeeper, store: HangingLeaseStore
) -> None:
    store.frozen = True
    first = ask(keeper, COMPANY)
    assert store.in_call.wait(DEADLINE_SECONDS)
    second = ask(keeper, OTHER)
    store.give_in.set()
    assert first.wait(DEADLINE_SECONDS)
    assert second.wait(DEADLINE_SECONDS)
    assert store.calls == [("claim", [COMPANY])]


def test_a_return_of_the_database_is_noticed_by_the_renewal(
    keeper: LeaseKeeper, store: HangingLeaseStore
) -> None:
    store.frozen = True
    first = ask(keeper, COMPANY)
    store.give_in.set()
    assert first.wait(DEADLINE_SECONDS)
    store.frozen = False
    keeper.tick(1)
    assert keeper.epoch_of(COMPANY) > 0
    assert ask(keeper, OTHER).wait(DEADLINE_SECONDS)
    assert keeper.epoch_of(OTHER) > 0


def test_stopping_releases_everything_but_not_for_longer_than_it_may(
    keeper: LeaseKeeper, store: HangingLeaseStore
) -> None:
    assert ask(keeper, COMPANY).wait(DEADLINE_SECONDS)
    store.frozen = True
    keeper.stop(0.05)
    assert store.in_call.wait(DEADLINE_SECONDS)
    assert ("release", [COMPANY]) in store.calls


# --- answers that come late, twice, or not at all -------------------------------------------------


class PausedStore(HangingLeaseStore):
    """Makes the call, and keeps its answer back until `give_in` is set."""

    def __init__(self, clock: SteppedClock) -> None:
        super().__init__(clock)
        self.paused = False
        self.breaks = False
        self.ticks: list[list[str]] = []

    def claim(
        self, owner_id: str, company_ids: Sequence[str], ttl_seconds: float
    ) -> list[LeaseClaim]:
        if self.breaks:
            raise RuntimeError("a defect of the client library")
        answer = super().claim(owner_id, company_ids, ttl_seconds)
        self._pause()
        return answer

    def tick(
        self, report: InstanceReport, leases: Sequence[Lease], ttl_seconds: float
    ) -> list[LeaseClaim]:
        self.ticks.append([lease.company_id for lease in leases])
        answer = super().tick(report, leases, ttl_seconds)
        self._pause()
        return answer

    def _pause(self) -> None:
        if self.paused:
            self.in_call.set()
            assert self.give_in.wait(DEADLINE_SECONDS)

    def holder(self, company_id: str) -> str | None:
        """Return who holds a live lease."""
        row = self._database.leases.get(company_id)
        live = row is not None and row.expires_at > self._database.clock()
        return row.owner_id if row is not None and live else None


ELSEWHERE = "99999999-2222-4333-8444-555555555555"


class Bench:
    """A keeper whose database is on the test's clock."""

    def __init__(self) -> None:
        self.clock = SteppedClock()
        self.store = PausedStore(self.clock)
        self.store._database.clock = self.clock.monotonic
        self.lost: list[str] = []
        self.keeper = LeaseKeeper(
            store=self.store,
            owner_id=OWNER,
            clock=self.clock,
            terms=LeaseTerms(away_seconds=15.0),
            started_at=self.clock.now(),
        )
        self.keeper.on_lost(self.lost.append)
        self.keeper.start()

    def held(self, company_id: str) -> None:
        assert ask(self.keeper, company_id).wait(DEADLINE_SECONDS)

    def after_queued(self) -> None:
        """Wait until releases and claims asked for so far are done."""
        self.held(f"00000000-0000-4000-8000-{len(self.store.calls):012d}")


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.store.give_in.set()
    made.keeper.stop(DEADLINE_SECONDS)


def test_two_starts_of_one_company_are_one_claim(bench: Bench) -> None:
    bench.store.paused = True
    first = ask(bench.keeper, OTHER)
    assert bench.store.in_call.wait(DEADLINE_SECONDS)
    second, third = ask(bench.keeper, COMPANY), ask(bench.keeper, COMPANY)
    bench.store.give_in.set()
    for granted in (first, second, third):
        assert granted.wait(DEADLINE_SECONDS)
    assert bench.store.calls == [("claim", [OTHER]), ("claim", [COMPANY])]


def test_a_session_given_up_while_its_claim_is_out_is_not_held_for_ever(bench: Bench) -> None:
    """Connect and disconnect within one round trip to the database."""
    bench.store.paused = True
    granted = ask(bench.keeper, COMPANY)
    assert bench.store.in_call.wait(DEADLINE_SECONDS)
    bench.keeper.give_up(COMPANY)
    bench.store.paused = False
    bench.store.give_in.set()
    assert granted.wait(DEADLINE_SECONDS)
    bench.after_queued()
    assert bench.store.holder(COMPANY) is None
    assert bench.keeper.owner_of(COMPANY) is None


def test_a_session_wanted_again_while_its_claim_is_out_is_held(bench: Bench) -> None:
    bench.store.paused = True
    first = ask(bench.keeper, COMPANY)
    assert bench.store.in_call.wait(DEADLINE_SECONDS)
    bench.keeper.give_up(COMPANY)
    second = ask(bench.keeper, COMPANY)
    bench.store.give_in.set()
    assert first.wait(DEADLINE_SECONDS)
    assert second.wait(DEADLINE_SECONDS)
    bench.after_queued()
    assert bench.store.holder(COMPANY) == OWNER
    assert bench.keeper.owner_of(COMPANY) == OWNER


def test_a_start_given_up_before_it_is_claimed_is_not_claimed(bench: Bench) -> None:
    bench.store.paused = True
    first = ask(bench.keeper, OTHER)
    assert bench.store.in_call.wait(DEADLINE_SECONDS)
    ask(bench.keeper, COMPANY)
    bench.keeper.give_up(COMPANY)
    bench.store.give_in.set()
    assert first.wait(DEADLINE_SECONDS)
    bench.after_queued()
    assert bench.store.holder(COMPANY) is None


def tick_behind(bench: Bench) -> threading.Thread:
    """Begin a renewal whose answer is kept back."""
    bench.store.paused = True
    bench.store.in_call.clear()
    thread = threading.Thread(target=bench.keeper.tick, args=(1,))
    thread.start()
    assert bench.store.in_call.wait(DEADLINE_SECONDS)
    bench.store.paused = False
    return thread


def test_what_is_given_up_during_a_renewal_is_not_claimed_again(bench: Bench) -> None:
    bench.held(COMPANY)
    bench.clock.seconds += 61.0  # expired: the renewal will miss it
    renewal = tick_behind(bench)
    bench.keeper.give_up(COMPANY)
    bench.store.give_in.set()
    renewal.join(DEADLINE_SECONDS)
    assert bench.keeper.owner_of(COMPANY) is None
    assert bench.store.holder(COMPANY) is None


def test_a_renewal_that_ends_after_the_stop_claims_nothing(bench: Bench) -> None:
    bench.held(COMPANY)
    bench.clock.seconds += 61.0
    renewal = tick_behind(bench)
    bench.keeper.stop(DEADLINE_SECONDS)
    bench.store.give_in.set()
    renewal.join(DEADLINE_SECONDS)
    assert bench.store.holder(COMPANY) is None
    assert [call for call, _ in bench.store.calls].count("claim") == 1


def test_a_claim_answered_after_the_stop_is_released(bench: Bench) -> None:
    bench.store.paused = True
    ask(bench.keeper, COMPANY)
    assert bench.store.in_call.wait(DEADLINE_SECONDS)
    bench.keeper.stop(0.01)
    bench.store.give_in.set()
    bench.keeper.stop(DEADLINE_SECONDS)
    assert bench.store.holder(COMPANY) is None


def test_a_lease_that_expired_during_an_outage_is_claimed_again(bench: Bench) -> None:
    bench.held(COMPANY)
    epoch = bench.keeper.epoch_of(COMPANY)
    bench.store._database.reachable = False
    bench.clock.seconds += 600.0
    with pytest.raises(StoreUnavailable):
        bench.keeper.tick(1)
    assert bench.keeper.owner_of(COMPANY) == OWNER
    bench.store._database.reachable = True
    bench.keeper.tick(1)
    assert bench.lost == []
    assert bench.keeper.epoch_of(COMPANY) > epoch
    assert bench.store.holder(COMPANY) == OWNER


def test_a_lease_that_somebody_took_during_an_outage_is_lost(bench: Bench) -> None:
    bench.held(COMPANY)
    bench.clock.seconds += 61.0
    bench.store._claim(ELSEWHERE, COMPANY, 60.0)
    bench.keeper.tick(1)
    assert bench.lost == [COMPANY]
    assert bench.keeper.owner_of(COMPANY) == ELSEWHERE


def test_a_session_started_in_an_outage_yields_to_the_one_who_holds_it(bench: Bench) -> None:
    bench.store._claim(ELSEWHERE, COMPANY, 60.0)
    bench.store._database.reachable = False
    bench.held(COMPANY)
    assert bench.keeper.owner_of(COMPANY) == OWNER
    bench.store._database.reachable = True
    bench.keeper.tick(1)
    assert bench.lost == [COMPANY]


def test_denied_and_then_freed(bench: Bench) -> None:
    bench.store._claim(ELSEWHERE, COMPANY, 60.0)
    denied = threading.Event()
    bench.keeper.permit(
        COMPANY, granted=lambda: None, denied=lambda seconds: denied.set() if seconds else None
    )
    assert denied.wait(DEADLINE_SECONDS)
    assert bench.keeper.owner_of(COMPANY) == ELSEWHERE
    bench.clock.seconds += 61.0
    bench.held(COMPANY)
    assert bench.keeper.owner_of(COMPANY) == OWNER


def test_a_defect_in_a_call_does_not_end_the_thread_that_lets_sessions_start(
    bench: Bench,
) -> None:
    bench.store.breaks = True
    bench.held(COMPANY)
    bench.store.breaks = False
    bench.held(OTHER)
    assert bench.keeper.epoch_of(OTHER) > 0
    bench.keeper.tick(2)
    assert bench.keeper.epoch_of(COMPANY) > 0


def test_answers_that_overtake_each_other_leave_the_newest_term(bench: Bench) -> None:
    bench.held(COMPANY)
    epoch = bench.keeper.epoch_of(COMPANY)
    old = LeaseClaim(
        company_id=COMPANY, owner_id=OWNER, epoch=epoch - 1, granted=True, expires_in_seconds=60.0
    )
    bench.keeper._take(old, bench.clock.monotonic())
    assert bench.keeper.epoch_of(COMPANY) == epoch


def test_nobody_is_renewed_for_a_session_that_was_given_up_in_an_outage(bench: Bench) -> None:
    bench.store._database.reachable = False
    bench.held(COMPANY)
    bench.keeper.give_up(COMPANY)
    bench.store._database.reachable = True
    bench.keeper.tick(0)
    assert bench.store.holder(COMPANY) is None


def test_a_session_given_up_while_its_claim_hangs_is_not_claimed_later(bench: Bench) -> None:
    bench.store.frozen = True
    granted = ask(bench.keeper, COMPANY)
    assert bench.store.in_call.wait(DEADLINE_SECONDS)
    bench.keeper.give_up(COMPANY)
    bench.store.give_in.set()
    assert granted.wait(DEADLINE_SECONDS)
    bench.store.frozen = False
    bench.keeper.tick(0)
    assert bench.store.holder(COMPANY) is None
