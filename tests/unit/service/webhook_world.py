"""Webhooks in memory: the real service parts on a fake database, before targets that obey tests."""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.webhooks import (
    Answer,
    DeliveryState,
    SealedSecret,
    Webhook,
    WebhookOrigin,
    WebhookSender,
)
from crm_whatsapp.service.webhook_breaker import WebhookBreakers
from crm_whatsapp.service.webhook_courier import WebhookCourier
from crm_whatsapp.service.webhook_desk import WebhookDesk
from crm_whatsapp.service.webhook_dispatcher import DispatchTerms, WebhookDispatcher
from crm_whatsapp.service.webhook_lanes import Share
from crm_whatsapp.service.webhook_registry import (
    EnvironmentTarget,
    RegistryParts,
    WebhookRegistry,
)
from crm_whatsapp.service.webhook_secrets import new_secret
from crm_whatsapp.service.webhook_verdict import RetryTerms
from tests.contract.webhook_fakes import FakeWebhookStore
from tests.unit.service.fakes import NOON, ManualClock, Signal

ACME = "aaaaaaaa-0000-4000-8000-000000000001"
BOLT = "bbbbbbbb-0000-4000-8000-000000000002"
URL = "https://crm.example.com/hooks"
OWNER = "cccccccc-0000-4000-8000-000000000003"

RETRY = RetryTerms(first_seconds=5.0, longest_seconds=3600.0, for_seconds=86_400.0)


def answer(status: int | None = 204, *, retry_after: float | None = None) -> Answer:
    """Return what a target answers; None is no answer at all."""
    is_good = status is not None and status // 100 == 2
    return Answer(
        status_code=status,
        retry_after_seconds=retry_after,
        error=None if is_good else f"answered {status}" if status else "no connection",
        took_seconds=0.01,
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What a target got."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The envelope."""
        return dict(json.loads(self.body))


class FakeTargets(WebhookSender):
    """Every target. `replies` decides by URL; it may block, and raise."""

    def __init__(self) -> None:
        self.signal = Signal()
        self.requests: list[Request] = []
        self.replies: dict[str, Callable[[Request], Answer]] = {}
        self.under_way = 0
        self.most_under_way: dict[str, int] = {}
        self._now: dict[str, int] = {}

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        request = Request(url, dict(headers), body)
        with self.signal:
            self.requests.append(request)
            self._now[url] = self._now.get(url, 0) + 1
            self.most_under_way[url] = max(self.most_under_way.get(url, 0), self._now[url])
        try:
            return self.replies.get(url, lambda _: answer())(request)
        finally:
            with self.signal:
                self._now[url] -= 1

    def await_requests(self, count: int, url: str | None = None) -> list[Request]:
        """Wait until so many requests came in; return them."""

        def got() -> list[Request]:
            return [item for item in self.requests if url in (None, item.url)]

        self.signal.wait_until(lambda: len(got()) >= count, f"{count} requests to {url}")
        return got()


class PlainVault:
    """Seals nothing, and can lose a key."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None

    def seal(self, webhook_id: str, text: str) -> SealedSecret:
        return SealedSecret(key_id=None, value=text)

    def open(self, webhook_id: str, sealed: SealedSecret) -> str:
        if self.refusal is not None:
            raise self.refusal
        return sealed.value

    def is_current(self, sealed: SealedSecret) -> bool:
        return sealed.key_id is None


class KeptInMemory:
    """The secret file."""

    place = "/sessions/webhook-secret"

    def __init__(self) -> None:
        self.secret: str | None = None

    def find(self) -> str | None:
        return self.secret

    def keep(self, secret: str) -> None:
        self.secret = secret


def refuse_bad_urls(url: str) -> None:
    """Refuse what the address guard would."""
    if not url.startswith("https://"):
        raise InvalidInput("url must begin with https://.", field="url")


@dataclass(slots=True)
class WebhookWorld:
    """One process. `next_process` is the one after it, on the same database."""

    clock: ManualClock = field(default_factory=ManualClock)
    store: FakeWebhookStore | None = None
    environment: EnvironmentTarget | None = None
    kept: KeptInMemory = field(default_factory=KeptInMemory)
    vault: PlainVault = field(default_factory=PlainVault)
    targets: FakeTargets = field(default_factory=FakeTargets)
    share: Share = field(default_factory=lambda: Share(threads=8, per_target=4))
    per_lane: int = 20
    breaker_failures: int = 5
    registry: WebhookRegistry = field(init=False)
    breakers: WebhookBreakers = field(init=False)
    courier: WebhookCourier = field(init=False)
    dispatcher: WebhookDispatcher = field(init=False)
    desk: WebhookDesk = field(init=False)

    def __post_init__(self) -> None:
        store = self.store = self.store or FakeWebhookStore(now=self.clock.now)
        self.registry = WebhookRegistry(
            RegistryParts(
                store=store,
                clock=self.clock,
                vault=self.vault,
                kept_secret=self.kept,
                environment=self.environment,
                secret_overlap_seconds=86_400.0,
            )
        )
        self.breakers = WebhookBreakers(
            self.clock, failures=self.breaker_failures, open_seconds=60.0
        )
        self.courier = WebhookCourier(
            registry=self.registry,
            sender=self.targets,
            breakers=self.breakers,
            clock=self.clock,
            retry=RETRY,
            wall_now=self.clock.now,
        )
        self.dispatcher = WebhookDispatcher(
            store=store,
            registry=self.registry,
            courier=self.courier,
            breakers=self.breakers,
            clock=self.clock,
            owner_id=OWNER,
            terms=DispatchTerms(
                share=self.share,
                per_lane=self.per_lane,
                hold_seconds=60.0,
                request_seconds=10.0,
                idle_seconds=300.0,
                longest_wait_seconds=0.5,
            ),
        )
        self.registry.on_change(self.dispatcher.wake)
        self.desk = WebhookDesk(
            registry=self.registry,
            store=store,
            courier=self.courier,
            breakers=self.breakers,
            vault=self.vault,
            clock=self.clock,
            check_url=refuse_bad_urls,
            wake=self.dispatcher.wake,
        )

    @property
    def database(self) -> FakeWebhookStore:
        """The store."""
        assert self.store is not None
        return self.store

    def next_process(self) -> "WebhookWorld":
        """Return the process that follows on the same database, with the same targets."""
        return WebhookWorld(
            clock=self.clock,
            store=self.database,
            environment=self.environment,
            kept=self.kept,
            targets=self.targets,
        )

    def register(
        self,
        *,
        company_id: str | None = None,
        url: str = URL,
        kinds: frozenset[NoticeKind] = frozenset(),
        enabled: bool = True,
        origin: WebhookOrigin = WebhookOrigin.API,
        secret: str | None = None,
    ) -> Webhook:
        """Put a webhook into the database, as another process would."""
        webhook = Webhook(
            id=str(uuid.uuid4()),
            company_id=company_id,
            url=url,
            kinds=kinds,
            secret=SealedSecret(key_id=None, value=secret or new_secret()),
            enabled=enabled,
            origin=origin,
            created_at=NOON,
            updated_at=NOON,
        )
        self.database.save_webhook(webhook)
        return webhook

    def queue(self, count: int = 1, company_id: str | None = ACME) -> list[Notice]:
        """Queue notices, as the database does with transitions; wakes nobody."""
        notices = [notice(company_id, number) for number in range(count)]
        self.database.enqueue(notices)
        return notices

    def states(self, webhook: Webhook) -> list[DeliveryState]:
        """Return the states of its deliveries, in the order in which they were queued first."""
        rows = sorted(self.database.rows.items())
        return [row.record.state for _, row in rows if row.record.webhook_id == webhook.id]


def notice(
    company_id: str | None = ACME, number: int = 0, kind: NoticeKind = NoticeKind.STATUS
) -> Notice:
    """Return something that happened."""
    return Notice(
        id=str(uuid.uuid4()),
        kind=kind,
        company_id=company_id,
        occurred_at=NOON,
        data={"number": number, "message": "olá"},
    )
