"""A company begins so many pairings an hour; nothing else is counted."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from crm_whatsapp.domain.connection import PairingMethod, Status
from crm_whatsapp.domain.errors import RateLimited
from crm_whatsapp.service.pairing_allowance import PairingAllowance
from tests.unit.service.fakes import ManualClock
from tests.unit.service.pod import COMPANY, OTHER, Pod

MakePod = Callable[..., Pod]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def refusal(allowance: PairingAllowance, company_id: str = COMPANY) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        allowance.take(company_id)
    return caught.value


def test_the_refusal_says_which_limit_it_is_and_when_the_next_is_possible(
    clock: ManualClock,
) -> None:
    allowance = PairingAllowance(clock, 2)
    allowance.take(COMPANY)
    clock.advance(1_000)
    allowance.take(COMPANY)
    clock.advance(0.5)

    error = refusal(allowance)

    assert error.details["limit"] == "pairings"
    assert error.details["retry_after_seconds"] == 2_600
    assert error.details["next_at"] == clock.now() + timedelta(seconds=2_600)
    assert "2 times within an hour" in error.message
    assert error.message.endswith("The next try is possible in 44 minutes.")


def test_after_exactly_that_time_it_is_possible(clock: ManualClock) -> None:
    allowance = PairingAllowance(clock, 1)
    allowance.take(COMPANY)
    clock.advance(17.25)
    wait_seconds = refusal(allowance).details["retry_after_seconds"]
    clock.advance(wait_seconds)

    allowance.take(COMPANY)
    assert refusal(allowance).details["retry_after_seconds"] == 3_600


def test_no_hour_has_more_pairings_than_are_allowed(clock: ManualClock) -> None:
    allowance = PairingAllowance(clock, 3)
    begun = []
    for _ in range(400):
        clock.advance(61)
        try:
            allowance.take(COMPANY)
        except RateLimited:
            continue
        begun.append(clock.monotonic())

    assert len(begun) > 15
    assert all(later - earlier >= 3_600 for earlier, later in zip(begun, begun[3:], strict=False))


def test_companies_are_apart_and_their_number_is_bounded(clock: ManualClock) -> None:
    allowance = PairingAllowance(clock, 1)
    allowance.take(COMPANY)
    allowance.take(OTHER)
    for number in range(12_000):
        allowance.take(f"company {number}")

    assert len(allowance) == 10_000


def test_zero_switches_it_off(clock: ManualClock) -> None:
    allowance = PairingAllowance(clock, 0)
    for _ in range(1_000):
        allowance.take(COMPANY)

    assert len(allowance) == 0


def test_asking_again_for_an_open_pairing_does_not_count(make_pod: MakePod) -> None:
    pod = make_pod(pairings_per_hour=1).start(restores=False)
    for _ in range(5):
        pod.manager.connect(COMPANY, method=PairingMethod.QR)

    assert pod.manager.connect(COMPANY, method=PairingMethod.QR).status is not Status.DISCONNECTED


def test_a_pairing_after_the_last_allowed_one_changes_nothing(make_pod: MakePod) -> None:
    pod = make_pod(pairings_per_hour=2).start(restores=False)
    for _ in range(2):
        pod.manager.connect(COMPANY, method=PairingMethod.QR)
        pod.manager.disconnect(COMPANY)
        pod.settle()
    before = pod.settle()

    with pytest.raises(RateLimited):
        pod.manager.connect(COMPANY, method=PairingMethod.QR, proxy="socks5://10.0.0.1:1080")

    assert pod.settle() == before
    assert pod.proxies.find(COMPANY) is None
    pod.manager.connect(OTHER, method=PairingMethod.QR)
    pod.clock.advance(3_600)
    pod.manager.connect(COMPANY, method=PairingMethod.QR)


def test_a_restore_does_not_count_and_a_fresh_pairing_does(make_pod: MakePod) -> None:
    pod = make_pod(pairings_per_hour=1).start(restores=False)
    pod.connect_saved()
    for _ in range(5):
        pod.manager.disconnect(COMPANY)
        pod.settle()
        pod.manager.connect(COMPANY, method=PairingMethod.QR)  # there is a saved session
        pod.await_status(Status.CONNECTED)

    pod.manager.connect(COMPANY, method=PairingMethod.QR, fresh=True)
    pod.manager.connect(COMPANY, method=PairingMethod.QR, fresh=True)  # the same one
    pod.manager.disconnect(COMPANY)
    pod.settle()
    with pytest.raises(RateLimited):
        pod.manager.connect(COMPANY, method=PairingMethod.QR, fresh=True)


def test_deleting_the_company_does_not_give_more(make_pod: MakePod) -> None:
    pod = make_pod(pairings_per_hour=1).start(restores=False)
    pod.manager.connect(COMPANY, method=PairingMethod.QR)
    pod.delete()

    with pytest.raises(RateLimited):
        pod.manager.connect(COMPANY, method=PairingMethod.QR)
