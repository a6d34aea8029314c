"""Every setting of the service: one validated object, read from the environment once.

Names are the upper-case field names. `.env.example` lists them all and is held to this file by
a test.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from crm_whatsapp.alert_settings import AlertSettings
from crm_whatsapp.client_settings import ClientSettings
from crm_whatsapp.domain.errors import ConfigurationError
from crm_whatsapp.limit_settings import LimitSettings
from crm_whatsapp.media_settings import MediaSettings
from crm_whatsapp.setting_types import Milliseconds, Seconds


def _web_url(value: str) -> str:
    parts = urlsplit(value.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ValueError("must be a URL such as https://abc.supabase.co")
    return value.strip().rstrip("/")


WebUrl = Annotated[str, AfterValidator(_web_url)]


class MainSettings(BaseSettings):
    """All but what has a module of its own."""

    model_config = SettingsConfigDict(
        extra="ignore", env_ignore_empty=True, case_sensitive=False, frozen=True
    )

    # --- database ---
    supabase_url: WebUrl = Field(description="URL of the Supabase project. Required.")
    supabase_service_role_key: SecretStr = Field(
        description="Its secret key: sb_secret_... or the legacy service_role JWT. Required."
    )
    supabase_db_url: SecretStr | None = Field(
        default=None,
        description="postgresql:// URL, for `python -m crm_whatsapp migrate` only.",
    )
    database_timeout_seconds: Seconds = Field(
        default=5.0, description="Longest wait for one database call, in seconds."
    )
    database_retry_max_seconds: Seconds = Field(
        default=15.0,
        description="Longest pause between attempts while the database is away, in seconds.",
    )

    # --- sessions ---
    sessions_dir: Path = Field(
        description="Absolute path of the folder that keeps the sessions. Required; back it up."
    )
    sessions_per_engine: int = Field(
        default=50, ge=1, le=200, description="Sessions one engine process holds."
    )
    session_recovery_enabled: bool = Field(
        default=True, description="Restore every session at start-up. Polls restore either way."
    )
    session_recovery_startup_delay: Milliseconds = Field(
        default=0, description="Wait before the start-up restore, in ms."
    )
    session_restore_delay_ms: Milliseconds = Field(
        default=0, description="Pause between two starts of the start-up restore, in ms."
    )
    session_recovery_timeout: int = Field(
        default=30_000,
        ge=1_000,
        le=600_000,
        description="How long one start may take before it is given up and retried, in ms.",
    )
    session_recovery_max_retries: int = Field(
        default=3, ge=0, le=100, description="Retries after a refusal before a session is failed."
    )
    session_recovery_retry_delay: int = Field(
        default=1_000,
        ge=10,
        le=600_000,
        description="First pause between retries, in ms; doubles each time.",
    )
    session_backoff_max_seconds: Seconds = Field(
        default=300.0, description="Longest pause between retries, in seconds."
    )
    session_reconnect_timeout_seconds: Seconds = Field(
        default=30.0,
        description="How long whatsmeow may reconnect by itself before a rebuild, in seconds.",
    )
    session_stable_after_seconds: Seconds = Field(
        default=300.0, description="Connected for so long, earlier failures are forgotten."
    )
    session_failed_poll_interval_seconds: Seconds = Field(
        default=300.0, description="A poll restarts a failed session at most this often."
    )
    session_replaced_retry_seconds: Seconds = Field(
        default=30.0, description="Pause before the one retry after stream-replaced, in seconds."
    )
    session_preserve_on_shutdown: bool = Field(
        default=True,
        description="Take clean snapshots at shutdown. Sessions are never logged out by it.",
    )
    session_pairing_timeout_seconds: Seconds = Field(
        default=180.0, description="How long a pairing stays open, in seconds."
    )
    session_first_login_timeout_seconds: Seconds = Field(
        default=60.0, description="How long the first login after a pairing may take, in seconds."
    )
    session_logout_timeout_seconds: Seconds = Field(
        default=15.0, description="How long a logout waits for WhatsApp, in seconds."
    )
    session_storage_retry_seconds: Seconds = Field(
        default=60.0, description="Pause before a start is tried again on a bad disk, in seconds."
    )

    # --- snapshots ---
    snapshot_encryption_keys: SecretStr | None = Field(
        default=None,
        description="id:base64key,id:base64key; 32 bytes each. The first encrypts, all decrypt. "
        "Unset: no snapshots are taken. Make one with `python -m crm_whatsapp new-key`.",
    )
    snapshot_storage: Literal["database", "s3"] = Field(
        default="database", description="Where the encrypted copies are kept."
    )
    snapshot_scan_seconds: Seconds = Field(
        default=5.0, description="Search for sessions that have changed, every so often."
    )
    store_check_seconds: Seconds = Field(
        default=600.0,
        description="Compare the store of a running session with what was written, every so often.",
    )
    snapshot_ratchet_interval_seconds: Seconds = Field(
        default=900.0,
        description="A change of message ratchets alone is copied at most this often, in seconds.",
    )
    snapshot_daily_bytes: int = Field(
        default=50 * 1024 * 1024,
        ge=0,
        description="Bytes a session and day; above it only important changes are copied.",
    )
    s3_endpoint_url: WebUrl | None = Field(
        default=None, description="URL of an S3-compatible storage; unset: AWS."
    )
    s3_bucket: str | None = Field(default=None, description="Bucket, for SNAPSHOT_STORAGE=s3.")
    s3_region: str = Field(default="us-east-1", description="Region of the bucket.")
    s3_access_key_id: SecretStr | None = Field(default=None, description="Its access key id.")
    s3_secret_access_key: SecretStr | None = Field(default=None, description="Its secret key.")
    s3_prefix: str = Field(default="", description="Put before every object's name.")

    # --- engines ---
    engine_max_starts: int = Field(
        default=500, ge=1, description="An engine is replaced after so many starts."
    )
    engine_max_descriptors: int = Field(
        default=2_000, ge=100, description="An engine is replaced above so many descriptors."
    )
    engine_max_memory_mb: int = Field(
        default=400, ge=80, description="An engine is replaced above so much memory, in MB."
    )
    engine_abandoned_grace_seconds: Seconds = Field(
        default=45.0,
        description="How long a client that cannot be stopped may linger, in seconds.",
    )
    engine_heartbeat_timeout_seconds: Seconds = Field(
        default=15.0, description="An engine silent for so long is killed, in seconds."
    )
    start_gate_max_ms: int = Field(
        default=50, ge=1, le=5_000, description="Longest hold of the start gate, in ms."
    )
    pairing_engines_max: int = Field(
        default=10, ge=1, le=100, description="Pairings open at the same time; others wait."
    )
    whatsapp_device_name: str = Field(
        default="CRM WhatsApp",
        min_length=1,
        max_length=50,
        description="Name shown on the phone under Linked devices.",
    )

    # --- jobs ---
    keepalive_interval_seconds: Seconds = Field(
        default=900.0, description="Round trip to WhatsApp for each session, every so often."
    )
    keepalive_probe_timeout_seconds: Seconds = Field(
        default=10.0, description="Longest wait for that round trip, in seconds."
    )
    sync_interval_seconds: Seconds = Field(
        default=300.0, description="Comparison of rows and runtime, every so often."
    )
    qr_expiry_interval_seconds: Seconds = Field(
        default=60.0, description="Search for expired QR codes, every so often."
    )
    deadline_sweep_seconds: Seconds = Field(
        default=0.5, description="Search for due retries and deadlines, every so often."
    )
    lease_ttl_seconds: float = Field(
        default=60.0, gt=0, le=300, description="Life of a lease in the database, in seconds."
    )
    lease_renew_seconds: Seconds = Field(
        default=15.0, description="Renewal of all leases, every so often."
    )

    # --- clean-up ---
    events_keep_days: int = Field(
        default=90, ge=0, le=36_500, description="Days the history is kept; 0: for ever."
    )
    webhook_deliveries_keep_days: int = Field(
        default=7, ge=0, le=36_500, description="Days a delivered webhook is kept; 0: for ever."
    )
    webhook_parked_keep_days: int = Field(
        default=30, ge=0, le=36_500, description="Days a parked webhook is kept; 0: for ever."
    )
    cleanup_logged_out_after_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        description="A company logged out for so many days is forgotten; 0: never.",
    )
    cleanup_interval_seconds: Seconds = Field(
        default=86_400.0, description="Removal of what is old, every so often."
    )

    # --- messages ---
    send_connect_wait_seconds: Seconds = Field(
        default=5.0, description="How long a send waits for a session to come back, in seconds."
    )
    send_ack_wait_seconds: Seconds = Field(
        default=10.0, description="How long a send waits for WhatsApp's ack, in seconds."
    )

    # --- web ---
    whatsapp_api_key: SecretStr | None = Field(
        default=None,
        description="The service key, 16 characters or more. Unset: one is made, kept in "
        "SESSIONS_DIR/api-key.",
    )
    api_key_pepper: SecretStr | None = Field(
        default=None,
        description="Seals API keys; 32 characters or more, the same in every pod. Unset: one is "
        "made, kept in SESSIONS_DIR/api-key-pepper. Several: the first seals, all are good.",
    )
    api_key_miss_seconds: Seconds = Field(
        default=10.0, description="An unknown key asks the database at most this often."
    )
    supabase_jwt_secret: SecretStr | None = Field(
        default=None,
        description="The project's legacy JWT secret, for user tokens signed with it (HS256).",
    )
    user_token_issuer: WebUrl | None = Field(
        default=None, description="The iss of user tokens. Unset: SUPABASE_URL/auth/v1."
    )
    user_company_source: Literal["claim", "membership"] = Field(
        default="claim", description="What says which companies a user reaches."
    )
    user_company_claim: str = Field(
        default="app_metadata.company_id", description="Where a user token names the company."
    )
    user_role_claim: str = Field(
        default="app_metadata.whatsapp_role", description="Where a user token names the role."
    )
    user_role_scopes: str = Field(
        default='{"":["read","send","manage"],"admin":["read","send","manage"],'
        '"agent":["read","send"],"viewer":["read"]}',
        description='What each role may, as JSON; "" is a user without a role.',
    )
    user_membership_cache_seconds: Seconds = Field(
        default=45.0, description="What the membership function said is good for so long."
    )
    user_membership_stale_seconds: Seconds = Field(
        default=300.0, description="While it does not answer, for so long; then nothing is."
    )
    user_membership_retry_seconds: Seconds = Field(
        default=5.0, description="While it does not answer, it is asked at most this often."
    )
    user_token_leeway_seconds: float = Field(
        default=10.0, gt=0, le=300, description="How far clocks may be apart, in seconds."
    )
    user_keys_refresh_seconds: Seconds = Field(
        default=600.0, description="Keys of user tokens in use are read again, every so often."
    )
    user_keys_miss_seconds: Seconds = Field(
        default=10.0, description="An unknown one has them read at most this often."
    )
    user_keys_stale_seconds: Seconds = Field(
        default=86_400.0, description="Without an answer the last ones stay good for so long."
    )
    user_keys_timeout_seconds: Seconds = Field(
        default=3.0, description="Longest wait for that answer, in seconds."
    )
    cors_origins: str = Field(
        default="", description="Origins whose pages may call, such as https://crm.example.com."
    )
    cors_max_age_seconds: Seconds = Field(
        default=600.0, description="How long browsers may remember that they may, in seconds."
    )
    embed_origins: str = Field(
        default="", description="Origins whose pages may frame /embed/connect; empty: it is off."
    )
    host: str = Field(
        default="127.0.0.1", description="Address to listen on; 0.0.0.0 inside a container."
    )
    port: int = Field(default=8000, ge=0, le=65_535, description="Port to listen on.")
    sse_max_streams: int = Field(
        default=100, ge=0, le=2_000, description="Open event streams at most; sizes the threads."
    )
    sse_max_streams_per_key: int = Field(
        default=20, ge=1, le=2_000, description="Open event streams of one company's key at most."
    )
    sse_buffer_events: int = Field(
        default=10_000, ge=0, le=1_000_000, description="Events kept for clients that come back."
    )
    sse_buffer_mb: int = Field(
        default=16, ge=1, le=1_024, description="Memory these events may take, in MB."
    )
    sse_client_events: int = Field(
        default=1_000, ge=1, le=100_000, description="Events that may wait for one slow client."
    )
    sse_heartbeat_seconds: Seconds = Field(
        default=15.0, description="A sign of life on each event stream, every so often."
    )
    sse_max_seconds: Seconds = Field(
        default=3_600.0, description="Clients come again after so long, give or take a tenth."
    )
    sse_patience_seconds: Seconds = Field(
        default=30.0, description="A client that takes nothing for so long is ended, in seconds."
    )
    sse_retry_seconds: Seconds = Field(
        default=1.0, description="Pause before a client comes again, in seconds."
    )
    dashboard_cookie_secure: bool = Field(
        default=False, description="Send the dashboard's cookie over HTTPS only."
    )
    sandbox_phone_url: WebUrl | None = Field(
        default=None, description="Demo only: the sandbox's phone page."
    )

    # --- webhooks ---
    webhook_url: SecretStr | None = Field(
        default=None, description="A target that is told of everything; more by the API."
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="Its signing secret, whsec_... Unset: one is made, kept in "
        "SESSIONS_DIR/webhook-secret.",
    )
    webhook_events: str = Field(
        default="", description="What it is told of, such as session.status,session.alert."
    )
    webhook_allowed_networks: str = Field(
        default="", description="Networks that targets may be in though they are not public."
    )
    webhook_allow_http: bool = Field(
        default=False, description="Targets may be without TLS outside of these networks, too."
    )
    webhook_connect_timeout_seconds: Seconds = Field(
        default=5.0, description="Longest wait for a connection to a target, in seconds."
    )
    webhook_timeout_seconds: Seconds = Field(
        default=10.0, description="Longest request to a target, all in all, in seconds."
    )
    webhook_keepalive_seconds: Seconds = Field(
        default=4.0, description="An idle connection to a target is kept so long, in seconds."
    )
    webhook_threads: int = Field(
        default=32, ge=1, le=256, description="Requests to targets at the same time."
    )
    webhook_threads_per_target: int = Field(
        default=8, ge=1, le=256, description="Of these to one target at most."
    )
    webhook_retry_first_seconds: Seconds = Field(
        default=5.0, description="Pause after the first failure of a delivery; doubles each time."
    )
    webhook_retry_max_seconds: Seconds = Field(
        default=3_600.0, description="Longest pause between attempts, in seconds."
    )
    webhook_retry_for_seconds: Seconds = Field(
        default=86_400.0, description="A delivery that fails for so long is parked."
    )
    webhook_breaker_failures: int = Field(
        default=5, ge=1, le=1_000, description="Failures in a row after which a target rests."
    )
    webhook_breaker_seconds: Seconds = Field(
        default=60.0, description="How long it rests before it is tried again, in seconds."
    )
    webhook_hold_seconds: float = Field(
        default=60.0, gt=0, le=3_600, description="Life of a claim in the queue, in seconds."
    )
    webhook_idle_seconds: Seconds = Field(
        default=300.0, description="A look into a queue that seems empty, every so often."
    )
    webhook_secret_overlap_seconds: Seconds = Field(
        default=86_400.0, description="A replaced secret goes on signing for so long, in seconds."
    )

    # --- metrics ---
    metrics_token: SecretStr | None = Field(
        default=None,
        description="Opens /metrics as a bearer token, 16 characters or more. Unset: a service key "
        "is needed.",
    )
    metrics_company_label: bool = Field(
        default=False, description="Tell the uptime of each company, by its id."
    )

    report_cache_seconds: Seconds = Field(
        default=10.0, description="The report asks the database at most this often."
    )

    # --- operation ---
    graceful_shutdown_timeout: int = Field(
        default=10_000, ge=1_000, le=600_000, description="Time for a clean stop, in ms."
    )
    instance_mode: Literal["single"] = Field(
        default="single", description="One pod a SESSIONS_DIR; other modes are not available yet."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="DEBUG, INFO, WARNING or ERROR."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="json, console, or auto: console on a terminal only."
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_format", "instance_mode", "user_company_source", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("whatsapp_api_key", "metrics_token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("must have 16 characters or more")
        return value

    @field_validator("sessions_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError("must be an absolute path, such as /var/lib/crm-whatsapp")
        if any(character in str(value) for character in "?#%\0"):
            raise ValueError("must not contain ?, # or %: neonize reads it as part of a URI")
        return value


class Settings(MediaSettings, LimitSettings, ClientSettings, AlertSettings, MainSettings):
    """The environment, checked. Empty variables count as unset."""


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        ConfigurationError: one line that names the variable and says what is wrong with it.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigurationError(_one_line(error)) from error


def _one_line(error: ValidationError) -> str:
    problems = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        name = "_".join(str(part) for part in item["loc"][:1]).upper()
        if item["type"] == "missing":
            problems.append(f"{name} is not set")
        else:
            problems.append(f"{name}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems)


def check_sessions_dir(path: Path) -> None:
    """Make the folder if need be, and prove that it can be written.

    Raises:
        ConfigurationError: naming SESSIONS_DIR and the reason.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(prefix=".write-test-", dir=path)
        try:
            os.write(handle, b"x")
            os.fsync(handle)
        finally:
            os.close(handle)
            Path(probe).unlink()
    except OSError as error:
        raise ConfigurationError(
            f"SESSIONS_DIR: {path} cannot be written ({error.strerror or error})"
        ) from error
