"""Login, cookie, form tokens and pages."""

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from crm_whatsapp.web.app_factory import WebSettings, create_app
from crm_whatsapp.web.dashboard_session import DashboardSession, DashboardSessions
from tests.unit.web.fakes import SERVICE_KEY, FakeServices

API = "/api/whatsapp"


def form_token(page: TestResponse) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert found, page.text
    return found.group(1)


def log_in(client: FlaskClient, key: str = SERVICE_KEY, next_page: str = "") -> TestResponse:
    token = form_token(client.get("/dashboard/login"))
    return client.post(
        "/dashboard/login", data={"csrf_token": token, "api_key": key, "next": next_page}
    )


def page_token(client: FlaskClient) -> str:
    page = client.get("/dashboard")
    found = re.search(r'name="csrf-token" content="([^"]+)"', page.text)
    assert found
    return found.group(1)


def test_root_leads_to_the_dashboard(anonymous: FlaskClient) -> None:
    assert anonymous.get("/").headers["Location"] == "/dashboard"


def test_login_sets_a_cookie_that_is_not_the_key(anonymous: FlaskClient) -> None:
    answer = log_in(anonymous)

    assert answer.status_code == 303
    cookie = next(c for c in answer.headers.getlist("Set-Cookie") if "_session=" in c)
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert SERVICE_KEY not in cookie
    assert anonymous.get("/dashboard").status_code == 200


def test_cookie_is_secure_when_told(services: FakeServices) -> None:
    app = create_app(
        services.provide, WebSettings(secret_key="a-secret-of-the-tests", cookie_secure=True)
    )
    client = app.test_client()
    page = client.get("/dashboard/login", base_url="https://localhost")
    answer = client.post(
        "/dashboard/login",
        data={"csrf_token": form_token(page), "api_key": SERVICE_KEY},
        base_url="https://localhost",
    )

    assert all("Secure" in cookie for cookie in answer.headers.getlist("Set-Cookie")[1:])


@pytest.mark.parametrize("key", ["", "wrong", SERVICE_KEY + " x", "é"])
def test_wrong_key_is_refused(anonymous: FlaskClient, key: str) -> None:
    answer = log_in(anonymous, key)

    assert answer.status_code == 401
    assert "not valid" in answer.text
    assert anonymous.get("/dashboard").status_code == 302


def test_login_without_its_form_is_refused(anonymous: FlaskClient) -> None:
    answer = anonymous.post("/dashboard/login", data={"api_key": SERVICE_KEY})

    assert answer.status_code == 403


def test_login_returns_to_the_page(anonymous: FlaskClient, company: str) -> None:
    first = anonymous.get(f"/dashboard/companies/{company}")
    assert f"next=/dashboard/companies/{company}" in first.headers["Location"]

    answer = log_in(anonymous, next_page=f"/dashboard/companies/{company}")

    assert answer.headers["Location"] == f"/dashboard/companies/{company}"


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example", "//evil.example", "/dashboard\\evil", "/dashboard/../x"]
)
def test_login_never_leads_elsewhere(anonymous: FlaskClient, elsewhere: str) -> None:
    assert log_in(anonymous, next_page=elsewhere).headers["Location"] == "/dashboard"


def test_key_is_in_no_page(app: Flask, company: str) -> None:
    client = app.test_client()
    for path in ("/dashboard/login", f"{API}/docs", f"{API}/openapi.json"):
        assert SERVICE_KEY not in client.get(path).text
    assert SERVICE_KEY not in log_in(client).text
    for path in ("/dashboard", f"/dashboard/companies/{company}", "/dashboard/companies/x"):
        answer = client.get(path)
        assert SERVICE_KEY not in answer.text
        assert SERVICE_KEY not in str(answer.headers)


def test_wrong_key_is_not_repeated(anonymous: FlaskClient) -> None:
    assert "almost-the-key" not in log_in(anonymous, "almost-the-key").text


def test_cookie_reads_the_api(anonymous: FlaskClient, company: str) -> None:
    log_in(anonymous)

    assert anonymous.get(f"{API}/status?company_id={company}").status_code == 200


def test_cookie_writes_only_with_the_token(
    anonymous: FlaskClient, services: FakeServices, company: str
) -> None:
    log_in(anonymous)
    body = {"company_id": company}

    for headers in ({}, {"X-CSRF-Token": "x"}, {"X-CSRF-Token": form_token_of_another(anonymous)}):
        answer = anonymous.post(f"{API}/disconnect", json=body, headers=headers)
        assert answer.status_code == 403
        assert answer.get_json()["error"]["code"] == "csrf-failed"
    assert services.sessions.calls == []

    token = page_token(anonymous)
    answer = anonymous.post(f"{API}/disconnect", json=body, headers={"X-CSRF-Token": token})
    assert answer.status_code == 200


def form_token_of_another(client: FlaskClient) -> str:
    other = client.application.test_client()
    log_in(other)
    return page_token(other)


def test_cookie_dies_with_its_key(
    anonymous: FlaskClient, services: FakeServices, company: str
) -> None:
    services.authenticator.add_key("second-key")
    log_in(anonymous, "second-key")
    assert anonymous.get("/dashboard").status_code == 200

    services.authenticator.remove_key("second-key")

    assert anonymous.get("/dashboard").status_code == 302
    assert anonymous.get(f"{API}/status?company_id={company}").status_code == 401


@pytest.mark.parametrize("cookie", ["", "x", "W10.aaaa.bbbb", "null"])
def test_forged_cookie(anonymous: FlaskClient, company: str, cookie: str) -> None:
    anonymous.set_cookie("crm_whatsapp_session", cookie)

    assert anonymous.get(f"{API}/status?company_id={company}").status_code == 401


def test_cookie_of_another_secret_and_of_yesterday() -> None:
    token = DashboardSessions("a-secret-of-the-tests", max_age_seconds=60).open("somebody")

    assert DashboardSessions("another-secret-here", max_age_seconds=60).find(token) is None
    assert DashboardSessions("a-secret-of-the-tests", max_age_seconds=-1).find(token) is None
    with pytest.raises(ValueError, match="shorter"):
        DashboardSessions("short", max_age_seconds=60)


def test_sign_out(anonymous: FlaskClient) -> None:
    log_in(anonymous)
    assert anonymous.post("/dashboard/logout").status_code == 403
    token = page_token(anonymous)

    answer = anonymous.post("/dashboard/logout", data={"csrf_token": token})

    assert answer.status_code == 303
    assert anonymous.get("/dashboard").status_code == 302


def test_a_copied_cookie_ends_with_its_login(
    app: Flask, anonymous: FlaskClient, company: str
) -> None:
    log_in(anonymous)
    cookie = anonymous.get_cookie("crm_whatsapp_session")
    assert cookie is not None
    thief, other = app.test_client(), app.test_client()
    thief.set_cookie("crm_whatsapp_session", cookie.value)
    log_in(other)
    assert thief.get("/dashboard").status_code == 200

    anonymous.post("/dashboard/logout", data={"csrf_token": page_token(anonymous)})

    assert thief.get("/dashboard").status_code == 302
    assert thief.get(f"{API}/status?company_id={company}").status_code == 401
    assert other.get("/dashboard").status_code == 200


def test_closed_logins_are_remembered_within_bounds() -> None:
    sessions = DashboardSessions("a-secret-of-the-tests", max_age_seconds=60)
    first = sessions.find(cookie := sessions.open("somebody"))
    assert first is not None
    for number in range(10_000):
        sessions.close(DashboardSession(id=str(number), principal_id="somebody"))
    sessions.close(first)
    assert sessions.find(cookie) is None
    assert len(sessions._closed) == 10_000


def test_the_token_of_a_sign_in_form_is_good_for_nothing_else(anonymous: FlaskClient) -> None:
    """The form binds its token to a cookie that its caller may choose."""
    sessions = DashboardSessions("a-secret-of-the-tests", max_age_seconds=60)
    log_in(anonymous)
    cookie = anonymous.get_cookie("crm_whatsapp_session")
    login = sessions.find(cookie.value if cookie else None)
    assert login is not None
    anonymous.set_cookie("crm_whatsapp_login", login.id, path="/dashboard/login")
    token = form_token(anonymous.get("/dashboard/login"))

    assert anonymous.post("/dashboard/logout", data={"csrf_token": token}).status_code == 403
    assert not sessions.is_login_token(sessions.csrf_token(login.id), login.id)


@pytest.mark.parametrize("attempt", ["é中", "x" * 3000, '"><script>'])
def test_the_cookie_of_a_sign_in_form_may_hold_anything(
    anonymous: FlaskClient, attempt: str
) -> None:
    anonymous.set_cookie("crm_whatsapp_login", attempt, path="/dashboard/login")
    page = anonymous.get("/dashboard/login")
    assert "<script>" not in page.text
    form = {"csrf_token": form_token(page), "api_key": "wrong"}
    assert anonymous.post("/dashboard/login", data=form).status_code == 401


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example", "/\\evil.example", "/dashboard\r\nX: 1",
     "/dashboard/companies/../../..//evil.example", "/dashboard\n", "javascript:alert(1)"],
)  # fmt: skip
def test_signing_in_leads_nowhere_else(anonymous: FlaskClient, target: str) -> None:
    assert log_in(anonymous, next_page=target).headers["Location"] == "/dashboard"


def test_pages_run_no_inline_script(anonymous: FlaskClient, company: str) -> None:
    log_in(anonymous)
    for path in (
        "/dashboard",
        f"/dashboard/companies/{company}",
        "/dashboard/login",
        "/dashboard/companies/x",
    ):
        answer = anonymous.get(path, headers={"Accept": "text/html"})
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        for script in re.findall(r"<script[^>]*>", answer.text):
            assert 'src="/' in script
        assert not re.search(r"\son[a-z]+=|style=|https?://", answer.text)


def test_bad_company_is_a_readable_page(anonymous: FlaskClient) -> None:
    log_in(anonymous)

    answer = anonymous.get("/dashboard/companies/x", headers={"Accept": "text/html"})

    assert answer.status_code == 400
    assert answer.mimetype == "text/html"
    assert "must be a UUID" in answer.text


def test_company_out_of_reach(anonymous: FlaskClient, services: FakeServices, company: str) -> None:
    services.authenticator.add_key("other", company_id="11111111-2222-4333-8444-555555555555")
    log_in(anonymous, "other")

    assert anonymous.get(f"/dashboard/companies/{company}").status_code == 403


def test_sandbox_phone_is_only_in_the_demo(services: FakeServices, company: str) -> None:
    for url in (None, "http://127.0.0.1:7777"):
        settings = WebSettings(secret_key="a-secret-of-the-tests", sandbox_phone_url=url)
        client = create_app(services.provide, settings).test_client()
        log_in(client)
        page = client.get(f"/dashboard/companies/{company}").text
        assert ('data-sandbox-phone-url="http://127.0.0.1:7777"' in page) is (url is not None)


def test_assets(anonymous: FlaskClient) -> None:
    answer = anonymous.get("/dashboard/assets/company.js")
    assert answer.mimetype == "text/javascript"
    again = anonymous.get(
        "/dashboard/assets/company.js", headers={"If-None-Match": answer.headers["ETag"]}
    )
    assert again.status_code == 304
    for name in ("views.py", "..%2fviews.py", "nothing.js", "company.js.map"):
        assert anonymous.get(f"/dashboard/assets/{name}").status_code == 404


def test_starting_page(anonymous: FlaskClient, services: FakeServices) -> None:
    services.started = False

    answer = anonymous.get("/dashboard", headers={"Accept": "text/html"})

    assert answer.status_code == 503
    assert "Almost there" in answer.text
