"""What the settings say of webhooks, checked; the master refuses to start by it.

A module of its own beside the settings, so that the master loads nothing of the service for it.
"""

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.errors import ConfigurationError, InvalidInput
from crm_whatsapp.domain.notices import NoticeKind
from crm_whatsapp.outbound.address_guard import AddressGuard, parse_networks
from crm_whatsapp.service.webhook_registry import EnvironmentTarget
from crm_whatsapp.service.webhook_secrets import check_secret


def webhook_address_guard(settings: Settings) -> AddressGuard:
    """Return the guard of the addresses that webhooks may have.

    Raises:
        ConfigurationError: WEBHOOK_ALLOWED_NETWORKS is not usable.
    """
    return AddressGuard(
        parse_networks(settings.webhook_allowed_networks),
        allows_http=settings.webhook_allow_http,
    )


def environment_target(settings: Settings) -> EnvironmentTarget | None:
    """Return the target that the environment names, None when it names none.

    Raises:
        ConfigurationError: a variable is not usable; its value is never repeated.
    """
    guard = webhook_address_guard(settings)
    kinds = _kinds(settings.webhook_events)
    try:
        secret = settings.webhook_secret and check_secret(
            settings.webhook_secret.get_secret_value()
        )
    except InvalidInput as exc:
        raise ConfigurationError(f"WEBHOOK_SECRET: {exc.message}") from None
    if settings.webhook_url is None:
        return None
    url = settings.webhook_url.get_secret_value().strip()
    try:
        guard.check_url(url)
    except InvalidInput as exc:
        raise ConfigurationError(f"WEBHOOK_URL: {exc.message}") from None
    return EnvironmentTarget(url=url, kinds=kinds, secret=secret or None)


def check_webhook_settings(settings: Settings) -> None:
    """Raise ConfigurationError, naming the variable, unless the settings are usable."""
    environment_target(settings)
    if settings.webhook_hold_seconds < 2 * settings.webhook_timeout_seconds:
        raise ConfigurationError(
            "WEBHOOK_HOLD_SECONDS must be at least twice WEBHOOK_TIMEOUT_SECONDS: a claim must "
            "outlast a request"
        )


def _kinds(text: str) -> frozenset[NoticeKind]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    known = {kind.value for kind in NoticeKind}
    for word in words:
        if word not in known:
            raise ConfigurationError(
                f"WEBHOOK_EVENTS: {word[:40]!r} is not one of {', '.join(sorted(known))}"
            )
    return frozenset(NoticeKind(word) for word in words)
