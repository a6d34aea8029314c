"""The current request: its services, its caller, and the check every request passes first."""

import hashlib
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import structlog
from flask import Flask, current_app, g, redirect, request, url_for
from werkzeug.wrappers import Response

from crm_whatsapp.domain.errors import RateLimited
from crm_whatsapp.web.auth import (
    METRICS_READER,
    Access,
    PresentedCredentials,
    Principal,
    declared_access,
)
from crm_whatsapp.web.dashboard_session import (
    CSRF_FIELD,
    CSRF_HEADER,
    SESSION_COOKIE,
    DashboardSession,
    DashboardSessions,
)
from crm_whatsapp.web.errors import CsrfFailed, Forbidden, Starting, Unauthorized
from crm_whatsapp.web.limits import Entry, RequestLimits
from crm_whatsapp.web.services import WebServices, WebSettings

_EXTENSION = "crm_whatsapp"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebState:
    """What an app holds beside its routes."""

    services_provider: Callable[[], WebServices | None]
    settings: WebSettings
    dashboard_sessions: DashboardSessions
    limits: RequestLimits


def install(app: Flask, state: WebState) -> None:
    """Give the app its state and put the access check before every route."""
    app.extensions[_EXTENSION] = state
    app.before_request(check_access)
    app.after_request(_tell_limits)
    app.teardown_request(lambda error: structlog.contextvars.clear_contextvars())


def web_state() -> WebState:
    """Return the state of the current app."""
    return cast(WebState, current_app.extensions[_EXTENSION])


def current_services() -> WebServices:
    """Return the running services.

    Raises:
        Starting: the process has not finished starting them.
    """
    services = web_state().services_provider()
    if services is None:
        raise Starting()
    return services


def current_principal() -> Principal:
    """Return who is calling; only routes that declare a scope may ask."""
    return cast(Principal, g.principal)


def enter_company(company_id: str) -> None:
    """Go on with what the caller may do in this company, and no more.

    Raises:
        Forbidden: it is not within reach, or they may not do there what the route asks.
    """
    principal = current_principal().within(company_id)
    principal.require_scope(g.scope)
    g.principal = principal


def current_dashboard_session() -> DashboardSession:
    """Return the login behind the cookie; only pages may ask."""
    return cast(DashboardSession, g.dashboard_session)


def find_dashboard_session() -> DashboardSession | None:
    """Return the login behind the cookie, None for callers with a key or a token."""
    return cast(DashboardSession | None, g.get("dashboard_session"))


def check_access() -> Response | None:
    """Refuse the request unless its route declares access and the caller has it."""
    if request.endpoint is None:
        return None  # no such route: the 404 or 405 follows
    access = declared_access(current_app.view_functions[request.endpoint])
    if access is None:
        _log.error("route %s declares no scope and is refused", request.endpoint)
        raise Forbidden()
    if access.scope is None:
        return None
    try:
        principal = _identify(access)
    except Unauthorized:
        if access.is_page:
            return redirect(url_for("dashboard.login_page", next=request.path))
        raise
    principal.require_scope(access.scope)
    g.principal, g.scope = principal, access.scope
    g.limit_entry = web_state().limits.enter(principal, access.scope)
    return None


def count_for(company_id: str | None) -> None:
    """Count whom the request is for, once that is known; raises RateLimited.

    Args:
        company_id: None for a request about no company in particular.
    """
    entry: Entry | None = g.get("limit_entry")
    if entry is not None and entry.awaits_company:
        limits = web_state().limits
        g.limit_entry = limits.enter_company(entry, current_principal(), g.scope, company_id or "")


def note_wrong_key() -> None:
    """Count that this client showed a wrong key; raises RateLimited after too many."""
    web_state().limits.note_wrong_key(request.remote_addr)


def note_limited(error: RateLimited) -> None:
    """Have a refusal counted, and the client told which limit it met."""
    if "headers" in error.details:
        g.limit_entry, g.limit_headers = None, error.details["headers"]
    services = web_state().services_provider()
    if services is not None:
        services.metrics.note_limited(error.details["limit"])


def _tell_limits(response: Response) -> Response:
    entry: Entry | None = g.get("limit_entry")
    headers = g.get("limit_headers", {}) if entry is None else entry.headers()
    for name, value in headers.items():
        response.headers[name] = value
    return response


def _identify(access: Access) -> Principal:
    if access.is_page:
        return _identify_visitor()
    if access.takes_metrics_token and _presents_metrics_token():
        return METRICS_READER
    return _identify_caller()


def _presents_metrics_token() -> bool:
    wanted, presented = web_state().settings.metrics_token, _bearer_token()
    if wanted is None or presented is None or "X-API-Key" in request.headers:
        return False
    # Headers arrive decoded as latin-1; hashes, because compare_digest tells lengths apart.
    raw = presented.encode("latin-1", errors="replace")
    digests = (hashlib.sha256(text).digest() for text in (raw, wanted.encode()))
    return hmac.compare_digest(*digests)


def _identify_caller() -> Principal:
    presented = PresentedCredentials(
        api_key=request.headers.get("X-API-Key"), bearer_token=_bearer_token()
    )
    if presented.api_key is None and presented.bearer_token is None:
        return _identify_visitor()
    principal = current_services().authenticator.authenticate(presented)
    if principal is None:
        note_wrong_key()
        what = "token" if presented.api_key is None else "key"
        raise Unauthorized(f"The {what} is not valid.")
    return principal


def _identify_visitor() -> Principal:
    authenticator = current_services().authenticator
    sessions = web_state().dashboard_sessions
    session = sessions.find(request.cookies.get(SESSION_COOKIE))
    principal = authenticator.find_principal(session.principal_id) if session else None
    if session is None or principal is None:
        raise Unauthorized()
    if request.method not in _SAFE_METHODS:
        token = request.headers.get(CSRF_HEADER) or request.form.get(CSRF_FIELD)
        if not sessions.is_csrf_token(token, session.id):
            raise CsrfFailed()
    g.dashboard_session = session
    return principal


def _bearer_token() -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
