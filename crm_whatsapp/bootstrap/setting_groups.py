"""The settings, sorted into what each piece wants to know."""

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.decisions import PolicyLimits
from crm_whatsapp.engine.settings import EngineSettings


def policy_limits(settings: Settings) -> PolicyLimits:
    """Return the policy's durations."""
    return PolicyLimits(
        restore_timeout_seconds=settings.session_recovery_timeout / 1000,
        reconnect_timeout_seconds=settings.session_reconnect_timeout_seconds,
        max_retries=settings.session_recovery_max_retries,
        retry_delay_seconds=settings.session_recovery_retry_delay / 1000,
        backoff_cap_seconds=settings.session_backoff_max_seconds,
        stable_after_seconds=settings.session_stable_after_seconds,
        failed_poll_interval_seconds=settings.session_failed_poll_interval_seconds,
        replaced_retry_seconds=settings.session_replaced_retry_seconds,
        pairing_timeout_seconds=settings.session_pairing_timeout_seconds,
        first_login_timeout_seconds=settings.session_first_login_timeout_seconds,
        logout_timeout_seconds=settings.session_logout_timeout_seconds,
        storage_retry_seconds=settings.session_storage_retry_seconds,
    )


def engine_settings(settings: Settings) -> EngineSettings:
    """Return the settings of the fleet."""
    return EngineSettings(
        device_name=settings.whatsapp_device_name,
        log_level=settings.log_level,
        sessions_per_engine=settings.sessions_per_engine,
        pairing_engines_max=settings.pairing_engines_max,
        start_gate_max_ms=settings.start_gate_max_ms,
        probe_seconds=settings.keepalive_probe_timeout_seconds,
        heartbeat_loss_seconds=settings.engine_heartbeat_timeout_seconds,
        max_starts=settings.engine_max_starts,
        max_descriptors=settings.engine_max_descriptors,
        max_memory_mb=settings.engine_max_memory_mb,
        abandoned_grace_seconds=settings.engine_abandoned_grace_seconds,
    )
