"""The OpenAPI document says what the routes do."""

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from crm_whatsapp.web import documentation

API = "/api/whatsapp"
EXPECTED = {
    ("get", f"{API}/status"),
    ("post", f"{API}/connect"),
    ("get", f"{API}/qr"),
    ("get", f"{API}/pairing-code"),
    ("post", f"{API}/disconnect"),
    ("post", f"{API}/restore"),
    ("post", f"{API}/logout"),
    ("delete", f"{API}/sessions/{{company_id}}"),
    ("get", f"{API}/active-sessions"),
    ("get", f"{API}/session-info"),
    ("post", f"{API}/backup-session"),
    ("post", f"{API}/cleanup-backups"),
    ("post", f"{API}/messages/send"),
    ("get", f"{API}/events"),
    ("post", f"{API}/webhooks"),
    ("post", f"{API}/keys"),
    ("get", f"{API}/keys"),
    ("delete", f"{API}/keys/{{key_id}}"),
    ("get", f"{API}/webhooks"),
    ("get", f"{API}/webhooks/{{webhook_id}}"),
    ("patch", f"{API}/webhooks/{{webhook_id}}"),
    ("delete", f"{API}/webhooks/{{webhook_id}}"),
    ("get", f"{API}/webhooks/{{webhook_id}}/deliveries"),
    ("post", f"{API}/webhooks/{{webhook_id}}/redeliver"),
    ("post", f"{API}/webhooks/{{webhook_id}}/test"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", f"{API}/report"),
    ("get", "/metrics"),
}


def test_document_has_every_route(anonymous: FlaskClient) -> None:
    document = anonymous.get(f"{API}/openapi.json").get_json()

    found = {(method, path) for path, item in document["paths"].items() for method in item}
    assert found == EXPECTED
    assert document["openapi"].startswith("3.1")


def test_document_says_how_bodies_are_refused(anonymous: FlaskClient) -> None:
    document = anonymous.get(f"{API}/openapi.json").get_json()

    for path, item in document["paths"].items():
        for method, operation in item.items():
            refusals = {"413", "415"} & operation["responses"].keys()
            wanted = {"413", "415"} if "requestBody" in operation else set()
            assert refusals == wanted, (method, path)


def test_document_says_what_a_request_needs(anonymous: FlaskClient) -> None:
    document = anonymous.get(f"{API}/openapi.json").get_json()

    status = document["paths"][f"{API}/status"]["get"]
    assert status["parameters"][0]["name"] == "company_id"
    assert status["parameters"][0]["required"] is True
    assert {"api_key": []} in status["security"]
    schemas = document["components"]["schemas"]
    assert schemas["ConnectRequest"]["required"] == ["company_id", "method"]
    assert schemas["ConnectRequest"]["additionalProperties"] is False
    assert schemas["SendRequest"]["required"] == ["company_id", "to"]
    assert schemas["SendRequest"]["properties"]["text"]["anyOf"][0]["maxLength"] == 65_536
    assert set(schemas["StatusBody"]["required"]) >= {"status", "reason", "user_action"}


def test_every_error_answer_has_the_one_form(anonymous: FlaskClient) -> None:
    document = anonymous.get(f"{API}/openapi.json").get_json()

    for path, item in document["paths"].items():
        for operation in item.values():
            for number, answer in operation["responses"].items():
                if int(number) >= 400:
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema["$ref"].endswith("/ErrorBody"), (path, number)


def test_every_reference_leads_somewhere(anonymous: FlaskClient) -> None:
    response = anonymous.get(f"{API}/openapi.json")
    schemas = response.get_json()["components"]["schemas"]

    for name in re.findall(r"#/components/schemas/([A-Za-z]+)", response.text):
        assert name in schemas


def test_page_needs_nothing_from_outside(anonymous: FlaskClient) -> None:
    page = anonymous.get(f"{API}/docs")

    assert page.status_code == 200
    assert not re.search(r"https?://", page.text)
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert anonymous.get(asset).status_code == 200, asset
    assert anonymous.get(f"{API}/docs/other.js").status_code == 404


def test_two_apps_do_not_mix(app: Flask, anonymous: FlaskClient) -> None:
    first = anonymous.get(f"{API}/openapi.json").get_json()

    assert anonymous.get(f"{API}/openapi.json").get_json() == first


def test_the_document_is_written_out_once(
    anonymous: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = anonymous.get(f"{API}/openapi.json")
    monkeypatch.setattr(
        documentation, "openapi_document", lambda: pytest.fail("it was written out again")
    )
    again = anonymous.get(f"{API}/openapi.json")
    assert again.data == first.data
    assert again.mimetype == "application/json"
