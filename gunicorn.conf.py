"""gunicorn's configuration; everything that varies comes from the environment (.env.example)."""

import math
import os
from typing import Any

from crm_whatsapp import gunicorn_log, gunicorn_master
from crm_whatsapp.serving import threaded_worker

_settings = gunicorn_master.settings_or_refusal()
_grace_seconds = math.ceil(_settings.graceful_shutdown_timeout / 1000)

bind = f"{_settings.host}:{_settings.port}"
# gthread, in which slow clients hold no thread and nobody else up (docs/adr/0029).
worker_class = threaded_worker.worker_class(_settings.client_terms())
workers = 1
# Open event streams and waiting sends must never starve a status poll.
threads = _settings.sse_max_streams + 40
worker_connections = 2 * threads + 200
keepalive = _settings.connection_idle_seconds
timeout = 60
graceful_timeout = _grace_seconds + 2
max_requests = 0
preload_app = False
control_socket_disable = True
sendfile = False  # it would wait for the client without end
http_parser = "python"
# An address fits a jid and a cursor many times over, a header a user's token; proxies add some 20.
limit_request_line = 8190
limit_request_fields = 64
limit_request_field_size = 8190
# X_API_Key is not X-API-Key, and no proxy may move the app to another path.
header_map = "drop"
forwarder_headers = ""
accesslog = None
errorlog = "-"
loglevel = _settings.log_level.lower()
logger_class = gunicorn_log.logger_class(_settings)


def on_starting(server: Any) -> None:
    """In the master, before anything listens."""
    gunicorn_master.prepare_master(server, _settings)


def post_worker_init(worker: Any) -> None:
    """In the worker, once the app is loaded."""
    from crm_whatsapp import gunicorn_worker

    gunicorn_worker.begin_work(worker, _settings)


def worker_exit(server: Any, worker: Any) -> None:
    """In the worker, last."""
    if worker.pid == os.getpid():
        from crm_whatsapp import gunicorn_worker

        gunicorn_worker.end_work(worker)
