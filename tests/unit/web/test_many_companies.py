"""A user of several companies: each with its own role, and nothing beyond them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from crm_whatsapp.domain.connection import PairingMethod
from crm_whatsapp.domain.memberships import MembershipUnknown
from crm_whatsapp.web.app_factory import WebSettings, create_app
from crm_whatsapp.web.auth import Principal, Scope
from crm_whatsapp.web.errors import Forbidden
from crm_whatsapp.web.services import StreamTerms
from tests.unit.web.fakes import FakeServices, connected

API = "/api/whatsapp"
TOKEN = "token-of-a-user-0123456789"
MANAGED = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
READ = "9d6f2061-60e5-4e93-a0df-f55dd5c3d40c"
SENDS = "22222222-60e5-4e93-a0df-f55dd5c3d40c"
FOREIGN = "11111111-60e5-4e93-a0df-f55dd5c3d40c"
COMPANIES = {
    MANAGED: frozenset(Scope),
    READ: frozenset({Scope.READ}),
    SENDS: frozenset({Scope.SEND}),
}


@pytest.fixture
def town(services: FakeServices) -> FakeServices:
    """All of them connected; the user belongs to three."""
    for number, company_id in enumerate((*COMPANIES, FOREIGN)):
        services.sessions.connections[company_id] = connected(company_id, f"55119{number}", "Ana")
    services.authenticator.add_user(TOKEN, COMPANIES)
    return services


@pytest.fixture
def user(app: Flask, town: FakeServices) -> FlaskClient:
    return client_of(app)


def client_of(app: Flask) -> FlaskClient:
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = TOKEN
    return client


def status_of(client: FlaskClient, path: str, **body: Any) -> int:
    if body:
        return client.post(f"{API}/{path}", json=body).status_code
    return client.get(f"{API}/{path}").status_code


@pytest.mark.parametrize(
    ("company_id", "reads", "sends", "manages"),
    [
        (MANAGED, True, True, True),
        (READ, True, False, False),
        (SENDS, False, True, False),
        (FOREIGN, False, False, False),
    ],
)
def test_each_company_has_its_own_role(
    user: FlaskClient, company_id: str, reads: bool, sends: bool, manages: bool
) -> None:
    message = {"company_id": company_id, "to": "+5511987654321", "type": "text", "text": "Hi"}

    assert (status_of(user, f"status?company_id={company_id}") == 200) is reads
    assert (status_of(user, f"report?company_id={company_id}") == 200) is reads
    assert (status_of(user, f"session-info?company_id={company_id}") == 200) is reads
    assert (status_of(user, "messages/send", **message) != 403) is sends
    assert (status_of(user, "disconnect", company_id=company_id) == 200) is manages
    assert (status_of(user, "cleanup-backups", company_id=company_id) == 200) is manages
    if not reads:
        assert status_of(user, f"status?company_id={company_id}") == 403
    if not manages:
        assert status_of(user, "disconnect", company_id=company_id) == 403


def test_what_reaches_every_company_is_refused(user: FlaskClient, town: FakeServices) -> None:
    assert status_of(user, "cleanup-backups", keep=3) == 403
    assert status_of(user, "keys") == 403
    assert user.get("/metrics").status_code == 403
    assert status_of(user, "webhooks", url="https://crm.example.com/h") == 403
    proxy = {"company_id": MANAGED, "method": "qr", "proxy": "socks5://10.0.0.1:1080"}
    assert status_of(user, "connect", **proxy) == 403
    assert town.backups.calls == []


def test_collections_hold_the_rows_of_all_their_companies_and_no_others(
    user: FlaskClient, client: FlaskClient, town: FakeServices
) -> None:
    rows = user.get(f"{API}/active-sessions").get_json()["sessions"]
    assert {row["company_id"] for row in rows} == {MANAGED, READ}

    hooks: dict[str | None, str] = {}
    for company_id in (*COMPANIES, FOREIGN, None):
        wanted = {"url": "https://crm.example.com/h", "company_id": company_id}
        if company_id is None:
            del wanted["company_id"]
        hooks[company_id] = client.post(f"{API}/webhooks", json=wanted).get_json()["id"]
    listed = user.get(f"{API}/webhooks").get_json()["webhooks"]
    assert [row["company_id"] for row in listed] == [MANAGED]
    seen = {
        company_id: user.get(f"{API}/webhooks/{hook}").status_code
        for company_id, hook in hooks.items()
    }
    assert seen == {MANAGED: 200, READ: 403, SENDS: 403, FOREIGN: 403, None: 403}
    assert user.delete(f"{API}/webhooks/{hooks[None]}").status_code == 403

    answer = user.get(f"{API}/report").get_json()
    assert answer["company_id"] is None
    assert answer["engines"] is None
    assert town.reports.asked == [(24, frozenset({MANAGED, READ}))]


class Stream:
    """What a stream has told so far."""

    def __init__(self, client: FlaskClient, query: str = "") -> None:
        self.answer = client.get(f"{API}/events{query}", buffered=False)
        assert self.answer.status_code == 200, self.answer.text
        self.pieces: Iterator[bytes] = iter(self.answer.iter_encoded())
        self.text = ""

    def until(self, wanted: str) -> str:
        while wanted not in self.text:
            self.text += next(self.pieces).decode()
        return self.text

    def companies(self) -> set[str]:
        lines = (line for line in self.text.splitlines() if line.startswith("data: "))
        return {json.loads(line[6:])["company_id"] for line in lines}

    def to_the_end(self) -> str:
        return self.text + b"".join(self.pieces).decode()


def test_a_stream_tells_of_all_their_companies_and_shows_codes_where_they_manage(
    user: FlaskClient, town: FakeServices
) -> None:
    stream = Stream(user)
    try:
        assert '"companies":2' in stream.until('"companies":')
        for company_id in (FOREIGN, SENDS, READ, MANAGED):
            town.sessions.disconnect(company_id)
            town.sessions.connect(
                company_id,
                method=PairingMethod.QR,
                user_id=None,
                phone_number=None,
                fresh=False,
                proxy=None,
            )
        stream.until("event: qr")
        assert stream.companies() == {None, MANAGED, READ}
        codes = [block for block in stream.text.split("\n\n") if "event: qr" in block]
        assert len(codes) == 1
        assert MANAGED in codes[0]
    finally:
        stream.answer.close()
    late = Stream(user)
    try:
        late.until("event: qr")
        assert late.text.count("event: qr") == 1
        assert late.companies() == {None, MANAGED, READ}
    finally:
        late.answer.close()


def test_a_stream_of_one_company_is_bound_to_its_role_there(
    user: FlaskClient, town: FakeServices
) -> None:
    assert user.get(f"{API}/events?company_id={SENDS}").status_code == 403
    assert user.get(f"{API}/events?company_id={FOREIGN}").status_code == 403
    stream = Stream(user, f"?company_id={READ}")
    try:
        stream.until("event: status")
        assert stream.companies() == {READ}
    finally:
        stream.answer.close()


@pytest.mark.parametrize(
    ("query", "now", "ends"),
    [
        ("", {MANAGED: frozenset(Scope)}, True),
        ("", {**COMPANIES, FOREIGN: frozenset({Scope.READ})}, True),
        ("", {**COMPANIES, MANAGED: frozenset({Scope.READ})}, True),
        (f"?company_id={READ}", {MANAGED: frozenset(Scope)}, True),
        (f"?company_id={MANAGED}", {MANAGED: frozenset({Scope.READ})}, True),
        (f"?company_id={MANAGED}", {MANAGED: frozenset(Scope)}, False),
    ],
)
def test_a_stream_ends_at_the_heartbeat_after_what_it_tells_has_changed(
    town: FakeServices, query: str, now: dict[str, frozenset[Scope]], ends: bool
) -> None:
    terms = StreamTerms(heartbeat_seconds=0.01)
    app = create_app(town.provide, WebSettings(secret_key="a-secret-of-the-tests", streams=terms))
    stream = Stream(client_of(app), query)
    try:
        stream.until(": alive")
        town.authenticator.add_user(TOKEN, now)
        if ends:
            stream.to_the_end()
        else:
            stream.text = ""
            stream.until(": alive")
    finally:
        stream.answer.close()


def test_a_stream_whose_caller_cannot_be_told_ends(
    town: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = StreamTerms(heartbeat_seconds=0.01)
    app = create_app(town.provide, WebSettings(secret_key="a-secret-of-the-tests", streams=terms))
    stream = Stream(client_of(app))
    try:
        stream.until(": alive")

        def unknown(principal_id: str) -> Principal:
            raise MembershipUnknown()

        monkeypatch.setattr(town.authenticator, "find_principal", unknown)
        stream.to_the_end()
    finally:
        stream.answer.close()


class TestPrincipal:
    user = Principal(id="u", scopes=frozenset(Scope), companies=COMPANIES, user_id="u")
    service = Principal(id="s", scopes=frozenset({Scope.READ}))

    def test_a_service_key_may_what_its_scopes_say_everywhere(self) -> None:
        assert self.service.is_service
        assert self.service.may(Scope.READ, FOREIGN)
        assert self.service.may(Scope.READ, None)
        assert not self.service.may(Scope.MANAGE, FOREIGN)
        assert self.service.companies_where(Scope.READ) is None
        assert self.service.companies_where(Scope.MANAGE) == frozenset()
        assert self.service.only_company() is None
        assert self.service.within(FOREIGN) == self.service

    def test_somebody_of_no_company_reaches_nothing(self) -> None:
        nobody = Principal(id="n", scopes=frozenset(), companies={})
        assert not nobody.is_service
        assert nobody.companies_where(Scope.READ) == frozenset()
        assert not nobody.may(Scope.READ, MANAGED)
        assert not nobody.may(Scope.READ, None)
        with pytest.raises(Forbidden):
            nobody.within(MANAGED)
        with pytest.raises(Forbidden):
            nobody.only_company()

    def test_of_several_none_is_the_only_one(self) -> None:
        assert not self.user.is_service
        with pytest.raises(Forbidden):
            self.user.only_company()
        assert self.user.within(READ).only_company() == READ
        assert self.user.within(READ).scopes == {Scope.READ}
        assert self.user.within(READ).holder == self.user.holder
