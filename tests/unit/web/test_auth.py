"""Who may do what; every route of the app is walked."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from crm_whatsapp.web.auth import (
    ApiKeyAuthenticator,
    PresentedCredentials,
    Scope,
    declared_access,
    hash_api_key,
)
from crm_whatsapp.web.dashboard_session import SESSION_COOKIE, DashboardSessions
from crm_whatsapp.web.services import WebSettings
from tests.unit.web.fakes import SERVICE_KEY, FakeServices, connected

API = "/api/whatsapp"
OTHER_COMPANY = "11111111-2222-4333-8444-555555555555"
PUBLIC = {
    "operations_api.get_health",
    "operations_api.get_readiness",
    "documentation.get_openapi",
    "documentation.get_docs",
    "documentation.get_docs_asset",
    "dashboard.root",
    "dashboard.login_page",
    "dashboard.log_in",
    "dashboard.get_asset",
    "embed_page.get_page",
    "embed_page.get_asset",
}
SCOPES = {
    "session_api.get_status": Scope.READ,
    "session_api.get_active_sessions": Scope.READ,
    "backups_api.get_session_info": Scope.READ,
    "events_api.get_events": Scope.READ,
    "metrics_api.get_metrics": Scope.READ,
    "report_api.get_report": Scope.READ,
    "backups_api.backup_session": Scope.MANAGE,
    "backups_api.cleanup_backups": Scope.MANAGE,
    "session_api.connect": Scope.MANAGE,
    "session_api.get_qr": Scope.MANAGE,
    "session_api.get_pairing_code": Scope.MANAGE,
    "session_api.disconnect": Scope.MANAGE,
    "session_api.restore": Scope.MANAGE,
    "session_api.logout": Scope.MANAGE,
    "session_api.delete_session": Scope.MANAGE,
    "messages_api.send_message": Scope.SEND,
    "webhooks_api.create_webhook": Scope.MANAGE,
    "webhooks_api.list_webhooks": Scope.MANAGE,
    "webhooks_api.get_webhook": Scope.MANAGE,
    "webhooks_api.change_webhook": Scope.MANAGE,
    "webhooks_api.delete_webhook": Scope.MANAGE,
    "webhooks_api.list_deliveries": Scope.MANAGE,
    "webhooks_api.redeliver": Scope.MANAGE,
    "webhooks_api.test_webhook": Scope.MANAGE,
    "keys_api.create_key": Scope.MANAGE,
    "keys_api.list_keys": Scope.MANAGE,
    "keys_api.revoke_key": Scope.MANAGE,
    "dashboard.companies_page": Scope.READ,
    "dashboard.company_page": Scope.READ,
    "dashboard.report_page": Scope.READ,
    "dashboard.log_out": Scope.READ,
}


def calls(app: Flask) -> Iterator[tuple[Rule, str, str]]:
    for rule in app.url_map.iter_rules():
        path = rule.rule
        for argument in rule.arguments:
            path = path.replace(f"<path:{argument}>", OTHER_COMPANY)
            path = path.replace(f"<{argument}>", OTHER_COMPANY)
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            yield rule, method, path


def test_every_route_declares_its_access(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        access = declared_access(app.view_functions[rule.endpoint])
        assert access is not None, rule.endpoint
        if rule.endpoint in PUBLIC:
            assert access.scope is None, rule.endpoint
        else:
            assert access.scope is SCOPES[rule.endpoint], rule.endpoint


def test_every_other_route_refuses_strangers(app: Flask, services: FakeServices) -> None:
    for rule, method, path in calls(app):
        if rule.endpoint in PUBLIC:
            continue
        for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}):
            answer = app.test_client().open(path, method=method, headers=headers)
            if rule.endpoint.startswith("dashboard."):
                assert answer.status_code == 302, (method, path)
                assert "/dashboard/login" in answer.headers["Location"]
            else:
                assert answer.status_code == 401, (method, path)
                assert "WWW-Authenticate" in answer.headers
                if method != "HEAD":
                    assert answer.get_json()["error"]["code"] == "unauthorized"
    assert services.sessions.calls == []


def test_a_route_that_declares_nothing_is_refused(app: Flask, client: FlaskClient) -> None:
    app.add_url_rule("/forgotten", "forgotten", lambda: "secret")

    answer = client.get("/forgotten")

    assert answer.status_code == 403
    assert "secret" not in answer.text


def test_each_scope_opens_only_its_routes(app: Flask, services: FakeServices) -> None:
    for scope in Scope:
        services.authenticator.add_key(scope.value, scopes=frozenset({scope}))
        for rule, method, path in calls(app):
            needed = SCOPES.get(rule.endpoint)
            if needed is None or rule.endpoint.startswith("dashboard."):
                continue
            answer = app.test_client().open(path, method=method, headers={"X-API-Key": scope.value})
            assert (answer.status_code == 403) == (needed is not scope), (scope, method, path)


def test_company_key_reaches_only_its_company(
    app: Flask, services: FakeServices, company: str
) -> None:
    services.authenticator.add_key("company-key", company_id=company)
    services.sessions.connections[company] = connected(company, "5511987654321", "Ana")
    services.sessions.connections[OTHER_COMPANY] = connected(OTHER_COMPANY, "5511900000000", "Bia")
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = "company-key"

    def body(company_id: str) -> dict[str, str]:
        return {"company_id": company_id, "method": "qr"}

    assert client.get(f"{API}/status?company_id={company}").status_code == 200
    assert client.get(f"{API}/status?company_id={OTHER_COMPANY}").status_code == 403
    assert client.get(f"{API}/qr?company_id={OTHER_COMPANY}").status_code == 403
    assert client.post(f"{API}/connect", json=body(company)).status_code == 200
    assert client.post(f"{API}/connect", json=body(OTHER_COMPANY)).status_code == 403
    assert client.delete(f"{API}/sessions/{OTHER_COMPANY}").status_code == 403
    rows = client.get(f"{API}/active-sessions").get_json()["sessions"]
    assert [row["company_id"] for row in rows] == [company]
    info = client.get(f"{API}/session-info?company_id={company}").get_json()
    assert info["storage"]["path"] is None
    with_proxy = body(company) | {"proxy": "http://proxy.example:3128"}
    assert client.post(f"{API}/connect", json=with_proxy).status_code == 403


def test_a_bad_key_is_not_saved_by_a_good_cookie(
    app: Flask, services: FakeServices, settings: WebSettings, company: str
) -> None:
    principal = services.authenticator.authenticate(PresentedCredentials(api_key=SERVICE_KEY))
    assert principal is not None
    sessions = DashboardSessions(settings.secret_key, max_age_seconds=60)
    client = app.test_client()
    client.set_cookie(SESSION_COOKIE, sessions.open(principal.id))
    path = f"{API}/status?company_id={company}"

    assert client.get(path).status_code == 200
    assert client.get(path, headers={"X-API-Key": "wrong"}).status_code == 401
    assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.parametrize("key", ["", "é", "\xff\xfe", SERVICE_KEY.upper(), "a" * 5000])
def test_wrong_keys(key: str) -> None:
    authenticator = ApiKeyAuthenticator([hash_api_key(SERVICE_KEY)])

    assert authenticator.authenticate(PresentedCredentials(api_key=key)) is None


def test_two_keys_are_valid_while_one_is_replaced() -> None:
    authenticator = ApiKeyAuthenticator([hash_api_key("old"), hash_api_key("new")])

    old = authenticator.authenticate(PresentedCredentials(api_key="old"))
    new = authenticator.authenticate(PresentedCredentials(api_key="new"))

    assert old is not None
    assert new is not None
    assert old.id != new.id
    assert authenticator.find_principal(old.id) == old
    assert authenticator.find_principal("nobody") is None


def test_key_with_other_letters_arrives_as_utf8() -> None:
    authenticator = ApiKeyAuthenticator([hash_api_key("chavé")])
    header = "chavé".encode().decode("latin-1")

    assert authenticator.authenticate(PresentedCredentials(api_key=header)) is not None
