"""What an answer means for its delivery."""

from dataclasses import replace
from datetime import timedelta

import pytest

from crm_whatsapp.domain.webhooks import Attempt, Delivery, DeliveryState
from crm_whatsapp.service.webhook_verdict import (
    TROUBLE,
    Outcome,
    attempt_of,
    backoff_seconds,
    outcome_of,
    untried,
)
from tests.unit.service.fakes import NOON
from tests.unit.service.webhook_world import RETRY, answer, notice

DELIVERY = Delivery(
    id=7, webhook_id="w", lane="1", notice=notice(), attempt=1, queued_at=NOON, token="t"
)


def judged(
    status: int | None, *, attempt: int = 1, age: float = 0.0, retry_after: float | None = None
) -> Attempt:
    return attempt_of(
        replace(DELIVERY, attempt=attempt),
        answer(status, retry_after=retry_after),
        now=NOON + timedelta(seconds=age),
        terms=RETRY,
        jitter=lambda: 0.5,
    )


@pytest.mark.parametrize(
    ("status", "outcome", "is_trouble"),
    [
        (200, Outcome.DELIVERED, False),
        (204, Outcome.DELIVERED, False),
        (299, Outcome.DELIVERED, False),
        (301, Outcome.REDIRECTED, False),
        (400, Outcome.REFUSED, False),
        (404, Outcome.REFUSED, False),
        (410, Outcome.GONE, False),
        (429, Outcome.OVERLOADED, True),
        (503, Outcome.OVERLOADED, True),
        (500, Outcome.BROKEN, True),
        (101, Outcome.BROKEN, True),
        (600, Outcome.BROKEN, True),
        (None, Outcome.UNREACHABLE, True),
    ],
)
def test_outcomes(status: int | None, outcome: Outcome, is_trouble: bool) -> None:
    assert outcome_of(answer(status)) is outcome
    assert (outcome in TROUBLE) is is_trouble


def test_success_settles_a_delivery() -> None:
    settled = judged(204)
    assert (settled.state, settled.status_code, settled.error) == (
        DeliveryState.DELIVERED,
        204,
        None,
    )
    assert (settled.delivery_id, settled.token) == (7, "t")


@pytest.mark.parametrize("status", [302, 400, 404, 500, None])
def test_failures_are_tried_again(status: int | None) -> None:
    settled = judged(status)
    assert settled.state is DeliveryState.PENDING
    assert settled.retry_in_seconds == 5.0
    assert settled.error


def test_waits_double_to_the_bound() -> None:
    waits = [judged(500, attempt=number).retry_in_seconds for number in (1, 2, 3, 4, 11, 500)]
    assert waits == [5.0, 10.0, 20.0, 40.0, 3600.0, 3600.0]


def test_waits_differ_by_chance_within_a_quarter() -> None:
    assert backoff_seconds(1, RETRY, lambda: 0.0) == 3.75
    assert backoff_seconds(1, RETRY, lambda: 1.0) == 6.25
    assert backoff_seconds(30, RETRY, lambda: 1.0) == 3600.0


def test_a_day_of_failures_parks_a_delivery() -> None:
    assert judged(500, age=86_399.0).state is DeliveryState.PENDING
    parked = judged(500, age=86_400.0)
    assert parked.state is DeliveryState.PARKED
    assert parked.error == "answered 500"
    assert judged(204, age=90_000.0).state is DeliveryState.DELIVERED


def test_gone_parks_at_once() -> None:
    assert judged(410).state is DeliveryState.PARKED


@pytest.mark.parametrize(
    ("status", "asked", "wait"),
    [(429, 120.0, 120.0), (503, 0.0, 1.0), (503, 90_000.0, 3600.0), (500, 120.0, 5.0)],
)
def test_retry_after_is_honoured_within_bounds(status: int, asked: float, wait: float) -> None:
    assert judged(status, retry_after=asked).retry_in_seconds == wait


def test_what_is_given_back_counts_no_attempt() -> None:
    back = untried(DELIVERY)
    assert (back.state, back.retry_in_seconds) == (DeliveryState.PENDING, 0.0)
    assert (back.status_code, back.error) == (None, None)


def test_errors_are_plain_and_short() -> None:
    bad = replace(answer(None), error="\x00\udc80 broken\n" + "x" * 1000)
    error = attempt_of(DELIVERY, bad, now=NOON, terms=RETRY).error or ""
    assert error.startswith(" ? broken xxx")
    assert len(error) == 200
