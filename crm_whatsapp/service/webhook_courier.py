"""Brings single deliveries to their targets, signed, and says how it went."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from standardwebhooks import Webhook as Signer

from crm_whatsapp.domain.errors import CrmWhatsappError
from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.webhooks import (
    Answer,
    Attempt,
    Delivery,
    DeliveryState,
    Webhook,
    WebhookSender,
    envelope,
)
from crm_whatsapp.service.webhook_breaker import WebhookBreakers
from crm_whatsapp.service.webhook_registry import WebhookRegistry
from crm_whatsapp.service.webhook_verdict import (
    TROUBLE,
    Outcome,
    RetryTerms,
    asked_wait,
    attempt_of,
    outcome_of,
    untried,
)

log = structlog.get_logger(__name__)

_UNKNOWN_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What came of a delivery.

    Attributes:
        outcome: None when it was not tried.
    """

    attempt: Attempt
    outcome: Outcome | None


def _wall_now() -> datetime:
    return datetime.now(UTC)


class WebhookCourier:
    """Signs, posts, and tells the breakers. Safe to share between threads."""

    def __init__(
        self,
        *,
        registry: WebhookRegistry,
        sender: WebhookSender,
        breakers: WebhookBreakers,
        clock: Clock,
        retry: RetryTerms,
        wall_now: Callable[[], datetime] = _wall_now,
    ) -> None:
        """Wire it.

        Args:
            wall_now: what requests are signed with: receivers compare it with their own clock,
                so it has to follow this machine's, sleeps and corrections included.
        """
        self._registry = registry
        self._sender = sender
        self._breakers = breakers
        self._clock = clock
        self._retry = retry
        self._wall_now = wall_now

    def deliver(self, delivery: Delivery) -> Errand:
        """Make one attempt."""
        webhook = self._known(delivery.webhook_id)
        if webhook is None:
            return Errand(attempt=untried(delivery, _UNKNOWN_WAIT_SECONDS), outcome=None)
        if not webhook.enabled:  # it waits, and is claimed again once it is enabled
            return Errand(attempt=untried(delivery), outcome=None)
        answer = self.send(webhook, delivery.notice)
        outcome = self._judge(webhook, answer)
        attempt = attempt_of(delivery, answer, now=self._clock.now(), terms=self._retry)
        _log(webhook, delivery, attempt)
        return Errand(attempt=attempt, outcome=outcome)

    def send(self, webhook: Webhook, notice: Notice) -> Answer:
        """Post a notice once, signed as of now; raises nothing, and tells no breaker."""
        now = self._wall_now()
        try:
            secrets = self._registry.signing_secrets(webhook).valid(now)
        except CrmWhatsappError as error:
            return Answer(
                status_code=None,
                retry_after_seconds=None,
                error=f"it could not be signed: {error.message}",
                took_seconds=0.0,
            )
        body = json.dumps(envelope(notice), separators=(",", ":"))
        signatures = [Signer(secret).sign(notice.id, now, body) for secret in secrets]
        headers = {
            "webhook-id": notice.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        return self._sender.post(webhook.url, headers, body.encode())

    def note_alive(self, webhook: Webhook) -> None:
        """Close the breaker of a target that has answered."""
        if self._breakers.answered(webhook.id):
            log.info("a webhook target answers again", webhook_id=webhook.id)

    def _known(self, webhook_id: str) -> Webhook | None:
        webhook = self._registry.find(webhook_id)
        if webhook is None or not webhook.enabled:  # another instance may know better
            try:
                self._registry.refresh()
            except CrmWhatsappError:
                return None
        return self._registry.find(webhook_id)

    def _judge(self, webhook: Webhook, answer: Answer) -> Outcome:
        """Tell the breaker, and end what is gone."""
        outcome = outcome_of(answer)
        if outcome not in TROUBLE:
            self.note_alive(webhook)
            if outcome is Outcome.GONE:
                self._end(webhook)
            return outcome
        asked = asked_wait(answer, self._retry)
        if asked is not None:
            opened = self._breakers.asked_to_wait(webhook.id, asked)
        else:
            opened = self._breakers.failed(webhook.id)
        if opened:
            log.warning(
                "a webhook target is left alone for a while",
                webhook_id=webhook.id,
                company_id=webhook.company_id,
                detail=answer.error,
            )
        return outcome

    def _end(self, webhook: Webhook) -> None:
        log.warning(
            "a webhook target answered 410 and is disabled",
            webhook_id=webhook.id,
            company_id=webhook.company_id,
        )
        try:
            self._registry.disable(webhook.id)
        except CrmWhatsappError as error:
            log.warning(
                "a webhook could not be disabled", webhook_id=webhook.id, detail=error.message
            )


def _log(webhook: Webhook, delivery: Delivery, attempt: Attempt) -> None:
    about = {
        "webhook_id": webhook.id,
        "company_id": delivery.notice.company_id,
        "delivery_id": delivery.id,
        "attempt": delivery.attempt,
    }
    if attempt.state is DeliveryState.DELIVERED:
        log.debug("a delivery arrived", **about)
    elif attempt.state is DeliveryState.PARKED:
        log.warning("a delivery is parked", detail=attempt.error, **about)
    else:
        log.warning(
            "a delivery failed and is tried again",
            detail=attempt.error,
            retry_in_seconds=round(attempt.retry_in_seconds, 1),
            **about,
        )
