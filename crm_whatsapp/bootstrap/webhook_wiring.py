"""The pieces that tell targets of what happens."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.webhooks import WebhookStore
from crm_whatsapp.jobs.job_board import Job
from crm_whatsapp.outbound.webhook_sender import HttpWebhookSender, SenderLimits
from crm_whatsapp.service.notice_intake import NoticeIntake
from crm_whatsapp.service.webhook_breaker import WebhookBreakers
from crm_whatsapp.service.webhook_courier import WebhookCourier
from crm_whatsapp.service.webhook_desk import WebhookDesk
from crm_whatsapp.service.webhook_dispatcher import DispatchTerms, WebhookDispatcher
from crm_whatsapp.service.webhook_health import WebhookHealth
from crm_whatsapp.service.webhook_lanes import Share
from crm_whatsapp.service.webhook_registry import RegistryParts, WebhookRegistry
from crm_whatsapp.service.webhook_verdict import RetryTerms
from crm_whatsapp.sessions.key_ring import KeyRing
from crm_whatsapp.sessions.webhook_secrets import KeyRingVault, WebhookSecretFile
from crm_whatsapp.stores.supabase_client import SupabaseClient
from crm_whatsapp.stores.webhook_store import SupabaseWebhookStore
from crm_whatsapp.webhook_settings import environment_target, webhook_address_guard

if TYPE_CHECKING:
    from crm_whatsapp.bootstrap.wiring import Parts

_SYNC = "webhook-sync"


@dataclass(frozen=True, slots=True)
class WebhookParts:
    """store: where notices are queued. registry.wants: whether to queue one."""

    store: WebhookStore
    registry: WebhookRegistry
    dispatcher: WebhookDispatcher
    desk: WebhookDesk
    health: WebhookHealth
    sender: HttpWebhookSender

    def observe(self, parts: "Parts") -> None:
        """Hear of what happens, and tell how webhooks fare."""
        intake = NoticeIntake(
            parts.recorder, wants=self.registry.wants, recorded=parts.write_behind.notify
        )
        parts.notices.listen(intake.take)
        parts.write_behind.on_sent(self.dispatcher.wake)
        parts.write_behind.on_return(self.dispatcher.wake)
        parts.write_behind.on_return(lambda: parts.jobs.run_soon(_SYNC))
        parts.readiness.add(self.health.check)
        parts.alerts.parked.add(self.health.parked)
        parts.jobs.add(
            Job(
                name=_SYNC,
                interval_seconds=parts.settings.sync_interval_seconds,
                function=self.health.refresh,
                at_once=True,
            )
        )

    def start(self) -> None:
        """Send what is due; the job reads the list of webhooks."""
        self.dispatcher.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Begin no more requests; False when not everything could be settled in time."""
        stopped = self.dispatcher.stop(timeout_seconds)
        self.sender.close()
        return stopped


def build_webhooks(
    settings: Settings, client: SupabaseClient, owner_id: str, clock: Clock
) -> WebhookParts:
    """Make the pieces; starts nothing.

    Raises:
        ConfigurationError: a setting of webhooks is not usable.
    """
    guard = webhook_address_guard(settings)
    store = SupabaseWebhookStore(client)
    vault = secret_vault(settings)
    registry = WebhookRegistry(
        RegistryParts(
            store=store,
            clock=clock,
            vault=vault,
            kept_secret=WebhookSecretFile(settings.sessions_dir),
            environment=environment_target(settings),
            secret_overlap_seconds=settings.webhook_secret_overlap_seconds,
        )
    )
    sender = HttpWebhookSender(
        guard,
        SenderLimits(
            connect_seconds=settings.webhook_connect_timeout_seconds,
            total_seconds=settings.webhook_timeout_seconds,
            keepalive_seconds=settings.webhook_keepalive_seconds,
            connections=settings.webhook_threads + 8,  # tests by hand need some of their own
        ),
    )
    breakers = WebhookBreakers(
        clock,
        failures=settings.webhook_breaker_failures,
        open_seconds=settings.webhook_breaker_seconds,
    )
    courier = WebhookCourier(
        registry=registry,
        sender=sender,
        breakers=breakers,
        clock=clock,
        retry=RetryTerms(
            first_seconds=settings.webhook_retry_first_seconds,
            longest_seconds=settings.webhook_retry_max_seconds,
            for_seconds=settings.webhook_retry_for_seconds,
        ),
    )
    dispatcher = WebhookDispatcher(
        store=store,
        registry=registry,
        courier=courier,
        breakers=breakers,
        clock=clock,
        owner_id=owner_id,
        terms=_dispatch_terms(settings),
    )
    registry.on_change(dispatcher.wake)
    return WebhookParts(
        store=store,
        registry=registry,
        dispatcher=dispatcher,
        desk=WebhookDesk(
            registry=registry,
            store=store,
            courier=courier,
            breakers=breakers,
            vault=vault,
            clock=clock,
            check_url=guard.check_url,
            wake=dispatcher.wake,
        ),
        health=WebhookHealth(
            registry=registry, store=store, dispatcher=dispatcher, breakers=breakers
        ),
        sender=sender,
    )


def secret_vault(settings: Settings) -> KeyRingVault:
    """Return what seals signing secrets; without keys they are stored as they are."""
    keys = settings.snapshot_encryption_keys
    return KeyRingVault(KeyRing.parse(keys.get_secret_value()) if keys else None)


def _dispatch_terms(settings: Settings) -> DispatchTerms:
    return DispatchTerms(
        share=Share(
            threads=settings.webhook_threads,
            per_target=min(settings.webhook_threads_per_target, settings.webhook_threads),
        ),
        hold_seconds=settings.webhook_hold_seconds,
        request_seconds=settings.webhook_timeout_seconds,
        idle_seconds=settings.webhook_idle_seconds,
        longest_wait_seconds=settings.database_retry_max_seconds,
    )
