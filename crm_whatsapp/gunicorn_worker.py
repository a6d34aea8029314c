"""gunicorn's worker: makes the app, starts the service in it and ends it.

Source: gunicorn 27, arbiter.py and workers/gthread.py. In the worker the app is loaded first,
then `post_worker_init` is called, and `worker_exit` last, whatever ended the worker but SIGKILL.
"""

import gc
import hashlib
import hmac
import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import Protocol

import structlog
from flask import Flask

from crm_whatsapp import __version__
from crm_whatsapp.bootstrap import (
    RunningService,
    large_body_terms,
    limit_terms,
    stream_terms,
)
from crm_whatsapp.config import Settings
from crm_whatsapp.gunicorn_master import service_key, settings_or_refusal
from crm_whatsapp.log_output import configure_logging
from crm_whatsapp.sessions.owner_id import load_owner_id
from crm_whatsapp.user_settings import cors_origins, embed_origins
from crm_whatsapp.web.app_factory import WebServices, WebSettings, create_app
from crm_whatsapp.web.auth import (
    ApiKeyAuthenticator,
    CompositeAuthenticator,
    KeyRingAuthenticator,
    hash_api_key,
)
from crm_whatsapp.web.errors import NotReady

log = structlog.get_logger(__name__)

_SECOND_SIGNAL_SECONDS = 0.5
_HURRY_SECONDS = 1.0
_EXTENSION = "crm_whatsapp.running_service"


class GunicornWorker(Protocol):
    """What is used of gunicorn's gthread worker."""

    pid: int
    wsgi: Flask
    alive: bool

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop accepting and finish what is open."""


def wsgi_app() -> Flask:
    """Make the app with its service; nothing is started before `begin_work`."""
    settings = settings_or_refusal()
    key, _, _ = service_key(settings)
    service = RunningService(settings)
    configured_key = ApiKeyAuthenticator([hash_api_key(key)])

    def provider() -> WebServices | None:
        parts = service.parts
        if parts is None:
            if service.boot_error is not None:
                raise boot_failure(service.boot_error)
            return None
        return WebServices(
            sessions=parts.manager,
            backups=parts.backups,
            messaging=parts.messaging,
            attachments=parts.attachments,
            readiness=parts.readiness,
            events=parts.events,
            reports=parts.reports,
            authenticator=CompositeAuthenticator(
                (configured_key, KeyRingAuthenticator(parts.access.ring), parts.users.tokens)
            ),
            keys=parts.access.desk,
            webhooks=parts.webhooks.desk,
            metrics=parts.metrics,
        )

    token = settings.metrics_token
    app = create_app(
        provider,
        WebSettings(
            secret_key=hmac.new(key.encode(), b"dashboard-cookie", hashlib.sha256).hexdigest(),
            version=__version__,
            sandbox_phone_url=settings.sandbox_phone_url,
            cookie_secure=settings.dashboard_cookie_secure,
            metrics_token=token.get_secret_value() if token else None,
            streams=stream_terms(settings),
            large_bodies=large_body_terms(settings),
            cors_origins=cors_origins(settings),
            cors_max_age_seconds=settings.cors_max_age_seconds,
            limits=limit_terms(settings),
            trusted_proxies=settings.trusted_proxies,
            embed_origins=embed_origins(settings),
        ),
    )
    app.extensions[_EXTENSION] = service
    return app


def boot_failure(why: str) -> NotReady:
    """Return the answer to every request while the service cannot start."""
    check = {"name": "start", "ok": False, "detail": why}
    return NotReady(
        f"The service could not start: {why}", ready=False, degraded=True, checks=[check]
    )


def begin_work(worker: GunicornWorker, settings: Settings) -> None:
    """Start the service in this worker and take over its signals."""
    configure_logging(
        level=settings.log_level,
        style=settings.log_format,
        instance_id=load_owner_id(settings.sessions_dir),
    )
    os.umask(0o077)  # SQLite makes its side files with what the umask leaves
    service = _service_of(worker)

    first_at: dict[int, float] = {}

    def on_signal(signal_number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        # One Ctrl+C or one systemd stop reaches the worker twice: directly, and by the master.
        if now - first_at.setdefault(signal_number, now) >= _SECOND_SIGNAL_SECONDS:
            threading.Thread(target=_hurry, args=(service,), name="hurry").start()
        threading.Thread(target=_stop_and_leave, args=(service, settings), name="stop").start()
        worker.handle_exit(signal_number, frame)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, on_signal)
    # What was loaded stays for ever. Looking for garbage in it takes 70 ms, and nobody is answered
    # meanwhile; it happens at moments that whoever sends large bodies can choose.
    gc.collect()
    gc.freeze()
    service.start()


def _stop_and_leave(service: RunningService, settings: Settings) -> None:
    """Stop the service; then leave, even if a request still hangs."""
    begun = time.monotonic()
    service.stop()
    left = settings.graceful_shutdown_timeout / 1000 - 0.5 - (time.monotonic() - begun)
    threading.Event().wait(max(0.1, left))
    _leave()


def _hurry(service: RunningService) -> None:
    """Leave soon, whatever is still under way: somebody asked a second time."""
    if not service.wait_stopped(_HURRY_SECONDS):
        log.warning("a second signal: leaving without waiting for what is still stopping")
    _leave()


def end_work(worker: GunicornWorker) -> None:
    """Stop the service if no signal has done so; called last in the worker."""
    if worker.pid != os.getpid() or not hasattr(worker, "wsgi"):
        return
    _service_of(worker).stop()
    _leave()


def _leave() -> None:
    """End the process without waiting for threads that serve a hanging request."""
    logging.shutdown()
    os._exit(0)


def _service_of(worker: GunicornWorker) -> RunningService:
    service = worker.wsgi.extensions[_EXTENSION]
    assert isinstance(service, RunningService)  # noqa: S101
    return service
