"""Webhooks: who wants to hear of what, and how each delivery fares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from crm_whatsapp.domain.notices import Notice, NoticeKind


class WebhookOrigin(StrEnum):
    """Who registered a webhook."""

    API = "api"
    ENVIRONMENT = "environment"  # WEBHOOK_URL; changed there alone


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"  # to be tried, now or at next_attempt_at
    DELIVERED = "delivered"  # the target answered 2xx
    PARKED = "parked"  # given up after a day, or the target said 410; redelivered by hand only


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSecret:
    """A signing secret as it is stored.

    Attributes:
        key_id: the key-encryption key it is sealed under; None when none is configured and the
            secret is stored as it is.
        value: the ciphertext in base64, or the secret itself.
    """

    key_id: str | None
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """One registered target.

    Attributes:
        company_id: the only company it hears of; None hears of all and of the service itself.
        kinds: empty means all.
        enabled: False keeps its deliveries waiting, and queues no new ones.
    """

    id: str
    company_id: str | None
    url: str
    kinds: frozenset[NoticeKind]
    secret: SealedSecret
    enabled: bool
    origin: WebhookOrigin
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One notice claimed for one webhook: to be sent now, and settled with the same token.

    Attributes:
        id: its name in the delivery log; it stays when the delivery is queued again.
        lane: deliveries of one lane (webhook and company) are sent one after another, in the
            order in which the claim gives them; the next only once the one before it was
            delivered or parked.
        attempt: number of the attempt to be made, from 1, and again from 1 once redelivered.
        queued_at: when it was queued or redelivered, on the database clock.
        token: proves that the claim is still ours; the same for all that one claim took.
    """

    id: int
    webhook_id: str
    lane: str
    notice: Notice
    attempt: int
    queued_at: datetime
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How an attempt ended, to be settled.

    Attributes:
        state: DELIVERED, PARKED, or PENDING: to be tried again.
        retry_in_seconds: for PENDING; the lane waits as long, on the database clock. Without
            `status_code` and `error` the delivery was not tried, and no attempt is counted.
        status_code: what the target answered; None when no answer came.
        error: for people, without the answer's body; None when it was delivered.
    """

    delivery_id: int
    token: str
    state: DeliveryState
    retry_in_seconds: float = 0.0
    status_code: int | None = None
    error: str | None = None
    took_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What was claimed, and when it is worth asking again.

    Attributes:
        next_due_seconds: until the earliest delivery that waits, or the end of a claim, this one
            included; None when nothing waits.
    """

    deliveries: Sequence[Delivery]
    next_due_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRecord:
    """A line of the delivery log."""

    id: int
    webhook_id: str
    notice_id: str
    kind: NoticeKind
    company_id: str | None
    state: DeliveryState
    attempts: int
    status_code: int | None
    error: str | None
    queued_at: datetime
    last_attempt_at: datetime | None
    next_attempt_at: datetime | None
    settled_at: datetime | None


class WebhookStore(Protocol):
    """Webhooks and their deliveries in Supabase.

    Every method raises StoreUnavailable when the database cannot be reached in time, and
    StoreRejected when it refuses.
    """

    def list_webhooks(self) -> list[Webhook]:
        """Return every webhook."""

    def save_webhook(self, webhook: Webhook) -> None:
        """Insert it, or replace the one with the same id."""

    def remove_webhook(self, webhook_id: str) -> bool:
        """Remove it with its deliveries; False when there is none."""

    def enqueue(self, notices: Sequence[Notice]) -> int:
        """Queue each for every enabled webhook that wants it, in order, once whatever happens.

        Status notices are queued by the database itself when the transition is recorded.
        """

    def claim(
        self,
        owner_id: str,
        *,
        lanes: int,
        per_lane: int,
        hold_seconds: float,
        except_webhooks: Sequence[str] = (),
    ) -> Claim:
        """Claim the due heads of up to so many lanes; nobody else gets them for hold_seconds.

        Safe to repeat: a lost answer costs hold_seconds of waiting.
        """

    def settle(self, attempts: Sequence[Attempt]) -> int:
        """Write how attempts ended; return for how many the claim held. Safe to repeat.

        A lane is let go once everything that was claimed of it is settled, or once one delivery
        is PENDING: those behind it wait with it, and need not be settled themselves. A claim that
        ran out still holds while nobody else has taken the lane.
        """

    def deliveries(
        self,
        webhook_id: str,
        *,
        state: DeliveryState | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[DeliveryRecord]:
        """Return the delivery log, newest first, up to 200; `before` is an id to go on from."""

    def redeliver(self, webhook_id: str, delivery_ids: Sequence[int] | None) -> int:
        """Queue these again, delivered or parked (None: all parked ones), at the end of their
        lanes with all attempts before them; return how many.
        """

    def counts(self) -> Mapping[tuple[str, DeliveryState], int]:
        """Return how many deliveries each webhook has in each state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of one request to a target.

    Attributes:
        status_code: None when no whole answer came.
        retry_after_seconds: what the target asked for (RFC 9110, 10.2.3); None when it did not.
        error: for people; None for a 2xx.
        took_seconds: from the start of the request.
    """

    status_code: int | None
    retry_after_seconds: float | None
    error: str | None
    took_seconds: float


class WebhookSender(Protocol):
    """Posts to a target. Never follows redirects; refuses addresses that are not allowed."""

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post once, within the sender's time limits; raises nothing for what the target does."""


def envelope(notice: Notice) -> dict[str, Any]:
    """Return the body of a delivery."""
    return {
        "id": notice.id,
        "type": notice.kind.value,
        "timestamp": notice.occurred_at.isoformat().replace("+00:00", "Z"),
        "company_id": notice.company_id,
        "data": dict(notice.data),
    }
