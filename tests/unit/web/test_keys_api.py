"""The routes of keys: who may make which."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from crm_whatsapp.domain.api_keys import Scope
from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.web.auth import (
    CompositeAuthenticator,
    KeyRingAuthenticator,
    PresentedCredentials,
    Principal,
    hash_api_key,
)
from tests.unit.web.fakes import FakeServices

API = "/api/whatsapp/keys"
OTHER = "11111111-2222-4333-8444-555555555555"
NEW = {"name": "the CRM", "scopes": ["read"]}


def client_of(app: Flask, key: str) -> FlaskClient:
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = key
    return client


def later(**span: float) -> str:
    return (datetime.now(UTC) + timedelta(**span)).isoformat()


@pytest.fixture
def company_client(app: Flask, services: FakeServices, company: str) -> FlaskClient:
    """A client with a key that may read and manage one company."""
    _, text = services.keys.make(company_id=company, scopes=frozenset({Scope.READ, Scope.MANAGE}))
    return client_of(app, text)


def test_a_key_is_shown_once(client: FlaskClient, app: Flask, company: str) -> None:
    made = client.post(API, json={**NEW, "company_id": company, "expires_at": later(days=1)})
    assert made.status_code == 201
    body = made.get_json()
    assert body["key"].startswith(f"crmwa_{body['id']}_")
    assert (body["company_id"], body["scopes"], body["revoked_at"]) == (company, ["read"], None)
    listed = client.get(API).get_json()
    assert listed["count"] == 1
    assert listed["keys"][0] == {k: v for k, v in body.items() if k != "key"}
    opened = client_of(app, body["key"]).get(f"/api/whatsapp/status?company_id={company}")
    assert opened.status_code == 200
    revoked = client.delete(f"{API}/{body['id']}")
    assert revoked.status_code == 200
    assert revoked.get_json()["revoked_at"] is not None
    again = client_of(app, body["key"]).get(f"/api/whatsapp/status?company_id={company}")
    assert again.status_code == 401
    assert client.delete(f"{API}/aaaaaaaaaaaa").status_code == 404


def test_a_company_key_manages_those_of_its_company(
    app: Flask, company_client: FlaskClient, services: FakeServices, company: str
) -> None:
    foreign, _ = services.keys.make(company_id=OTHER)
    service, _ = services.keys.make()
    made = company_client.post(API, json={**NEW, "company_id": company})
    assert made.status_code == 201
    listed = company_client.get(API).get_json()["keys"]
    assert {item["company_id"] for item in listed} == {company}
    assert made.get_json()["id"] in {item["id"] for item in listed}
    refusals = [company_client.delete(f"{API}/{it}") for it in (foreign, service, "aaaaaaaaaaaa")]
    assert {(answer.status_code, answer.text) for answer in refusals} == {(403, refusals[0].text)}
    assert company_client.delete(f"{API}/{made.get_json()['id']}").status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"company_id": OTHER},
        {"company_id": None},
        {"scopes": ["read", "send"]},
        {"scopes": ["send"]},
    ],
)
def test_a_company_key_makes_none_that_opens_more(
    company_client: FlaskClient, services: FakeServices, company: str, change: dict[str, Any]
) -> None:
    before = len(services.keys.store.rows)
    answer = company_client.post(API, json={**NEW, "company_id": company, **change})
    assert answer.status_code == 403
    assert len(services.keys.store.rows) == before


def test_a_service_key_that_manages_alone_makes_no_other(
    app: Flask, services: FakeServices
) -> None:
    _, text = services.keys.make(scopes=frozenset({Scope.MANAGE}))
    client = client_of(app, text)
    assert client.post(API, json=NEW).status_code == 403
    assert client.post(API, json={**NEW, "scopes": ["manage"]}).status_code == 201


def test_no_key_outlives_the_one_that_made_it(
    app: Flask, services: FakeServices, company: str
) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    _, text = services.keys.make(company_id=company, expires_at=ends)
    client = client_of(app, text)
    wanted = {**NEW, "company_id": company}
    assert client.post(API, json={**wanted, "expires_at": later(hours=2)}).status_code == 403
    made = client.post(API, json=wanted).get_json()
    assert datetime.fromisoformat(made["expires_at"]) == ends


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes.0"),
        ({"scopes": "read"}, "scopes"),
        ({"scopes": ["read"] * 4}, "scopes"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": 4_000_000_000}, "expires_at"),
        ({"expires_at": "4000000000"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
        ({"expires_at": "0001-01-01T00:00:00+23:59"}, "expires_at"),
        ({"company_id": "x"}, "company_id"),
        ({"key": "crmwa_mine"}, "key"),
    ],
)
def test_malformed_requests(client: FlaskClient, change: dict[str, Any], field: str) -> None:
    answer = client.post(API, json={**NEW, **change})
    assert answer.status_code == 400, answer.text
    assert answer.get_json()["error"]["fields"][0]["field"] == field


@pytest.mark.parametrize("key_id", ["x", "K3VQ7MZC2HXD", "k3vq7mzc2hx1", "%00" * 12, "é" * 12])
def test_malformed_ids(client: FlaskClient, key_id: str) -> None:
    assert client.delete(f"{API}/{key_id}").status_code == 400


def test_a_strange_name_is_kept_as_it_can_be(client: FlaskClient) -> None:
    raw = b'{"name": "\\ud800 Bia", "scopes": ["read"]}'
    made = client.post(API, data=raw, content_type="application/json")
    assert made.status_code in (201, 400), made.text


def test_without_the_database_nothing_is_made(client: FlaskClient, services: FakeServices) -> None:
    services.keys.store.failure = StoreUnavailable()
    for answer in (client.post(API, json=NEW), client.get(API), client.delete(f"{API}/{'a' * 12}")):
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers


def test_what_makes_no_keys_is_refused(app: Flask, services: FakeServices) -> None:
    services.authenticator.add_key("a-token-of-a-user")
    known = services.authenticator._principals[hash_api_key("a-token-of-a-user")]
    services.authenticator._principals[hash_api_key("a-token-of-a-user")] = Principal(
        id=known.id, scopes=known.scopes, companies={OTHER: known.scopes}
    )
    client = client_of(app, "a-token-of-a-user")
    assert client.get(API).status_code == 403
    assert client.post(API, json={**NEW, "company_id": OTHER}).status_code == 403
    assert client.delete(f"{API}/{'a' * 12}").status_code == 403


def test_a_dashboard_login_ends_with_its_key(app: Flask, services: FakeServices) -> None:
    key_id, text = services.keys.make()
    authenticator = CompositeAuthenticator(
        (services.authenticator, KeyRingAuthenticator(services.keys.ring))
    )
    principal = authenticator.authenticate(PresentedCredentials(api_key=text))
    assert principal is not None
    assert authenticator.find_principal(principal.id) == principal
    services.keys.desk.revoke(key_id, by="tests", company_id=None)
    assert authenticator.find_principal(principal.id) is None
    assert authenticator.find_principal(key_id) is None


def test_while_no_keys_are_known_a_key_is_not_called_wrong(
    app: Flask, services: FakeServices, company: str
) -> None:
    _, text = services.keys.make()
    services.keys.ring._book = {}
    services.keys.ring._is_loaded = False
    services.keys.store.failure = StoreUnavailable()
    answer = client_of(app, text).get(f"/api/whatsapp/status?company_id={company}")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"


@pytest.mark.parametrize("trick", ["\n", "\x1b[2K", "\x9b2K", "\u202e", "\u2067", "\u2028"])
def test_no_name_turns_the_line_around_or_moves_a_cursor(client: FlaskClient, trick: str) -> None:
    answer = client.post(API, json={**NEW, "name": f"the{trick}CRM"})
    assert answer.status_code == 400
    assert answer.get_json()["error"]["field"] == "name"
    assert client.post(API, json={**NEW, "name": "o CRM 👩‍👧 عميل"}).status_code == 201
