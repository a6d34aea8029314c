"""gunicorn's master: checks what would make the worker fail, and holds the lock on SESSIONS_DIR.

The master lives as long as the service and does nothing more, so this loads neither Flask nor
the database client.
"""

import os
import resource
import sys
from pathlib import Path
from typing import Any, NoReturn

from crm_whatsapp.config import Settings, check_sessions_dir, load_settings
from crm_whatsapp.domain.errors import ConfigurationError, CrmWhatsappError
from crm_whatsapp.log_output import configure_logging
from crm_whatsapp.media_settings import media_address_guard
from crm_whatsapp.service.api_key_seal import KeySeal
from crm_whatsapp.serving.threaded_worker import ClientWorker
from crm_whatsapp.sessions.directory_lock import DirectoryLock
from crm_whatsapp.sessions.folder_inspection import is_open_to_others
from crm_whatsapp.sessions.key_ring import KeyRing
from crm_whatsapp.sessions.owner_id import load_owner_id
from crm_whatsapp.sessions.service_key import load_service_key
from crm_whatsapp.user_settings import check_user_settings
from crm_whatsapp.webhook_settings import check_webhook_settings

_ORPHAN_GRACE_SECONDS = 5.0


def refuse(error: CrmWhatsappError) -> NoReturn:
    """End the process with one clear line."""
    sys.stderr.write(f"crm_whatsapp: {error.message}\n")
    sys.stderr.flush()
    os._exit(1)


def settings_or_refusal() -> Settings:
    """Return the settings, or end the process with the line that says what is wrong."""
    try:
        return load_settings()
    except CrmWhatsappError as error:
        refuse(error)


def service_key(settings: Settings) -> tuple[str, Path | None, bool]:
    """Return the key, where it is kept, and whether it was made just now.

    Raises:
        StorageError: SESSIONS_DIR refuses.
    """
    if settings.whatsapp_api_key is not None:
        return settings.whatsapp_api_key.get_secret_value(), None, False
    found = load_service_key(settings.sessions_dir)
    return found.key, found.path, found.made


def check_worker(cfg: Any) -> None:
    """Look at what only gunicorn's own options can have changed.

    Raises:
        ConfigurationError: an option would let slow clients hold up everybody, or be ignored.
    """
    if not issubclass(cfg.worker_class, ClientWorker):
        raise ConfigurationError(
            f"in gunicorn's worker class {cfg.worker_class.__name__} slow clients hold up "
            "all others: remove --worker-class, and -k, also from GUNICORN_CMD_ARGS"
        )
    if cfg.is_ssl:
        raise ConfigurationError(
            "the service speaks HTTP without TLS: remove --certfile and --keyfile, and put a "
            "reverse proxy with TLS in front"
        )


def check_snapshot_settings(settings: Settings) -> None:
    """Look at what only matters once a session is copied: then it would be too late to refuse.

    Raises:
        ConfigurationError: naming the variable, never showing a key.
    """
    if settings.snapshot_encryption_keys is not None:
        KeyRing.parse(settings.snapshot_encryption_keys.get_secret_value())
    if settings.snapshot_storage == "s3" and settings.s3_bucket is None:
        raise ConfigurationError("S3_BUCKET is not set, and SNAPSHOT_STORAGE is s3")


def prepare_master(server: Any, settings: Settings) -> None:
    """Check what would make the worker fail, and take the lock on SESSIONS_DIR."""
    # A core file would hold every key. Also for the worker and for all that it starts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        if server.cfg.workers != 1:
            raise ConfigurationError(
                f"one worker runs all sessions of a SESSIONS_DIR, not {server.cfg.workers}: "
                "remove --workers and WEB_CONCURRENCY, and run more pods for more load"
            )
        check_worker(server.cfg)
        check_snapshot_settings(settings)
        check_webhook_settings(settings)
        check_user_settings(settings)
        media_address_guard(settings)
        if settings.api_key_pepper is not None:
            KeySeal.parse(settings.api_key_pepper.get_secret_value())
        check_sessions_dir(settings.sessions_dir)
        grace = settings.graceful_shutdown_timeout / 1000 + _ORPHAN_GRACE_SECONDS
        server.crm_directory_lock = DirectoryLock.acquire(settings.sessions_dir, grace)
        configure_logging(
            level=settings.log_level,
            style=settings.log_format,
            instance_id=load_owner_id(settings.sessions_dir),
        )
        if is_open_to_others(settings.sessions_dir):
            server.log.warning(
                "SESSIONS_DIR %s can be written by every user of this machine, who can put keys "
                "and sessions of their own there: chmod o-w it",
                settings.sessions_dir,
            )
        _, path, made = service_key(settings)
    except CrmWhatsappError as error:
        refuse(error)
    if path is not None:
        verb = "was made and written to" if made else "is in"
        server.log.info("WHATSAPP_API_KEY is not set: the service key %s %s", verb, path)
