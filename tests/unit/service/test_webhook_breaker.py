"""When a target is left alone, and when it is tried again."""

from crm_whatsapp.service.webhook_breaker import WebhookBreakers
from tests.unit.service.fakes import ManualClock


def make() -> tuple[WebhookBreakers, ManualClock]:
    clock = ManualClock()
    return WebhookBreakers(clock, failures=3, open_seconds=60.0), clock


def test_it_opens_after_failures_in_a_row_and_lets_one_request_try_again() -> None:
    breakers, clock = make()
    assert [breakers.failed("a") for _ in range(3)] == [False, False, True]
    assert breakers.allowance("a") == 0
    assert breakers.allowance("b") is None
    assert breakers.open_ids() == ["a"]
    assert breakers.next_try_seconds() == 60.0

    clock.advance(60.0)
    assert breakers.allowance("a") == 1
    assert breakers.open_ids() == []
    assert breakers.troubled_ids() == ["a"]
    assert breakers.next_try_seconds() is None

    assert breakers.answered("a") is True
    assert breakers.allowance("a") is None
    assert breakers.troubled_ids() == []


def test_a_try_that_fails_opens_it_at_once_again() -> None:
    breakers, clock = make()
    for _ in range(3):
        breakers.failed("a")
    clock.advance(61.0)
    assert breakers.failed("a") is True
    assert breakers.allowance("a") == 0
    assert breakers.next_try_seconds() == 60.0


def test_late_failures_do_not_lengthen_the_rest() -> None:
    breakers, clock = make()
    for _ in range(3):
        breakers.failed("a")
    clock.advance(30.0)
    assert breakers.failed("a") is False
    assert breakers.next_try_seconds() == 30.0


def test_any_sign_of_life_begins_the_count_anew() -> None:
    breakers, _ = make()
    for _ in range(2):
        breakers.failed("a")
    assert breakers.answered("a") is False
    assert not any(breakers.failed("a") for _ in range(2))
    assert breakers.allowance("a") is None


def test_a_target_that_asks_to_wait_is_left_alone_for_as_long() -> None:
    breakers, clock = make()
    assert breakers.asked_to_wait("a", 7.0) is True
    assert breakers.asked_to_wait("a", 900.0) is False
    clock.advance(7.0)
    assert breakers.allowance("a") == 1


def test_removed_webhooks_are_forgotten() -> None:
    breakers, _ = make()
    breakers.asked_to_wait("a", 7.0)
    breakers.asked_to_wait("b", 7.0)
    breakers.keep_only(["b"])
    assert breakers.open_ids() == ["b"]
