"""What readiness and alerts hear of webhooks."""

import pytest

from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.service.webhook_health import WebhookHealth
from tests.unit.service.webhook_world import WebhookWorld, answer


def make() -> tuple[WebhookWorld, WebhookHealth]:
    world = WebhookWorld()
    health = WebhookHealth(
        registry=world.registry,
        store=world.database,
        dispatcher=world.dispatcher,
        breakers=world.breakers,
    )
    return world, health


def test_all_is_well_without_and_with_targets() -> None:
    world, health = make()
    assert health.check().ok
    world.register()
    world.register(enabled=False)
    world.queue(2)
    health.refresh()
    check = health.check()
    assert (check.name, check.ok, check.detail) == (
        "webhooks",
        True,
        "1 webhooks are told of what happens",
    )
    assert (check.data["webhooks"], check.data["enabled"], check.data["waiting"]) == (2, 1, 2)
    assert health.parked() == {}


def test_resting_targets_and_parked_deliveries_need_somebody() -> None:
    world, health = make()
    webhook = world.register()
    world.queue(2)
    health.refresh()
    world.targets.replies[webhook.url] = lambda _: answer(410)
    delivery = world.database.claim("o", lanes=1, per_lane=1, hold_seconds=60.0).deliveries[0]
    world.database.settle([world.courier.deliver(delivery).attempt])
    world.breakers.asked_to_wait(webhook.id, 60.0)
    health.refresh()
    check = health.check()
    assert not check.ok
    assert check.detail == (
        "1 targets do not answer; 1 deliveries were given up and wait to be redelivered"
    )
    assert health.parked() == {f"crm.example.com ({webhook.id})": 1}
    assert health.waiting() == 1


def test_an_outage_leaves_what_was_counted() -> None:
    world, health = make()
    world.register()
    world.queue(2)
    health.refresh()
    world.database.reachable = False
    with pytest.raises(StoreUnavailable):
        health.refresh()
    assert health.waiting() == 2


def test_removed_targets_are_forgotten() -> None:
    world, health = make()
    webhook = world.register()
    health.refresh()
    world.breakers.asked_to_wait(webhook.id, 60.0)
    world.database.remove_webhook(webhook.id)
    health.refresh()
    assert health.check().ok
