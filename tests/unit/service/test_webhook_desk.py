"""Registering, changing, trying and sending again."""

import pytest

from crm_whatsapp.domain.errors import InvalidInput, ServiceBusy, StoreUnavailable
from crm_whatsapp.domain.notices import NoticeKind
from crm_whatsapp.domain.webhooks import DeliveryState, Webhook, WebhookOrigin
from crm_whatsapp.service.webhook_desk import SetByEnvironment, TooManyWebhooks, WebhookTestFailed
from crm_whatsapp.service.webhook_registry import WebhookUnknown
from crm_whatsapp.service.webhook_secrets import new_secret
from tests.unit.service.webhook_world import ACME, BOLT, URL, WebhookWorld, answer


@pytest.fixture
def world() -> WebhookWorld:
    return WebhookWorld()


def create(
    world: WebhookWorld, company_id: str | None = ACME, secret: str | None = None
) -> tuple[Webhook, str]:
    return world.desk.create(company_id=company_id, url=URL, kinds=frozenset(), secret=secret)


def change(world: WebhookWorld, webhook_id: str, **values: object) -> tuple[Webhook, str | None]:
    nothing = {"url": None, "kinds": None, "enabled": None, "secret": None, "makes_secret": False}
    return world.desk.change(webhook_id, **{**nothing, **values})  # type: ignore[arg-type]


def test_a_target_is_registered_with_a_secret_of_its_own(world: WebhookWorld) -> None:
    webhook, secret = create(world)
    assert world.database.webhooks[webhook.id] == webhook
    assert world.registry.signing_secrets(webhook).current == secret
    assert (webhook.company_id, webhook.origin) == (ACME, WebhookOrigin.API)
    assert create(world)[1] != secret


def test_a_secret_may_be_brought_along(world: WebhookWorld) -> None:
    mine = new_secret()
    assert create(world, secret=mine)[1] == mine
    with pytest.raises(InvalidInput):
        create(world, secret="hunter2")


def test_bad_urls_are_refused_before_anything_is_asked(world: WebhookWorld) -> None:
    world.database.reachable = False
    with pytest.raises(InvalidInput):
        world.desk.create(company_id=None, url="ftp://x", kinds=frozenset(), secret=None)


def test_an_outage_registers_nothing(world: WebhookWorld) -> None:
    world.database.reachable = False
    with pytest.raises(StoreUnavailable):
        create(world)


def test_a_company_has_a_bounded_number(world: WebhookWorld) -> None:
    for _ in range(50):
        world.register(company_id=ACME)
    with pytest.raises(TooManyWebhooks):
        create(world)
    create(world, BOLT)


def test_changes(world: WebhookWorld) -> None:
    webhook, _ = create(world)
    changed, secret = change(
        world,
        webhook.id,
        url="https://b.example.com/",
        kinds=frozenset({NoticeKind.QR}),
        enabled=False,
    )
    assert secret is None
    assert (changed.url, changed.kinds, changed.enabled) == (
        "https://b.example.com/",
        frozenset({NoticeKind.QR}),
        False,
    )
    assert changed.secret == webhook.secret
    assert change(world, webhook.id, kinds=frozenset())[0].kinds == frozenset()
    with pytest.raises(InvalidInput):
        change(world, webhook.id, url="http://x")
    with pytest.raises(WebhookUnknown):
        change(world, ACME, enabled=True)


def test_a_replaced_secret_goes_on_signing_for_a_day(world: WebhookWorld) -> None:
    webhook, old = create(world)
    changed, new = change(world, webhook.id, makes_secret=True)
    assert new is not None
    now = world.clock.now()
    assert world.registry.signing_secrets(changed).valid(now) == (new, old)
    mine = new_secret()
    changed, shown = change(world, webhook.id, secret=mine)
    assert shown == mine
    assert world.registry.signing_secrets(changed).valid(now) == (mine, new)
    with pytest.raises(InvalidInput):
        change(world, webhook.id, secret=mine, makes_secret=True)


def test_the_webhook_of_the_environment_is_changed_there(world: WebhookWorld) -> None:
    webhook = world.register(origin=WebhookOrigin.ENVIRONMENT)
    with pytest.raises(SetByEnvironment):
        change(world, webhook.id, enabled=False)
    with pytest.raises(SetByEnvironment):
        world.desk.remove(webhook.id)
    world.desk.test(webhook.id)


def test_a_removed_target_takes_its_deliveries_along(world: WebhookWorld) -> None:
    webhook, _ = create(world)
    world.queue(3)
    world.desk.remove(webhook.id)
    assert world.database.rows == {}
    with pytest.raises(WebhookUnknown):
        world.desk.get(webhook.id)


def test_counts_log_and_redelivery(world: WebhookWorld) -> None:
    webhook, _ = create(world)
    world.queue(3)
    assert world.desk.counts(webhook.id) == {
        DeliveryState.PENDING: 3,
        DeliveryState.DELIVERED: 0,
        DeliveryState.PARKED: 0,
    }
    records = world.desk.deliveries(webhook.id, state=None, before=None, limit=2)
    assert [record.id for record in records] == [3, 2]
    assert world.desk.redeliver(webhook.id, [1]) == 0


class TestTest:
    def test_it_is_sent_now_and_shown(self, world: WebhookWorld) -> None:
        webhook, _ = create(world)
        world.breakers.asked_to_wait(webhook.id, 60.0)
        assert world.desk.is_resting(webhook.id)
        assert world.desk.test(webhook.id).status_code == 204
        event = world.targets.requests[0].event
        assert (event["type"], event["company_id"]) == ("session.alert", ACME)
        assert event["data"]["kind"] == "webhook-test"
        assert world.database.rows == {}
        assert not world.desk.is_resting(webhook.id), "it answers: no reason to rest"

    def test_what_is_not_taken_is_an_error(self, world: WebhookWorld) -> None:
        webhook, _ = create(world)
        world.targets.replies[URL] = lambda _: answer(500)
        with pytest.raises(WebhookTestFailed) as refusal:
            world.desk.test(webhook.id)
        assert refusal.value.details == {"status_code": 500, "took_ms": 10}
        assert "answered 500" in refusal.value.message

    def test_not_too_many_at_once(self, world: WebhookWorld) -> None:
        webhook, _ = create(world)
        for _ in range(4):
            world.desk._tests.acquire()
        with pytest.raises(ServiceBusy):
            world.desk.test(webhook.id)
