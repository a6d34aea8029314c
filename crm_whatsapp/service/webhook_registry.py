"""The registered webhooks, in memory: who wants to hear of what is asked for every notice."""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from crm_whatsapp.domain.errors import CrmWhatsappError, NotFound, ServiceBusy
from crm_whatsapp.domain.notices import NoticeKind
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.webhooks import Webhook, WebhookOrigin, WebhookStore
from crm_whatsapp.service.webhook_secrets import (
    KeptSecret,
    SecretVault,
    SigningSecrets,
    new_secret,
)

log = structlog.get_logger(__name__)

ENVIRONMENT_WEBHOOK_ID = str(uuid.uuid5(uuid.NAMESPACE_URL, "urn:crm-whatsapp:webhook-url"))
"""The same in every pod of one database, so that all of them speak of one webhook."""

_TURN_SECONDS = 10.0


class WebhookUnknown(NotFound):
    """There is no webhook with this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentTarget:
    """The target that WEBHOOK_URL names.

    Attributes:
        kinds: empty means all.
        secret: None has one made and kept.
    """

    url: str
    kinds: frozenset[NoticeKind]
    secret: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryParts:
    """What the registry works with.

    Attributes:
        secret_overlap_seconds: how long the secret before a change goes on signing.
    """

    store: WebhookStore
    clock: Clock
    vault: SecretVault
    kept_secret: KeptSecret
    environment: EnvironmentTarget | None
    secret_overlap_seconds: float


class WebhookRegistry:
    """Knows every webhook; while the database is away, as it was last known."""

    def __init__(self, parts: RegistryParts) -> None:
        self._parts = parts
        self._turn = threading.Lock()  # one at a time reads the list and writes to it
        self._webhooks: Mapping[str, Webhook] | None = None
        self._environment_done = False
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have it called after the list has changed, or may have."""
        self._listeners.append(listener)

    @property
    def is_loaded(self) -> bool:
        """Tell whether the list has been read since the start."""
        return self._webhooks is not None

    @property
    def target_ids(self) -> frozenset[str] | None:
        """Return the webhooks that are enabled; None while that is not known."""
        known = self._webhooks
        if known is None:
            return None
        return frozenset(item.id for item in known.values() if item.enabled)

    def wants(self, kind: NoticeKind, company_id: str | None) -> bool:
        """Tell, from memory, whether any webhook wants to hear of it.

        True while the list has not been loaded yet: better queued for nobody than lost.
        """
        known = self._webhooks
        if known is None:
            return True
        return any(_wants(item, kind, company_id) for item in known.values())

    def find(self, webhook_id: str) -> Webhook | None:
        """Return the webhook, from memory."""
        known = self._webhooks
        return known.get(webhook_id) if known is not None else None

    def listing(self) -> list[Webhook]:
        """Return all of them, from memory, oldest first."""
        return sorted((self._webhooks or {}).values(), key=lambda item: (item.created_at, item.id))

    def refresh(self) -> None:
        """Read the list anew; the first time, bring the environment's webhook up to date.

        Raises:
            StoreUnavailable, StoreRejected: what was known stays.
            StorageError: the environment's secret cannot be kept.
            ServiceBusy: others wait for the database already.
        """
        with self._in_turn():
            before = self._webhooks
            self._load()
            changed = self._webhooks != before
        if changed:
            self._tell()

    def get(self, webhook_id: str) -> Webhook:
        """Return the webhook as the database has it.

        Raises:
            WebhookUnknown: there is none. Otherwise as refresh.
        """
        with self._in_turn():
            return self._get(webhook_id)

    def add(self, webhook: Webhook) -> None:
        """Register a new one; raises as refresh."""
        with self._in_turn():
            self._save(webhook)
        self._tell()

    def change(self, webhook_id: str, edit: Callable[[Webhook], Webhook]) -> Webhook:
        """Replace a webhook by what `edit` makes of it, as the database has it now.

        Raises:
            WebhookUnknown: there is none. Otherwise as refresh, and what `edit` raises.
        """
        with self._in_turn():
            changed = replace(edit(self._get(webhook_id)), updated_at=self._parts.clock.now())
            self._save(changed)
        self._tell()
        return changed

    def remove(self, webhook_id: str) -> None:
        """Remove a webhook with its deliveries.

        Raises:
            WebhookUnknown: there is none. Otherwise as refresh.
        """
        with self._in_turn():
            removed = self._parts.store.remove_webhook(webhook_id)
            self._webhooks = {
                key: item for key, item in (self._webhooks or {}).items() if key != webhook_id
            }
        if not removed:
            raise WebhookUnknown()
        self._tell()

    def disable(self, webhook_id: str) -> None:
        """Stop sending to a webhook that wants no more, at once; what waits goes on waiting."""
        known = self.find(webhook_id)
        if known is not None and not known.enabled:
            return
        self.change(webhook_id, lambda item: replace(item, enabled=False))

    def signing_secrets(self, webhook: Webhook) -> SigningSecrets:
        """Return what its deliveries are signed with.

        Raises:
            KeyMissing, SnapshotDamaged, StorageError: it cannot be opened.
        """
        return SigningSecrets.of_text(self._parts.vault.open(webhook.id, webhook.secret))

    def replaced_secret(self, webhook: Webhook, secret: str) -> Webhook:
        """Return the webhook with another secret; the one before stays valid for a while."""
        until = self._parts.clock.now() + timedelta(seconds=self._parts.secret_overlap_seconds)
        try:
            secrets = self.signing_secrets(webhook).replaced(secret, until)
        except CrmWhatsappError:
            secrets = SigningSecrets(current=secret)  # the old one cannot be opened any more
        return replace(webhook, secret=self._parts.vault.seal(webhook.id, secrets.as_text()))

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=_TURN_SECONDS):
            raise ServiceBusy("Others wait for the database; try again in a moment.")
        try:
            yield
        finally:
            self._turn.release()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _load(self) -> None:
        found = {item.id: item for item in self._parts.store.list_webhooks()}
        self._webhooks = found
        if not self._environment_done:
            stored = found.get(ENVIRONMENT_WEBHOOK_ID)
            wanted = self._environment_webhook(stored)
            if wanted is not None and wanted != stored:
                self._save(wanted)
            self._environment_done = True

    def _get(self, webhook_id: str) -> Webhook:
        self._load()
        webhook = self.find(webhook_id)
        if webhook is None:
            raise WebhookUnknown()
        return webhook

    def _save(self, webhook: Webhook) -> None:
        self._parts.store.save_webhook(webhook)
        self._webhooks = {**(self._webhooks or {}), webhook.id: webhook}

    def _environment_webhook(self, stored: Webhook | None) -> Webhook | None:
        """Return what WEBHOOK_URL asks for: enabled as it says, or disabled once it is gone."""
        now = self._parts.clock.now()
        target = self._parts.environment
        if target is None:
            if stored is None or not stored.enabled:
                return stored
            log.info("WEBHOOK_URL is gone: its webhook is disabled", webhook_id=stored.id)
            return replace(stored, enabled=False, updated_at=now)
        secret = target.secret or self._kept_secret(stored)
        if stored is None:
            return self._first_environment_webhook(target, secret, now)
        wanted = replace(stored, url=target.url, kinds=target.kinds, enabled=True)
        if not self._has_secret(stored, secret):
            wanted = self.replaced_secret(wanted, secret)
        return wanted if wanted == stored else replace(wanted, updated_at=now)

    def _first_environment_webhook(
        self, target: EnvironmentTarget, secret: str, now: datetime
    ) -> Webhook:
        return Webhook(
            id=ENVIRONMENT_WEBHOOK_ID,
            company_id=None,
            url=target.url,
            kinds=target.kinds,
            secret=self._parts.vault.seal(ENVIRONMENT_WEBHOOK_ID, secret),
            enabled=True,
            origin=WebhookOrigin.ENVIRONMENT,
            created_at=now,
            updated_at=now,
        )

    def _has_secret(self, stored: Webhook, secret: str) -> bool:
        if not self._parts.vault.is_current(stored.secret):
            return False
        try:
            return self.signing_secrets(stored).current == secret
        except CrmWhatsappError:
            return False

    def _kept_secret(self, stored: Webhook | None) -> str:
        """Return the secret of this folder; on a fresh disk the one that receivers know already."""
        kept = self._parts.kept_secret.find()
        if kept is not None:
            return kept
        secret = self._stored_secret(stored) or new_secret()
        self._parts.kept_secret.keep(secret)
        log.info(f"WEBHOOK_SECRET is not set: the secret is in {self._parts.kept_secret.place}")
        return secret

    def _stored_secret(self, stored: Webhook | None) -> str | None:
        if stored is None:
            return None
        try:
            return self.signing_secrets(stored).current
        except CrmWhatsappError:
            return None


def _wants(webhook: Webhook, kind: NoticeKind, company_id: str | None) -> bool:
    return (
        webhook.enabled
        and (webhook.company_id is None or webhook.company_id == company_id)
        and (not webhook.kinds or kind in webhook.kinds)
    )
