"""What goes out, signed so that the library of Standard Webhooks takes it."""

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError
from standardwebhooks import webhooks as library

from crm_whatsapp.domain.snapshots import KeyMissing
from crm_whatsapp.domain.webhooks import Delivery, DeliveryState
from crm_whatsapp.service.webhook_secrets import new_secret
from crm_whatsapp.service.webhook_verdict import Outcome
from tests.unit.service.fakes import NOON
from tests.unit.service.webhook_world import ACME, URL, Request, WebhookWorld, answer, notice


@pytest.fixture
def world() -> WebhookWorld:
    return WebhookWorld()


@pytest.fixture(autouse=True)
def at_noon(world: WebhookWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the verifying library look at the same clock."""

    class Then(library.datetime):  # type: ignore[name-defined,misc]
        @classmethod
        def now(cls, tz: object = None) -> object:
            return world.clock.now()

    monkeypatch.setattr(library, "datetime", Then)


def delivery_to(webhook_id: str, **changes: object) -> Delivery:
    made = Delivery(
        id=1,
        webhook_id=webhook_id,
        lane="1",
        notice=notice(),
        attempt=1,
        queued_at=NOON,
        token="t",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def verified(request: Request, secret: str) -> object:
    return Verifier(secret).verify(request.body, dict(request.headers))


def test_a_delivery_as_it_goes_out(world: WebhookWorld) -> None:
    webhook = world.register(secret=new_secret())
    world.registry.refresh()
    delivery = delivery_to(webhook.id)
    errand = world.courier.deliver(delivery)
    assert errand.outcome is Outcome.DELIVERED
    assert errand.attempt.state is DeliveryState.DELIVERED
    request = world.targets.requests[0]
    assert request.url == URL
    assert request.headers["webhook-id"] == delivery.notice.id
    assert request.headers["webhook-timestamp"] == str(int(world.clock.now().timestamp()))
    assert verified(request, webhook.secret.value) == {
        "id": delivery.notice.id,
        "type": "session.status",
        "timestamp": "2026-11-21T12:00:00Z",
        "company_id": ACME,
        "data": {"number": 0, "message": "olá"},
    }
    with pytest.raises(WebhookVerificationError):
        verified(request, new_secret())


def test_both_secrets_sign_while_one_takes_over(world: WebhookWorld) -> None:
    old, new = new_secret(), new_secret()
    webhook = world.register(secret=old)
    world.registry.change(webhook.id, lambda it: world.registry.replaced_secret(it, new))
    world.courier.deliver(delivery_to(webhook.id))
    for secret in (old, new):
        verified(world.targets.requests[0], secret)
    world.clock.advance(timedelta(days=2).total_seconds())
    world.courier.deliver(delivery_to(webhook.id))
    verified(world.targets.requests[1], new)
    with pytest.raises(WebhookVerificationError):
        verified(world.targets.requests[1], old)


def test_what_cannot_be_signed_is_not_sent(world: WebhookWorld) -> None:
    webhook = world.register()
    world.registry.refresh()
    world.vault.refusal = KeyMissing("The key k1 is not there.")
    errand = world.courier.deliver(delivery_to(webhook.id))
    assert errand.attempt.state is DeliveryState.PENDING
    assert errand.attempt.error == "it could not be signed: The key k1 is not there."
    assert world.targets.requests == []


def test_a_webhook_of_another_process_is_looked_up(world: WebhookWorld) -> None:
    world.registry.refresh()
    webhook = world.register()
    assert world.courier.deliver(delivery_to(webhook.id)).outcome is Outcome.DELIVERED


@pytest.mark.parametrize("reachable", [True, False])
def test_a_webhook_that_is_gone_gets_nothing(world: WebhookWorld, reachable: bool) -> None:
    world.registry.refresh()
    world.database.reachable = reachable
    errand = world.courier.deliver(delivery_to(str(uuid.uuid4())))
    assert errand.outcome is None
    assert errand.attempt.state is DeliveryState.PENDING
    assert (errand.attempt.status_code, errand.attempt.error) == (None, None)
    assert errand.attempt.retry_in_seconds == 30.0


def test_a_disabled_webhook_gets_nothing_and_its_delivery_waits(world: WebhookWorld) -> None:
    webhook = world.register(enabled=False)
    world.registry.refresh()
    errand = world.courier.deliver(delivery_to(webhook.id))
    assert errand.outcome is None
    assert errand.attempt.retry_in_seconds == 0.0
    assert world.targets.requests == []


def test_410_ends_the_webhook(world: WebhookWorld) -> None:
    webhook = world.register()
    world.registry.refresh()
    world.targets.replies[URL] = lambda _: answer(410)
    errand = world.courier.deliver(delivery_to(webhook.id))
    assert errand.attempt.state is DeliveryState.PARKED
    assert not world.database.webhooks[webhook.id].enabled


def test_410_while_the_database_is_away(world: WebhookWorld) -> None:
    webhook = world.register()
    world.registry.refresh()
    world.database.reachable = False
    world.targets.replies[URL] = lambda _: answer(410)
    assert world.courier.deliver(delivery_to(webhook.id)).outcome is Outcome.GONE


def test_only_trouble_of_the_target_opens_its_breaker(world: WebhookWorld) -> None:
    webhook = world.register()
    world.registry.refresh()
    for status in (404, 400, 302):
        world.targets.replies[URL] = lambda _, status=status: answer(status)
        for _ in range(10):
            world.courier.deliver(delivery_to(webhook.id))
    assert world.breakers.open_ids() == []
    world.targets.replies[URL] = lambda _: answer(500)
    for _ in range(5):
        world.courier.deliver(delivery_to(webhook.id))
    assert world.breakers.open_ids() == [webhook.id]


def test_retry_after_rests_the_target_at_once(world: WebhookWorld) -> None:
    webhook = world.register()
    world.registry.refresh()
    world.targets.replies[URL] = lambda _: answer(429, retry_after=40.0)
    world.courier.deliver(delivery_to(webhook.id))
    assert world.breakers.next_try_seconds() == 40.0
