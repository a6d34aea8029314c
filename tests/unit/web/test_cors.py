"""Which pages may call, and with what."""

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from crm_whatsapp.web.app_factory import WebSettings, create_app
from crm_whatsapp.web.auth import CompositeAuthenticator
from crm_whatsapp.web.services import WebServices
from tests.unit.web.fakes import SERVICE_KEY, FakeServices
from tests.unit.web.token_mint import COMPANY, EC_KEY, KeyList, jwk, project, token

CRM = "https://crm.example.com"
STATUS = f"/api/whatsapp/status?company_id={COMPANY}"
FOREIGN = "11111111-2222-4333-8444-555555555555"
HOSTILE = (
    "https://evil.example",
    "null",
    "",
    "*",
    f"{CRM}.evil.example",
    f"{CRM}:443",
    f"{CRM}/",
    "http://crm.example.com",
    "https://CRM.example.com",
    f"{CRM}, https://evil.example",
    f"{CRM}\t",
)


class Town(FakeServices):
    """With users of a Supabase project."""

    def __init__(self) -> None:
        super().__init__()
        self.signed_in = project(KeyList(jwk(EC_KEY, "ec-1")))

    def provide(self) -> WebServices | None:
        found = super().provide()
        if found is None:
            return None
        both = CompositeAuthenticator((found.authenticator, self.signed_in))
        fields = {name: getattr(found, name) for name in WebServices.__dataclass_fields__}
        return WebServices(**{**fields, "authenticator": both})


@pytest.fixture
def services() -> Town:
    return Town()


@pytest.fixture
def settings() -> WebSettings:
    return WebSettings(
        secret_key="a-secret-of-the-tests",
        cors_origins=frozenset({CRM, "http://127.0.0.1:3000"}),
        cors_max_age_seconds=60.0,
    )


@pytest.fixture
def page(app: Flask) -> FlaskClient:
    """A page of the CRM, with its user's token."""
    client = app.test_client()
    client.environ_base["HTTP_ORIGIN"] = CRM
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token()}"
    return client


def preflight(client: FlaskClient, origin: str, path: str = STATUS) -> TestResponse:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return client.options(path, headers=headers)


def listed(answer: TestResponse, name: str) -> set[str]:
    return {item.strip() for item in answer.headers.get(name, "").split(",")}


def test_a_preflight_of_a_listed_origin_is_granted(anonymous: FlaskClient) -> None:
    answer = preflight(anonymous, CRM)

    assert answer.status_code == 204
    assert answer.data == b""
    assert answer.headers["Access-Control-Allow-Origin"] == CRM
    assert {"GET", "POST", "DELETE"} <= listed(answer, "Access-Control-Allow-Methods")
    assert {"Authorization", "Content-Type"} <= listed(answer, "Access-Control-Allow-Headers")
    assert "X-API-Key" not in listed(answer, "Access-Control-Allow-Headers")
    assert answer.headers["Access-Control-Max-Age"] == "60"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Origin" in listed(answer, "Vary")


@pytest.mark.parametrize("origin", HOSTILE)
def test_other_origins_are_granted_nothing(anonymous: FlaskClient, origin: str) -> None:
    answer = preflight(anonymous, origin)
    call = anonymous.get(STATUS, headers={"Origin": origin, "X-API-Key": SERVICE_KEY})

    assert answer.status_code == 403
    assert call.status_code == 200
    for reply in (answer, call):
        assert not [name for name in reply.headers.keys() if name.startswith("Access-Control")]
        assert "Origin" in listed(reply, "Vary")


def test_the_answers_are_shown_to_a_listed_origin_errors_too(
    page: FlaskClient, anonymous: FlaskClient, services: Town
) -> None:
    replies = [page.get(STATUS), anonymous.get(STATUS, headers={"Origin": CRM})]
    replies.append(page.get("/api/whatsapp/absent"))
    replies.append(page.post("/api/whatsapp/connect", json={"company_id": FOREIGN, "method": "qr"}))
    services.started = False
    replies.append(page.get(STATUS))

    assert [reply.status_code for reply in replies] == [200, 401, 404, 403, 503]
    for reply in replies:
        assert reply.headers["Access-Control-Allow-Origin"] == CRM
        assert "Retry-After" in listed(reply, "Access-Control-Expose-Headers")
        assert "Origin" in listed(reply, "Vary")
        assert "Access-Control-Allow-Credentials" not in reply.headers


def test_the_dashboard_is_no_business_of_other_origins(anonymous: FlaskClient) -> None:
    for path in ("/dashboard/login", "/", "/dashboard", "/readyz"):
        answer = anonymous.get(path, headers={"Origin": CRM})
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert "Access-Control-Allow-Origin" not in preflight(anonymous, CRM, "/dashboard").headers


def test_without_origins_nothing_is_said_of_them(services: Town) -> None:
    client = create_app(services.provide, WebSettings(secret_key="a-secret-of-the-tests"))

    answer = client.test_client().get(STATUS, headers={"Origin": CRM, "X-API-Key": SERVICE_KEY})

    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_user_connects_their_company_and_no_other(page: FlaskClient, services: Town) -> None:
    body = {"company_id": COMPANY, "method": "qr", "user_id": "somebody-else"}

    assert page.post("/api/whatsapp/connect", json=body).status_code in (200, 202)
    _, _, arguments = services.sessions.calls[-1]
    assert arguments["user_id"] == "7f0f0b61-0c3e-4c53-9a0c-0a7c2a1f1d11"
    assert page.get(f"/api/whatsapp/qr?company_id={COMPANY}").status_code == 200
    services.sessions.calls.clear()
    for path in ("status", "qr", "session-info"):
        assert page.get(f"/api/whatsapp/{path}?company_id={FOREIGN}").status_code == 403
    foreign = {**body, "company_id": FOREIGN}
    assert page.post("/api/whatsapp/connect", json=foreign).status_code == 403
    assert page.delete(f"/api/whatsapp/sessions/{FOREIGN}").status_code == 403
    assert page.get(f"/api/whatsapp/events?company_id={FOREIGN}").status_code == 403
    assert services.sessions.calls == []


def test_what_outlives_a_token_is_not_made_with_one(page: FlaskClient) -> None:
    key = {"name": "x", "company_id": COMPANY, "scopes": ["read"]}
    hook = {"company_id": COMPANY, "url": "https://127.0.0.1:9/hook"}

    assert page.post("/api/whatsapp/keys", json=key).status_code == 403
    assert page.get("/api/whatsapp/keys").status_code == 403
    assert page.post("/api/whatsapp/webhooks", json=hook).status_code == 403
    assert page.get("/metrics").status_code == 403


def test_a_token_is_no_login_and_travels_in_no_url(anonymous: FlaskClient) -> None:
    text = token()

    assert anonymous.get(f"{STATUS}&access_token={text}").status_code in (400, 401)
    anonymous.set_cookie("crm_whatsapp_session", text)
    assert anonymous.get(STATUS).status_code == 401
    assert anonymous.get(STATUS, headers={"Authorization": f"Basic {text}"}).status_code == 401
    assert anonymous.get(STATUS, headers={"X-API-Key": text}).status_code == 401
    page = anonymous.get("/dashboard", headers={"Authorization": f"Bearer {text}"})
    assert page.status_code == 302
