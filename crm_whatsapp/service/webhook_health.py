"""How webhooks fare: for readiness, alerts and metrics."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from crm_whatsapp.domain.webhooks import DeliveryState, WebhookStore
from crm_whatsapp.service.readiness import ReadinessCheck
from crm_whatsapp.service.webhook_breaker import WebhookBreakers
from crm_whatsapp.service.webhook_dispatcher import WebhookDispatcher
from crm_whatsapp.service.webhook_registry import WebhookRegistry


class WebhookHealth:
    """Answers from memory; `refresh` is run by a job."""

    def __init__(
        self,
        *,
        registry: WebhookRegistry,
        store: WebhookStore,
        dispatcher: WebhookDispatcher,
        breakers: WebhookBreakers,
    ) -> None:
        self._registry = registry
        self._store = store
        self._dispatcher = dispatcher
        self._breakers = breakers
        self._counts: Mapping[tuple[str, DeliveryState], int] = {}

    def refresh(self) -> None:
        """Read the list of webhooks and, where there are any, how many deliveries wait.

        Raises:
            StoreUnavailable, StoreRejected: what was known stays.
        """
        self._registry.refresh()
        known = [webhook.id for webhook in self._registry.listing()]
        self._breakers.keep_only(known)
        self._counts = self._store.counts() if known else {}

    def waiting(self) -> int:
        """Return how many deliveries were waiting when last counted."""
        return sum(n for (_, state), n in self._counts.items() if state is DeliveryState.PENDING)

    def parked(self) -> Mapping[str, int]:
        """Return the webhooks with deliveries given up, as last counted: a name -> how many."""
        hosts = {item.id: urlsplit(item.url).hostname for item in self._registry.listing()}
        return {
            f"{hosts.get(webhook_id) or 'unknown'} ({webhook_id})": count
            for (webhook_id, state), count in self._counts.items()
            if state is DeliveryState.PARKED and count
        }

    def check(self) -> ReadinessCheck:
        """Return the check of readiness. It never says that this pod cannot serve."""
        figures = self._dispatcher.figures()
        troubled = len(self._breakers.troubled_ids())
        parked = sum(self.parked().values())
        problems = []
        if self._dispatcher.problem is not None:
            problems.append(f"the queue cannot be reached: {self._dispatcher.problem}")
        if troubled:
            problems.append(f"{troubled} targets do not answer")
        if parked:
            problems.append(f"{parked} deliveries were given up and wait to be redelivered")
        webhooks = self._registry.listing()
        data: dict[str, Any] = {
            "webhooks": len(webhooks),
            "enabled": sum(item.enabled for item in webhooks),
            "waiting": self.waiting(),
            "parked": parked,
            "in_flight": figures.in_flight,
            "open_breakers": troubled,
            "outcomes": {outcome.value: count for outcome, count in figures.outcomes.items()},
            "last_problem": figures.last_problem,
        }
        return ReadinessCheck(
            name="webhooks",
            ok=not problems,
            detail="; ".join(problems) or f"{data['enabled']} webhooks are told of what happens",
            data=data,
        )
