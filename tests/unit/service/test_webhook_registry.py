"""Who wants to hear of what, and the webhook that the environment names."""

from dataclasses import replace

import pytest

from crm_whatsapp.domain.errors import StorageError, StoreUnavailable
from crm_whatsapp.domain.notices import NoticeKind
from crm_whatsapp.domain.snapshots import KeyMissing
from crm_whatsapp.domain.webhooks import Webhook, WebhookOrigin
from crm_whatsapp.service.webhook_registry import (
    ENVIRONMENT_WEBHOOK_ID,
    EnvironmentTarget,
    WebhookUnknown,
)
from crm_whatsapp.service.webhook_secrets import new_secret
from tests.unit.service.webhook_world import ACME, BOLT, WebhookWorld

TARGET = EnvironmentTarget(
    url="https://crm.example.com/all", kinds=frozenset({NoticeKind.ALERT}), secret=None
)


class TestWants:
    def test_everything_is_wanted_until_the_list_is_known(self) -> None:
        world = WebhookWorld()
        assert world.registry.wants(NoticeKind.MESSAGE, ACME)
        assert world.registry.target_ids is None
        world.registry.refresh()
        assert not world.registry.wants(NoticeKind.MESSAGE, ACME)
        assert world.registry.target_ids == frozenset()

    def test_kinds_and_companies(self) -> None:
        world = WebhookWorld()
        world.register(company_id=ACME, kinds=frozenset({NoticeKind.MESSAGE}))
        world.registry.refresh()
        wants = world.registry.wants
        assert wants(NoticeKind.MESSAGE, ACME)
        assert not wants(NoticeKind.MESSAGE, BOLT)
        assert not wants(NoticeKind.MESSAGE, None)
        assert not wants(NoticeKind.RECEIPT, ACME)

        world.register(kinds=frozenset())
        world.registry.refresh()
        assert wants(NoticeKind.RECEIPT, BOLT)
        assert wants(NoticeKind.ALERT, None)

    def test_disabled_webhooks_want_nothing(self) -> None:
        world = WebhookWorld()
        webhook = world.register(enabled=False)
        world.registry.refresh()
        assert not world.registry.wants(NoticeKind.ALERT, ACME)
        assert world.registry.target_ids == frozenset()
        assert world.registry.find(webhook.id) == webhook

    def test_an_outage_leaves_what_was_known(self) -> None:
        world = WebhookWorld()
        world.register()
        world.registry.refresh()
        world.database.reachable = False
        with pytest.raises(StoreUnavailable):
            world.registry.refresh()
        assert world.registry.wants(NoticeKind.ALERT, ACME)


class TestChanges:
    def test_a_change_is_known_at_once_and_told(self) -> None:
        world, told = WebhookWorld(), []
        webhook = world.register()
        world.registry.refresh()
        world.registry.on_change(lambda: told.append(1))
        world.registry.refresh()
        assert told == []
        changed = world.registry.change(webhook.id, lambda it: replace(it, enabled=False))
        assert changed.updated_at == world.clock.now()
        assert world.registry.find(webhook.id) == changed == world.database.webhooks[webhook.id]
        assert told == [1]

    def test_what_another_process_changed_meanwhile_is_kept(self) -> None:
        world = WebhookWorld()
        webhook = world.register()
        world.registry.refresh()
        world.database.save_webhook(replace(webhook, url="https://new.example.com/"))
        world.registry.change(webhook.id, lambda it: replace(it, enabled=False))
        assert world.database.webhooks[webhook.id].url == "https://new.example.com/"

    def test_what_is_not_there(self) -> None:
        world = WebhookWorld()
        for call in (
            lambda: world.registry.get(ACME),
            lambda: world.registry.change(ACME, lambda it: it),
            lambda: world.registry.remove(ACME),
        ):
            with pytest.raises(WebhookUnknown):
                call()

    def test_a_removed_webhook_is_gone(self) -> None:
        world = WebhookWorld()
        webhook = world.register()
        world.registry.refresh()
        world.registry.remove(webhook.id)
        assert world.registry.listing() == []
        assert world.database.webhooks == {}

    def test_disabling_twice_asks_the_database_once(self) -> None:
        world = WebhookWorld()
        webhook = world.register()
        world.registry.refresh()
        world.registry.disable(webhook.id)
        world.database.reachable = False
        world.registry.disable(webhook.id)


class TestEnvironment:
    def world(self, **changes: object) -> WebhookWorld:
        return WebhookWorld(environment=replace(TARGET, **changes))  # type: ignore[arg-type]

    def stored(self, world: WebhookWorld) -> Webhook:
        return world.database.webhooks[ENVIRONMENT_WEBHOOK_ID]

    def test_it_is_registered_with_a_secret_that_is_kept(self) -> None:
        world = self.world()
        world.registry.refresh()
        webhook = self.stored(world)
        assert webhook.origin is WebhookOrigin.ENVIRONMENT
        assert (webhook.company_id, webhook.url, webhook.kinds) == (None, TARGET.url, TARGET.kinds)
        assert webhook.enabled
        assert world.kept.secret == world.registry.signing_secrets(webhook).current

    def test_the_next_start_changes_nothing(self) -> None:
        world = self.world()
        world.registry.refresh()
        before = self.stored(world)
        world.clock.advance(100.0)
        following = world.next_process()
        following.registry.refresh()
        assert self.stored(following) == before

    def test_changes_of_the_environment_are_taken_over(self) -> None:
        world = self.world()
        world.registry.refresh()
        secret = new_secret()
        following = world.next_process()
        following.environment = EnvironmentTarget(
            url="https://other.example.com/", kinds=frozenset(), secret=secret
        )
        following.__post_init__()
        following.registry.refresh()
        webhook = self.stored(following)
        assert (webhook.url, webhook.kinds) == ("https://other.example.com/", frozenset())
        secrets = following.registry.signing_secrets(webhook)
        assert secrets.valid(world.clock.now()) == (secret, world.kept.secret)

    def test_without_the_variable_it_is_disabled_and_enabled_when_it_returns(self) -> None:
        world = self.world()
        world.registry.refresh()
        without = world.next_process()
        without.environment = None
        without.__post_init__()
        without.registry.refresh()
        assert not self.stored(without).enabled
        again = world.next_process()
        again.registry.refresh()
        assert self.stored(again).enabled

    def test_a_fresh_disk_goes_on_with_the_secret_that_receivers_know(self) -> None:
        world = self.world()
        world.registry.refresh()
        secret = world.kept.secret
        following = world.next_process()
        following.kept.secret = None
        following.registry.refresh()
        assert following.kept.secret == secret

    def test_a_secret_that_cannot_be_opened_is_replaced_by_the_kept_one(self) -> None:
        world = self.world()
        world.registry.refresh()
        world.vault.refusal = KeyMissing("gone")
        following = WebhookWorld(
            clock=world.clock,
            store=world.store,
            environment=TARGET,
            kept=world.kept,
            vault=world.vault,
        )
        following.registry.refresh()
        world.vault.refusal = None
        secrets = following.registry.signing_secrets(self.stored(following))
        assert secrets.valid(world.clock.now()) == (world.kept.secret,)

    def test_it_waits_for_the_database(self) -> None:
        world = self.world()
        world.database.reachable = False
        with pytest.raises(StoreUnavailable):
            world.registry.refresh()
        assert world.kept.secret is None
        world.database.reachable = True
        world.registry.refresh()
        assert self.stored(world).enabled

    def test_a_disk_that_refuses_keeps_no_other_target_waiting(self) -> None:
        world = self.world()
        other = world.register()
        world.kept.find = lambda: (_ for _ in ()).throw(StorageError("refused"))  # type: ignore[method-assign]
        with pytest.raises(StorageError):
            world.registry.refresh()
        assert world.registry.target_ids == {other.id}

    def test_one_that_was_disabled_while_running_stays_so_until_the_next_start(self) -> None:
        world = self.world()
        world.registry.refresh()
        world.registry.disable(ENVIRONMENT_WEBHOOK_ID)
        world.registry.refresh()
        assert not self.stored(world).enabled
        world.next_process().registry.refresh()
        assert self.stored(world).enabled
