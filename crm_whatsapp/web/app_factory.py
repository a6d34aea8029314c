"""Makes the Flask app. Starts nothing: the services come from a provider."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, request
from flask.json.provider import DefaultJSONProvider
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI

from crm_whatsapp.web.backups_api import backups_api
from crm_whatsapp.web.cors import allow_origins
from crm_whatsapp.web.dashboard.views import dashboard
from crm_whatsapp.web.dashboard_session import SESSION_COOKIE, DashboardSessions
from crm_whatsapp.web.documentation import documentation
from crm_whatsapp.web.embed_page import embed_page, may_be_framed
from crm_whatsapp.web.error_handlers import register_error_handlers
from crm_whatsapp.web.events_api import events_api
from crm_whatsapp.web.http_meter import measure
from crm_whatsapp.web.keys_api import keys_api
from crm_whatsapp.web.large_bodies import install_large_bodies
from crm_whatsapp.web.limits import RequestLimits
from crm_whatsapp.web.messages_api import messages_api
from crm_whatsapp.web.metrics_api import metrics_api
from crm_whatsapp.web.operations_api import operations_api
from crm_whatsapp.web.proxies import believe_proxies
from crm_whatsapp.web.report_api import report_api
from crm_whatsapp.web.request_context import WebState, install
from crm_whatsapp.web.schemas import ErrorBody
from crm_whatsapp.web.services import WebServices, WebSettings
from crm_whatsapp.web.session_api import session_api
from crm_whatsapp.web.webhooks_api import webhooks_api

__all__ = ["WebServices", "WebSettings", "create_app"]

_DATA_CSP = "default-src 'none'; frame-ancestors 'none'"
_PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# What pages, and what might be put into them, do not get to use.
_PERMISSIONS = ", ".join(
    f"{feature}=()"
    for feature in (
        "accelerometer",
        "camera",
        "display-capture",
        "geolocation",
        "gyroscope",
        "hid",
        "magnetometer",
        "microphone",
        "midi",
        "payment",
        "publickey-credentials-get",
        "screen-wake-lock",
        "serial",
        "usb",
        "xr-spatial-tracking",
    )
)
_SECURITY_SCHEMES: dict[str, Any] = {
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "user_token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The access token of a signed-in user of the Supabase project.",
    },
    "metrics_token": {"type": "http", "scheme": "bearer", "description": "METRICS_TOKEN"},
    "dashboard": {
        "type": "apiKey",
        "in": "cookie",
        "name": SESSION_COOKIE,
        "description": "The dashboard's login. Writes also need the header X-CSRF-Token.",
    },
}


class IsoJsonProvider(DefaultJSONProvider):
    """JSON with ISO-8601 times in UTC, keys in the order they were given."""

    sort_keys = False
    ensure_ascii = False

    @staticmethod
    def default(o: Any) -> Any:
        if isinstance(o, datetime):
            return o.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return DefaultJSONProvider.default(o)


def create_app(services_provider: Callable[[], WebServices | None], settings: WebSettings) -> Flask:
    """Make the WSGI app.

    Args:
        services_provider: returns the running services, or None while they are starting; then
            everything but /healthz and static files answers 503 `starting`.
    """
    app = OpenAPI(
        __name__,
        info=Info(
            title="crm_whatsapp",
            version=settings.version,
            description="Keeps every company's WhatsApp session alive.",
        ),
        security_schemes=_SECURITY_SCHEMES,
        validation_error_status=400,
        validation_error_model=ErrorBody,
        doc_ui=False,
        static_folder=None,
    )
    app.json = IsoJsonProvider(app)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    sessions = DashboardSessions(
        settings.secret_key, max_age_seconds=settings.dashboard_session_seconds
    )
    if settings.trusted_proxies:
        believe_proxies(app, settings.trusted_proxies)
    measure(app)
    allow_origins(app, settings.cors_origins, settings.cors_max_age_seconds)
    install(
        app,
        WebState(
            services_provider=services_provider,
            settings=settings,
            dashboard_sessions=sessions,
            limits=RequestLimits(settings.limits),
        ),
    )
    install_large_bodies(app, settings.large_bodies)
    register_error_handlers(app)
    app.after_request(_add_headers)
    for api in (
        session_api,
        backups_api,
        messages_api,
        events_api,
        operations_api,
        report_api,
        metrics_api,
        webhooks_api,
        keys_api,
    ):
        app.register_api(api)
    app.register_blueprint(documentation)
    app.register_blueprint(dashboard)
    app.register_blueprint(embed_page)
    return app


def _add_headers(response: Response) -> Response:
    headers = response.headers
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"
    if not may_be_framed(response):
        headers["X-Frame-Options"] = "DENY"  # as frame-ancestors, for browsers that lack it
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    is_page = response.mimetype == "text/html"
    headers.setdefault("Content-Security-Policy", _PAGE_CSP if is_page else _DATA_CSP)
    if is_page:
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Permissions-Policy"] = _PERMISSIONS
    if request.path.startswith("/api") or "Cache-Control" not in headers:
        headers["Cache-Control"] = "no-store"
    return response
