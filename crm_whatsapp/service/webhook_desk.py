"""What the API asks of webhooks: registering, changing, trying, looking up and sending again."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from crm_whatsapp.domain.errors import InvalidInput, ServiceBusy, WrongState
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.webhooks import (
    Answer,
    DeliveryRecord,
    DeliveryState,
    Webhook,
    WebhookOrigin,
    WebhookStore,
)
from crm_whatsapp.service.status_notices import iso_text
from crm_whatsapp.service.webhook_breaker import WebhookBreakers
from crm_whatsapp.service.webhook_courier import WebhookCourier
from crm_whatsapp.service.webhook_registry import WebhookRegistry
from crm_whatsapp.service.webhook_secrets import SecretVault, check_secret, new_secret

_MOST_PER_COMPANY = 50
_MOST_TESTS = 4


class SetByEnvironment(WrongState):
    """This webhook comes from WEBHOOK_URL: change it there and restart."""

    code = "set-by-environment"


class TooManyWebhooks(WrongState):
    """There are too many webhooks already."""

    code = "too-many-webhooks"


class WebhookTestFailed(WrongState):
    """The target did not take the test."""

    code = "test-not-taken"


class WebhookDesk:
    """Serves requests; every answer is what the database says now."""

    def __init__(
        self,
        *,
        registry: WebhookRegistry,
        store: WebhookStore,
        courier: WebhookCourier,
        breakers: WebhookBreakers,
        vault: SecretVault,
        clock: Clock,
        check_url: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        """Wire it.

        Args:
            check_url: raises InvalidInput for a URL that will never be spoken to.
            wake: called after something was queued.
        """
        self._registry = registry
        self._store = store
        self._courier = courier
        self._breakers = breakers
        self._vault = vault
        self._clock = clock
        self._check_url = check_url
        self._wake = wake
        self._tests = threading.BoundedSemaphore(_MOST_TESTS)

    def listing(self) -> list[Webhook]:
        """Return all webhooks, oldest first; raises as WebhookRegistry.refresh."""
        self._registry.refresh()
        return self._registry.listing()

    def get(self, webhook_id: str) -> Webhook:
        """Return one; raises as WebhookRegistry.get."""
        return self._registry.get(webhook_id)

    def create(
        self,
        *,
        company_id: str | None,
        url: str,
        kinds: frozenset[NoticeKind],
        secret: str | None,
    ) -> tuple[Webhook, str]:
        """Register a target; return it with its secret, which is never shown again.

        Raises:
            InvalidInput: the URL or the secret is not usable.
            TooManyWebhooks: of this company.
            StoreUnavailable, StoreRejected, ServiceBusy: nothing was registered.
        """
        self._check_url(url)
        chosen = check_secret(secret) if secret is not None else new_secret()
        present = Counter(item.company_id for item in self.listing())
        if present[company_id] >= _MOST_PER_COMPANY:
            raise TooManyWebhooks(
                f"There are {present[company_id]} webhooks already; remove one first."
            )
        webhook_id = str(uuid.uuid4())
        now = self._clock.now()
        webhook = Webhook(
            id=webhook_id,
            company_id=company_id,
            url=url,
            kinds=kinds,
            secret=self._vault.seal(webhook_id, chosen),
            enabled=True,
            origin=WebhookOrigin.API,
            created_at=now,
            updated_at=now,
        )
        self._registry.add(webhook)
        return webhook, chosen

    def change(
        self,
        webhook_id: str,
        *,
        url: str | None,
        kinds: frozenset[NoticeKind] | None,
        enabled: bool | None,
        secret: str | None,
        makes_secret: bool,
    ) -> tuple[Webhook, str | None]:
        """Change what is not None; return the target, and its secret if that is another now.

        Args:
            secret: takes over; the one before it goes on signing for a while.
            makes_secret: has a fresh one made instead.

        Raises:
            WebhookUnknown, SetByEnvironment, InvalidInput; otherwise as create.
        """
        if url is not None:
            self._check_url(url)
        if secret is not None and makes_secret:
            raise InvalidInput("secret and rotate_secret exclude each other.", field="secret")
        chosen = check_secret(secret) if secret is not None else None
        fresh = new_secret() if makes_secret else chosen

        def edit(webhook: Webhook) -> Webhook:
            _require_api(webhook)
            edited = replace(
                webhook,
                url=webhook.url if url is None else url,
                kinds=webhook.kinds if kinds is None else kinds,
                enabled=webhook.enabled if enabled is None else enabled,
            )
            return edited if fresh is None else self._registry.replaced_secret(edited, fresh)

        return self._registry.change(webhook_id, edit), fresh

    def remove(self, webhook_id: str) -> None:
        """Remove a target with its deliveries.

        Raises:
            WebhookUnknown, SetByEnvironment; otherwise as create.
        """
        _require_api(self._registry.get(webhook_id))
        self._registry.remove(webhook_id)

    def deliveries(
        self,
        webhook_id: str,
        *,
        state: DeliveryState | None,
        before: int | None,
        limit: int,
    ) -> list[DeliveryRecord]:
        """Return the delivery log, newest first."""
        return self._store.deliveries(webhook_id, state=state, before=before, limit=limit)

    def counts(self, webhook_id: str) -> Mapping[DeliveryState, int]:
        """Return how many of its deliveries are in each state."""
        counts = self._store.counts()
        return {state: counts.get((webhook_id, state), 0) for state in DeliveryState}

    def is_resting(self, webhook_id: str) -> bool:
        """Tell whether the target did not answer and is left alone for a while."""
        return webhook_id in self._breakers.troubled_ids()

    def redeliver(self, webhook_id: str, delivery_ids: Sequence[int] | None) -> int:
        """Queue these again, or all parked ones, at the end; return how many were queued."""
        queued = self._store.redeliver(webhook_id, delivery_ids)
        if queued:
            self._wake()
        return queued

    def test(self, webhook_id: str) -> Answer:
        """Send a test notice now, past queue and breaker, and return what came of it.

        Raises:
            WebhookUnknown.
            WebhookTestFailed: details status_code and took_ms.
            ServiceBusy: too many tests are under way; otherwise as create.
        """
        webhook = self._registry.get(webhook_id)
        if not self._tests.acquire(blocking=False):
            raise ServiceBusy("Too many tests are under way; try again in a moment.")
        try:
            answer = self._courier.send(webhook, self._test_notice(webhook))
        finally:
            self._tests.release()
        if answer.error is not None:
            raise WebhookTestFailed(
                f"The target did not take the test: {answer.error}.",
                status_code=answer.status_code,
                took_ms=round(answer.took_seconds * 1000),
            )
        self._courier.note_alive(webhook)
        self._wake()
        return answer

    def _test_notice(self, webhook: Webhook) -> Notice:
        """Return an alert in the form of the others, of something that is over."""
        now = self._clock.now()
        return Notice(
            id=str(uuid.uuid4()),
            kind=NoticeKind.ALERT,
            company_id=webhook.company_id,
            occurred_at=now,
            data={
                "kind": "webhook-test",
                "state": "resolved",
                "severity": "warning",
                "summary": "This is a test of the webhook. Nothing has happened.",
                "since": iso_text(now),
                "user_action": "none",
            },
        )


def _require_api(webhook: Webhook) -> None:
    if webhook.origin is WebhookOrigin.ENVIRONMENT:
        raise SetByEnvironment()
