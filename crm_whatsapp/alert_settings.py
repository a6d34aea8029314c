"""The settings that say where alerts go and what they are about. Part of Settings."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from crm_whatsapp.setting_types import Seconds


class AlertSettings(BaseSettings):
    """Where alerts go, how often, and what is worth one."""

    alert_urls: SecretStr | None = Field(
        default=None, description="Where alerts go: apprise URLs, separated by commas or spaces."
    )
    alert_check_seconds: Seconds = Field(
        default=5.0, description="A look at what needs a person, every so often."
    )
    alert_group_seconds: Seconds = Field(
        default=15.0, description="A message waits so long for others of its kind."
    )
    alert_pause_seconds: Seconds = Field(
        default=120.0, description="Pause between two messages about the same kind, in seconds."
    )
    alert_clear_seconds: Seconds = Field(
        default=60.0, description="What is gone for so long is over."
    )
    alert_cool_down_seconds: Seconds = Field(
        default=1_800.0, description="The same alert is sent at most this often."
    )
    alert_resolve_wait_seconds: Seconds = Field(
        default=900.0, description="That some of a kind are over waits so long for the others."
    )
    alert_quiet_start_seconds: Seconds = Field(
        default=600.0, description="Nothing is told until the start-up restore is over, or so long."
    )
    alert_unreachable_seconds: Seconds = Field(
        default=300.0, description="A session that is connecting for so long is told."
    )
    alert_restore_window_seconds: Seconds = Field(
        default=600.0, description="Restores of so many last seconds are judged together."
    )
    alert_restore_failure_percent: int = Field(
        default=20, ge=0, le=100, description="Told when more of the companies restored failed."
    )
    alert_restore_minimum: int = Field(
        default=5, ge=1, description="Fewer companies than that are not judged."
    )
    alert_snapshot_seconds: Seconds = Field(
        default=3_600.0, description="Changes in no snapshot for so long are told."
    )
    alert_engine_deaths: int = Field(
        default=3, ge=1, description="So many deaths of engines in the window are told."
    )
    alert_engine_window_seconds: Seconds = Field(
        default=600.0, description="The window of these deaths, in seconds."
    )
    alert_database_away_seconds: Seconds = Field(
        default=120.0, description="A database that is away for so long is told."
    )
    alert_storage_seconds: Seconds = Field(
        default=30.0, description="A disk that refuses for so long is told."
    )
    alert_job_failures: int = Field(
        default=3, ge=1, description="A job that fails so often in a row is told."
    )
    alert_send_timeout_seconds: Seconds = Field(
        default=30.0, description="Longest wait for a channel, in seconds."
    )
    alert_retry_max_seconds: Seconds = Field(
        default=900.0, description="Longest pause between attempts to send an alert, in seconds."
    )
    alert_give_up_seconds: Seconds = Field(
        default=86_400.0, description="A message that no attempt got through in so long is dropped."
    )
