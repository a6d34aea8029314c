"""The routes of webhooks: what they take, whom they let, what they show."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from crm_whatsapp.domain.webhooks import DeliveryState, WebhookOrigin
from crm_whatsapp.service.webhook_secrets import new_secret
from crm_whatsapp.web.auth import Scope
from crm_whatsapp.web.webhook_schemas import (
    DeliveriesBody,
    WebhookDetailBody,
    WebhookWithSecretBody,
)
from tests.unit.service.webhook_world import WebhookWorld, answer
from tests.unit.web.fakes import FakeServices

API = "/api/whatsapp/webhooks"
URL = "https://crm.example.com/hooks"
OTHER = "11111111-2222-4333-8444-555555555555"
NOBODY = "99999999-2222-4333-8444-555555555555"


@pytest.fixture
def world(services: FakeServices) -> WebhookWorld:
    return services.webhooks


@pytest.fixture
def company_client(app: Flask, services: FakeServices, company: str) -> FlaskClient:
    """A client with the key of one company."""
    services.authenticator.add_key("company-key-0123456789", company_id=company)
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = "company-key-0123456789"
    return client


def create(client: FlaskClient, **body: Any) -> dict[str, Any]:
    response = client.post(API, json={"url": URL, **body})
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.get_json()
    return created


def test_a_target_is_registered_and_its_secret_shown_once(
    client: FlaskClient, world: WebhookWorld, company: str
) -> None:
    created = create(client, company_id=company, events=["session.status", "session.alert"])
    assert created.pop("secret").startswith("whsec_")
    assert created["url"] == URL
    assert created["company_id"] == company
    assert created["events"] == ["session.alert", "session.status"]
    assert (created["enabled"], created["origin"]) == (True, "api")
    assert created["created_at"].endswith("Z")

    shown = client.get(f"{API}/{created['id']}")
    assert shown.get_json() == {
        **created,
        "is_resting": False,
        "deliveries": {"pending": 0, "delivered": 0, "parked": 0},
    }
    listed = client.get(API)
    assert listed.get_json() == {"webhooks": [created], "count": 1}
    assert "whsec_" not in shown.text + listed.text


def test_defaults_are_every_event_of_every_company(client: FlaskClient) -> None:
    created = create(client)
    assert (created["company_id"], created["events"]) == (None, [])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": None}, "url"),
        ({"url": ""}, "url"),
        ({"url": "http://crm.example.com/"}, "url"),
        ({"url": "https://x/" + "y" * 2050}, "url"),
        ({"url": URL, "events": ["session.nothing"]}, "events.0"),
        ({"url": URL, "events": "session.status"}, "events"),
        ({"url": URL, "secret": "hunter2"}, "secret"),
        ({"url": URL, "company_id": "acme"}, "company_id"),
        ({"url": URL, "enabled": True}, "enabled"),
    ],
)
def test_what_a_target_may_not_be(client: FlaskClient, body: Any, field: str) -> None:
    response = client.post(API, json=body)
    assert response.status_code == 400
    assert response.get_json()["error"]["fields"][0]["field"] == field
    assert "hunter2" not in response.text


def test_changes(client: FlaskClient) -> None:
    created = create(client)
    path = f"{API}/{created['id']}"
    changed = client.patch(
        path, json={"url": "https://b.example.com/", "events": ["session.qr"], "enabled": False}
    ).get_json()
    assert (changed["url"], changed["events"]) == ("https://b.example.com/", ["session.qr"])
    assert changed["enabled"] is False
    assert changed["secret"] is None
    rotated = client.patch(path, json={"rotate_secret": True}).get_json()
    assert rotated["secret"] != created["secret"]
    assert rotated["url"] == "https://b.example.com/"
    assert client.patch(path, json={"company_id": OTHER}).status_code == 400
    both = client.patch(path, json={"rotate_secret": True, "secret": new_secret()})
    assert both.status_code == 400


def test_removal(client: FlaskClient) -> None:
    created = create(client)
    path = f"{API}/{created['id']}"
    assert client.delete(path).get_json() == {"id": created["id"], "deleted": True}
    assert client.delete(path).status_code == 404
    assert client.get(path).get_json()["error"]["code"] == "not-found"


def test_the_webhook_of_the_environment_is_shown_and_left(
    client: FlaskClient, world: WebhookWorld
) -> None:
    webhook = world.register(origin=WebhookOrigin.ENVIRONMENT)
    path = f"{API}/{webhook.id}"
    assert client.get(path).get_json()["origin"] == "environment"
    for response in (client.delete(path), client.patch(path, json={"enabled": False})):
        assert response.status_code == 422
        assert response.get_json()["error"]["code"] == "set-by-environment"


class TestDeliveries:
    def test_pages_of_the_log(self, client: FlaskClient, world: WebhookWorld) -> None:
        created = create(client)
        world.queue(5)
        path = f"{API}/{created['id']}/deliveries"
        first = client.get(f"{path}?limit=3").get_json()
        assert [row["id"] for row in first["deliveries"]] == [5, 4, 3]
        assert (first["count"], first["next_before"]) == (3, 3)
        rest = client.get(f"{path}?limit=3&before=3").get_json()
        assert [row["id"] for row in rest["deliveries"]] == [2, 1]
        assert rest["next_before"] is None
        row = rest["deliveries"][0]
        assert row["type"] == "session.status"
        assert (row["state"], row["attempts"], row["status_code"]) == ("pending", 0, None)
        assert "data" not in row
        assert client.get(f"{path}?state=parked").get_json()["count"] == 0

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=201", "before=0", "state=lost", "page=2", f"before={2**63}"]
    )
    def test_other_questions(self, client: FlaskClient, query: str) -> None:
        created = create(client)
        assert client.get(f"{API}/{created['id']}/deliveries?{query}").status_code == 400

    def test_parked_ones_are_sent_again(self, client: FlaskClient, world: WebhookWorld) -> None:
        created = create(client)
        world.queue(2)
        claim = world.database.claim("o", lanes=1, per_lane=2, hold_seconds=60.0)
        world.targets.replies[URL] = lambda _: answer(410)
        world.database.settle([world.courier.deliver(claim.deliveries[0]).attempt])
        webhook = world.database.webhooks[created["id"]]
        assert world.states(webhook)[0] is DeliveryState.PARKED
        path = f"{API}/{created['id']}/redeliver"
        response = client.post(path, json={"all_parked": True})
        assert (response.status_code, response.get_json()) == (202, {"queued": 1})
        assert world.states(webhook)[0] is DeliveryState.PENDING
        assert client.post(path, json={"delivery_ids": [1, 2]}).get_json() == {"queued": 0}

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"all_parked": False},
            {"delivery_ids": []},
            {"delivery_ids": ["1"]},
            {"delivery_ids": [0]},
            {"delivery_ids": [1], "all_parked": True},
            {"delivery_ids": [*range(1, 1002)]},
        ],
    )
    def test_what_is_no_redelivery(self, client: FlaskClient, body: Any) -> None:
        created = create(client)
        response = client.post(f"{API}/{created['id']}/redeliver", json=body)
        assert response.status_code == 400


class TestTest:
    def test_taken(self, client: FlaskClient) -> None:
        created = create(client)
        response = client.post(f"{API}/{created['id']}/test")
        assert response.status_code == 200
        assert response.get_json() == {"delivered": True, "status_code": 204, "took_ms": 10}

    def test_not_taken(self, client: FlaskClient, world: WebhookWorld) -> None:
        created = create(client)
        world.targets.replies[URL] = lambda _: answer(None)
        response = client.post(f"{API}/{created['id']}/test")
        assert response.status_code == 422
        error = response.get_json()["error"]
        assert error["code"] == "test-not-taken"
        assert (error["status_code"], error["took_ms"]) == (None, 10)
        assert "no connection" in error["message"]


class TestAccess:
    def test_a_company_key_has_its_own_webhooks_alone(
        self, company_client: FlaskClient, world: WebhookWorld, company: str
    ) -> None:
        for_all, foreign = world.register(), world.register(company_id=OTHER)
        mine = create(company_client, company_id=company)
        assert [it["id"] for it in company_client.get(API).get_json()["webhooks"]] == [mine["id"]]
        for webhook in (for_all, foreign):
            path = f"{API}/{webhook.id}"
            for response in (
                company_client.get(path),
                company_client.patch(path, json={"enabled": False}),
                company_client.delete(path),
                company_client.get(f"{path}/deliveries"),
                company_client.post(f"{path}/redeliver", json={"all_parked": True}),
                company_client.post(f"{path}/test"),
            ):
                assert response.status_code == 403
                assert URL not in response.text
        assert world.targets.requests == []
        assert len(world.database.webhooks) == 3
        assert company_client.post(f"{API}/{mine['id']}/test").status_code == 200
        assert company_client.delete(f"{API}/{mine['id']}").status_code == 200

    @pytest.mark.parametrize("company_id", [None, OTHER])
    def test_a_company_key_registers_for_its_company_alone(
        self, company_client: FlaskClient, company_id: str | None
    ) -> None:
        response = company_client.post(API, json={"url": URL, "company_id": company_id})
        assert response.status_code == 403

    def test_reading_is_not_enough(self, app: Flask, services: FakeServices) -> None:
        services.authenticator.add_key("reading-key-0123456789", scopes=frozenset({Scope.READ}))
        response = app.test_client().get(API, headers={"X-API-Key": "reading-key-0123456789"})
        assert response.status_code == 403


def test_unknown_and_malformed_ids(client: FlaskClient) -> None:
    assert client.get(f"{API}/{NOBODY}").status_code == 404
    assert client.post(f"{API}/{NOBODY}/test").status_code == 404
    malformed = client.get(f"{API}/1")
    assert malformed.status_code == 400
    assert malformed.get_json()["error"]["fields"][0]["field"] == "webhook_id"


def test_without_the_database_every_route_says_so(client: FlaskClient, world: WebhookWorld) -> None:
    created = create(client)
    world.database.reachable = False
    path = f"{API}/{created['id']}"
    for response in (
        client.get(API),
        client.post(API, json={"url": URL}),
        client.get(path),
        client.patch(path, json={"enabled": False}),
        client.delete(path),
        client.get(f"{path}/deliveries"),
        client.post(f"{path}/redeliver", json={"all_parked": True}),
    ):
        assert response.status_code == 503
        assert response.get_json()["error"]["code"] == "database-unavailable"
        assert response.headers["Retry-After"] == "5"


def test_the_examples_of_the_guide_have_exactly_the_fields_of_the_answers() -> None:
    guide = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text()
    examples = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", guide, re.DOTALL)]
    for field, model in (
        ("secret", WebhookWithSecretBody),
        ("is_resting", WebhookDetailBody),
        ("next_before", DeliveriesBody),
    ):
        found = [example for example in examples if field in example]
        assert found
        for example in found:
            assert list(example) == list(model.model_fields)
            assert model.model_validate(example).model_dump(mode="json") == example
