"""The pages of the dashboard. What they show comes from the API, fetched by their scripts."""

import re
import secrets
from typing import Any

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import RateLimited
from crm_whatsapp.web.auth import (
    CompanyKeeping,
    PresentedCredentials,
    Scope,
    public,
    requires,
)
from crm_whatsapp.web.dashboard_session import CSRF_FIELD, LOGIN_COOKIE, SESSION_COOKIE
from crm_whatsapp.web.errors import CsrfFailed
from crm_whatsapp.web.page_assets import answer_asset
from crm_whatsapp.web.request_context import (
    current_dashboard_session,
    current_services,
    enter_company,
    note_limited,
    note_wrong_key,
    web_state,
)

_NEXT_PAGE = re.compile(r"/dashboard(?:/report|/companies/[0-9a-fA-F-]{36})?")
_LOGIN_FORM_SECONDS = 3600

dashboard = Blueprint("dashboard", __name__, template_folder="templates")


@dashboard.get("/")
@public
def root() -> AnyResponse:
    """Send people to the dashboard."""
    return redirect(url_for("dashboard.companies_page"))


@dashboard.get("/dashboard")
@requires(Scope.READ, is_page=True, keeping=CompanyKeeping.NOT_OF_COMPANIES)
def companies_page() -> Response:
    """Show every company."""
    return _page("companies.html", **_login())


@dashboard.get("/dashboard/companies/<company_id>")
@requires(Scope.READ, is_page=True, keeping=CompanyKeeping.BY_RESOURCE)
def company_page(company_id: str) -> Response:
    """Show one company."""
    known_id = parse_company_id(company_id)
    enter_company(known_id)
    return _page(
        "company.html",
        company_id=known_id,
        sandbox_phone_url=web_state().settings.sandbox_phone_url,
        **_login(),
    )


@dashboard.get("/dashboard/report")
@requires(Scope.READ, is_page=True, keeping=CompanyKeeping.NOT_OF_COMPANIES)
def report_page() -> Response:
    """Show the status report."""
    return _page("report.html", **_login())


@dashboard.get("/dashboard/login")
@public
def login_page() -> Response:
    """Ask for the key."""
    return _login_form(error=None)


@dashboard.post("/dashboard/login")
@public
def log_in() -> AnyResponse:
    """Check the key and set the cookie, which holds a signed token and never the key."""
    state = web_state()
    sessions = state.dashboard_sessions
    if not sessions.is_login_token(request.form.get(CSRF_FIELD), request.cookies.get(LOGIN_COOKIE)):
        raise CsrfFailed()
    # A header's bytes arrive decoded as latin-1; bring the form's text into the same form.
    key = request.form.get("api_key", "").strip().encode().decode("latin-1")
    principal = current_services().authenticator.authenticate(PresentedCredentials(api_key=key))
    if principal is None:
        return _wrong_key()
    next_page = request.form.get("next", "")
    target = next_page if _NEXT_PAGE.fullmatch(next_page) else url_for("dashboard.companies_page")
    response = redirect(target, 303)
    response.delete_cookie(LOGIN_COOKIE, path="/dashboard/login")
    response.set_cookie(
        SESSION_COOKIE,
        sessions.open(principal.id),
        max_age=sessions.max_age_seconds,
        httponly=True,
        samesite="Strict",
        secure=state.settings.cookie_secure,
    )
    return response


@dashboard.post("/dashboard/logout")
@requires(Scope.READ, is_page=True, keeping=CompanyKeeping.NOT_OF_COMPANIES)
def log_out() -> AnyResponse:
    """End the login: in this browser, and for whoever has copied its cookie."""
    web_state().dashboard_sessions.close(current_dashboard_session())
    response = redirect(url_for("dashboard.login_page"), 303)
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="Strict")
    return response


@dashboard.get("/dashboard/assets/<name>")
@public
def get_asset(name: str) -> AnyResponse:
    """Return a style sheet, a script or an icon."""
    return answer_asset(name, "crm_whatsapp.web.dashboard")


def _login() -> dict[str, Any]:
    session = current_dashboard_session()
    return {
        "csrf_token": web_state().dashboard_sessions.csrf_token(session.id),
        "signed_in": True,
        "heartbeat_seconds": web_state().settings.streams.heartbeat_seconds,
    }


def _wrong_key() -> Response:
    try:
        note_wrong_key()
    except RateLimited as exc:
        note_limited(exc)
        response = _login_form(error=exc.message)
        response.status_code = 429
        response.headers["Retry-After"] = str(exc.details["retry_after_seconds"])
        return response
    return _login_form(error="That key is not valid. Check it and try again.")


def _login_form(error: str | None) -> Response:
    attempt = request.cookies.get(LOGIN_COOKIE) or secrets.token_urlsafe(16)
    sessions = web_state().dashboard_sessions
    next_page = request.values.get("next", "")
    response = _page(
        "login.html",
        csrf_token=sessions.login_token(attempt),
        next_page=next_page if _NEXT_PAGE.fullmatch(next_page) else "",
        error=error,
    )
    response.status_code = 200 if error is None else 401
    response.set_cookie(
        LOGIN_COOKIE,
        attempt,
        max_age=_LOGIN_FORM_SECONDS,
        path="/dashboard/login",
        httponly=True,
        samesite="Strict",
        secure=web_state().settings.cookie_secure,
    )
    return response


def _page(template: str, **values: object) -> Response:
    return make_response(render_template(template, **values))
