"""Who may read /metrics, and what is counted of requests."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from crm_whatsapp.web.app_factory import WebSettings, create_app
from crm_whatsapp.web.auth import Scope
from crm_whatsapp.web.errors import NotReady
from tests.unit.web.fakes import SERVICE_KEY, FakeServices

TOKEN = "metrics-token-for-tests-0123456789"
COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"


@pytest.fixture
def tokened(services: FakeServices) -> FlaskClient:
    """A client of an app with METRICS_TOKEN; it presents nothing by itself."""
    settings = WebSettings(secret_key="a-secret-of-the-tests", metrics_token=TOKEN)
    return create_app(services.provide, settings).test_client()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def counted(services: FakeServices) -> list[tuple[str | None, str, int]]:
    return [(route, method, status) for route, method, status, _ in services.metrics.requests]


# --- access ---------------------------------------------------------------------------------------


def test_the_token_opens_the_page_and_nothing_else(tokened: FlaskClient) -> None:
    assert tokened.get("/metrics", headers=bearer(TOKEN)).status_code == 200
    for path in (
        f"/api/whatsapp/status?company_id={COMPANY}",
        "/api/whatsapp/active-sessions",
        f"/api/whatsapp/session-info?company_id={COMPANY}",
    ):
        assert tokened.get(path, headers=bearer(TOKEN)).status_code == 401, path


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {TOKEN}"},
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        bearer("é" * 40),
        bearer(SERVICE_KEY),
        {"X-API-Key": TOKEN},
        {"X-API-Key": "wrong", **bearer(TOKEN)},
    ],
)
def test_anything_but_the_token_is_refused(tokened: FlaskClient, headers: dict[str, str]) -> None:
    answer = tokened.get("/metrics", headers=headers)

    assert answer.status_code == 401
    assert "WWW-Authenticate" in answer.headers


def test_a_service_key_opens_it_with_a_token_or_without(
    tokened: FlaskClient, client: FlaskClient
) -> None:
    assert client.get("/metrics").status_code == 200
    assert tokened.get("/metrics", headers={"X-API-Key": SERVICE_KEY}).status_code == 200


@pytest.mark.parametrize("token", ["", "None", TOKEN])
def test_without_a_token_no_bearer_opens_it(anonymous: FlaskClient, token: str) -> None:
    assert anonymous.get("/metrics", headers=bearer(token)).status_code == 401


def test_a_key_of_one_company_does_not_see_all_of_them(
    anonymous: FlaskClient, services: FakeServices
) -> None:
    services.authenticator.add_key("company-key", company_id=COMPANY)
    services.authenticator.add_key("sender-key", scopes=frozenset({Scope.SEND}))

    assert anonymous.get("/metrics", headers={"X-API-Key": "company-key"}).status_code == 403
    assert anonymous.get("/metrics", headers={"X-API-Key": "sender-key"}).status_code == 403


def test_the_token_does_not_show_in_the_settings() -> None:
    settings = WebSettings(secret_key="a-secret-of-the-tests", metrics_token=TOKEN)

    assert TOKEN not in repr(settings)


def test_a_service_that_is_starting_has_no_page(
    tokened: FlaskClient, services: FakeServices
) -> None:
    services.started = False

    assert tokened.get("/metrics", headers=bearer(TOKEN)).status_code == 503


# --- the page -------------------------------------------------------------------------------------


def test_the_page_is_given_as_it_is_rendered(client: FlaskClient) -> None:
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})

    assert answer.text == "# accept: application/openmetrics-text\n"
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"


def test_unknown_parameters_are_refused(client: FlaskClient) -> None:
    assert client.get("/metrics?name[]=up").status_code == 400


# --- requests -------------------------------------------------------------------------------------


def test_requests_are_counted_by_template_method_and_status(
    client: FlaskClient, services: FakeServices
) -> None:
    client.get(f"/api/whatsapp/status?company_id={COMPANY}")
    client.get("/api/whatsapp/status?company_id=nobody")
    client.delete(f"/api/whatsapp/sessions/{COMPANY}")
    client.get("/healthz")

    assert counted(services) == [
        ("/api/whatsapp/status", "GET", 200),
        ("/api/whatsapp/status", "GET", 400),
        ("/api/whatsapp/sessions/<path:company_id>", "DELETE", 200),
        ("/healthz", "GET", 200),
    ]
    assert all(0 <= seconds < 60 for *_, seconds in services.metrics.requests)


def test_addresses_that_do_not_exist_share_one_label(
    client: FlaskClient, services: FakeServices
) -> None:
    for path in ("/wp-login.php", "/api/whatsapp/secret/path", f"/api/whatsapp/sessions/{COMPANY}"):
        client.get(path)

    assert counted(services) == [(None, "GET", 404), (None, "GET", 404), (None, "GET", 405)]


def test_refusals_and_failures_are_counted_too(
    anonymous: FlaskClient, client: FlaskClient, services: FakeServices
) -> None:
    path = f"/api/whatsapp/status?company_id={COMPANY}"
    anonymous.get(path)
    services.sessions.failure = RuntimeError("broken")
    client.get(path)

    assert counted(services) == [
        ("/api/whatsapp/status", "GET", 401),
        ("/api/whatsapp/status", "GET", 500),
    ]


def test_nobody_counts_while_the_service_starts(
    client: FlaskClient, services: FakeServices
) -> None:
    services.started = False

    assert client.get("/healthz").status_code == 200
    assert client.get(f"/api/whatsapp/status?company_id={COMPANY}").status_code == 503
    assert counted(services) == []


def test_a_start_that_failed_does_not_break_answers(settings: WebSettings) -> None:
    def refuse() -> Any:
        raise NotReady("The service could not start.", ready=False, degraded=True, checks=[])

    app: Flask = create_app(refuse, settings)

    assert app.test_client().get("/healthz").status_code == 200
    assert app.test_client().get("/readyz").status_code == 503
