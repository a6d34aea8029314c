"""What the answer to a delivery means: settled, tried again or given up."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tenacity import RetryCallState, wait_exponential

from crm_whatsapp.domain.webhooks import Answer, Attempt, Delivery, DeliveryState

_GONE = 410
_ASKS_TO_WAIT = frozenset({429, 503})
_SHORTEST_WAIT_SECONDS = 1.0
_MOST_ERROR_LENGTH = 200


class Outcome(StrEnum):
    """What came of a request, for counting."""

    DELIVERED = "delivered"  # 2xx
    REDIRECTED = "redirected"  # 3xx: not followed
    REFUSED = "refused"  # 4xx: the target does not want this, and is alive
    GONE = "gone"  # 410: it wants no more at all
    OVERLOADED = "overloaded"  # 429 and 503: not now
    BROKEN = "broken"  # other 5xx, and what is no HTTP status
    UNREACHABLE = "unreachable"  # no whole answer: address, connection, TLS, time


TROUBLE = frozenset({Outcome.OVERLOADED, Outcome.BROKEN, Outcome.UNREACHABLE})
"""What counts against the target as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTerms:
    """How long and how often a delivery is tried.

    Attributes:
        first_seconds, longest_seconds: the wait after the first failure, which doubles, and its
            bound; a Retry-After is honoured up to this bound too.
        for_seconds: a failure after so long since it was queued parks the delivery.
    """

    first_seconds: float
    longest_seconds: float
    for_seconds: float


def outcome_of(answer: Answer) -> Outcome:
    """Return what came of it."""
    status = answer.status_code
    if status is None:
        return Outcome.UNREACHABLE
    if status == _GONE:
        return Outcome.GONE
    if status in _ASKS_TO_WAIT:
        return Outcome.OVERLOADED
    kinds = {2: Outcome.DELIVERED, 3: Outcome.REDIRECTED, 4: Outcome.REFUSED}
    return kinds.get(status // 100, Outcome.BROKEN)


def attempt_of(
    delivery: Delivery,
    answer: Answer,
    *,
    now: datetime,
    terms: RetryTerms,
    jitter: Callable[[], float] = random.random,
) -> Attempt:
    """Return how the attempt is to be settled.

    Args:
        jitter: between 0 and 1.
    """
    outcome = outcome_of(answer)
    state, wait_seconds = DeliveryState.PENDING, 0.0
    if outcome is Outcome.DELIVERED:
        state = DeliveryState.DELIVERED
    elif outcome is Outcome.GONE or (now - delivery.queued_at).total_seconds() >= terms.for_seconds:
        state = DeliveryState.PARKED
    else:
        asked = asked_wait(answer, terms)
        wait_seconds = backoff_seconds(delivery.attempt, terms, jitter) if asked is None else asked
    return Attempt(
        delivery_id=delivery.id,
        token=delivery.token,
        state=state,
        retry_in_seconds=wait_seconds,
        status_code=answer.status_code,
        error=None if state is DeliveryState.DELIVERED else _plain(answer.error),
        took_seconds=answer.took_seconds,
    )


def untried(delivery: Delivery, wait_seconds: float = 0.0) -> Attempt:
    """Return what gives a delivery back, and its lane with it, without counting an attempt."""
    return Attempt(
        delivery_id=delivery.id,
        token=delivery.token,
        state=DeliveryState.PENDING,
        retry_in_seconds=wait_seconds,
    )


def asked_wait(answer: Answer, terms: RetryTerms) -> float | None:
    """Return for how long the target asked not to be bothered, within bounds."""
    if answer.status_code not in _ASKS_TO_WAIT or answer.retry_after_seconds is None:
        return None
    return min(max(answer.retry_after_seconds, _SHORTEST_WAIT_SECONDS), terms.longest_seconds)


def backoff_seconds(attempt: int, terms: RetryTerms, jitter: Callable[[], float]) -> float:
    """Return the wait after this attempt: doubled each time, a quarter more or less by chance."""
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = attempt
    doubled = wait_exponential(multiplier=terms.first_seconds, max=terms.longest_seconds)(state)
    return min(doubled * (0.75 + 0.5 * jitter()), terms.longest_seconds)


def _plain(error: str | None) -> str:
    """Return the reason without anything that a database could refuse."""
    text = (error or "failed").encode("ascii", "replace").decode()
    return "".join(it if it.isprintable() else " " for it in text)[:_MOST_ERROR_LENGTH]
