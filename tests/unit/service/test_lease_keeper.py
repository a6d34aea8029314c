"""Leases and a database that hangs: neither those who ask nor those who give up wait for it."""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest

from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.domain.leases import Lease, LeaseClaim
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
