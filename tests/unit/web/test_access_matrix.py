"""Every route with every kind of credential: the table in the docs is what the app does."""

import uuid
from collections.abc import Mapping

import pytest
from flask import Flask

from access_matrix import (
    Credential,
    Reply,
    Route,
    Town,
    Undeclared,
    Users,
    documented,
    markdown,
    routes,
    url_map,
    walk,
)
from crm_whatsapp.domain.api_keys import Scope
from crm_whatsapp.web.auth import CompanyKeeping, public, requires
from tests.unit.web.fakes import SERVICE_KEY, FakeServices, connected

BAD = ("none", "wrong", "malformed", "expired", "revoked", "user-expired")
STRANGERS = ("other", "user-other", "member-other")


class InProcessDoor:
    """The app without a socket. A stream is closed once its head is there."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Reply:
        response = self._app.test_client(use_cookies=False).open(
            path, method=method, headers=dict(headers), data=body, buffered=False
        )
        is_stream = response.mimetype == "text/event-stream"
        text = "" if is_stream else response.get_data(as_text=True)
        cookies = ", ".join(response.headers.getlist("Set-Cookie"))
        response.close()
        return Reply(
            status=response.status_code,
            headers={**dict(response.headers), "Set-Cookie": cookies},
            text=text,
        )


@pytest.fixture
def town(app: Flask, services: FakeServices) -> Town:
    door = InProcessDoor(app)
    users = Users(
        secret=services.users.SECRET,
        member_door=door,
        member_secret=services.users.MEMBER_SECRET,
        belong=services.users.table.add,
    )
    made = Town(door=door, service_key=SERVICE_KEY, users=users)
    made.settle_companies()
    return made


@pytest.fixture
def crowded(town: Town) -> Town:
    """The town with those whose credentials are bad, or lack a scope."""
    town.settle()
    return town


def about_a_company() -> list[Route]:
    """Return the routes whose requests name a company, or something of one."""
    return [
        route
        for route in routes(url_map())
        if (route.names_company or route.access.keeping is CompanyKeeping.BY_RESOURCE)
        and not route.access.is_page
    ]


def test_the_table_in_the_docs_is_what_the_app_does(app: Flask, crowded: Town) -> None:
    table = markdown(walk(crowded, app))

    assert table == documented(), "run: make access-matrix ARGS=--write"
    outcomes = {cell for line in table.splitlines()[2:] for cell in line.split(" | ")[3:]}
    assert {item.strip(" |") for item in outcomes} == {"yes", "own rows", "401", "403", "login"}


def test_bad_credentials_open_nothing_and_reach_no_service(
    app: Flask, crowded: Town, services: FakeServices
) -> None:
    services.sessions.calls.clear()
    before = services.keys.store.calls
    for route in routes(app):
        if route.access.scope is None:
            continue
        for name in BAD:
            credential = crowded.credentials[name]
            method, path, headers, body = crowded.request(route, credential, **nothing(route))
            for verb in {method, "HEAD"} if method == "GET" else {method}:
                reply = crowded.door.ask(verb, path, headers, body)
                assert reply.status == (302 if route.access.is_page else 401), (verb, path, name)
    assert services.sessions.calls == []
    assert services.backups.calls == services.reports.asked == services.messaging.sent == []
    assert services.webhooks.targets.requests == []
    # One look for a key that might have been made elsewhere; not one for each request.
    assert services.keys.store.calls <= before + 1


MALFORMED: tuple[dict[str, str], ...] = (
    {"X-API-Key": ""},
    {"X-API-Key": " "},
    {"X-API-Key": "\xff\xfe"},
    {"X-API-Key": "crmwa_"},
    {"X-API-Key": "x" * 8000},
    {"X-API-Key": f"{SERVICE_KEY},{SERVICE_KEY}"},
    {"X-API-Key": f"Bearer {SERVICE_KEY}"},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer \xff"},
    {"Authorization": f"Bearer {SERVICE_KEY}"},
    {"Authorization": f"ApiKey {SERVICE_KEY}"},
    {"Authorization": f"Basic {SERVICE_KEY}"},
    {"Authorization": SERVICE_KEY},
    {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJyb2xlIjoiYXV0aGVudGljYXRlZCJ9."},
    {"Cookie": f"crm_whatsapp_session={SERVICE_KEY}"},
    {"Cookie": "crm_whatsapp_session="},
    {"X-Api-Key-Id": "aaaaaaaaaaaa", "X-Company-Id": "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"},
    {"X-HTTP-Method-Override": "GET", "X-Forwarded-User": "admin", "X-Original-URL": "/healthz"},
)


@pytest.mark.parametrize("headers", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_credential_opens_nothing(
    app: Flask, services: FakeServices, headers: dict[str, str]
) -> None:
    door = InProcessDoor(app)
    stranger = Town(door=door, service_key=SERVICE_KEY)
    for route in routes(app):
        if route.access.scope is not None:
            credential = Credential(headers=headers, cookie="crm_whatsapp_session=x")
            reply = door.ask(*stranger.request(route, credential, **nothing(route)))
            assert reply.status == (302 if route.access.is_page else 401), route
    assert services.sessions.calls == []


@pytest.mark.parametrize("name", ["api_key", "key", "apikey", "access_token", "token"])
def test_a_key_in_the_address_opens_nothing(app: Flask, name: str) -> None:
    door = InProcessDoor(app)
    for path in ("/metrics", "/api/whatsapp/active-sessions", "/api/whatsapp/events"):
        assert door.ask("GET", f"{path}?{name}={SERVICE_KEY}", {}).status == 401


def nothing(route: Route) -> dict[str, str]:
    """Return ids of things that do not exist, so that nothing is made for a request."""
    return {"webhook_id": str(uuid.uuid4()), "key_id": "aaaaaaaaaaaa"}


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize(
    "route", about_a_company(), ids=lambda route: f"{route.method} {route.endpoint}"
)
def test_a_refusal_does_not_tell_whether_a_foreign_company_exists(
    app: Flask, services: FakeServices, town: Town, route: Route, stranger: str
) -> None:
    foreign, absent = town.company_id, str(uuid.uuid4())
    services.sessions.connections[foreign] = connected(foreign, "5511987654321", "Ana")
    things = {name: town.thing(name) for name in ("webhook_id", "key_id")}
    other = town.credentials[stranger]
    own = town.door.ask("GET", f"/api/whatsapp/status?company_id={town.other_id}", other.headers)
    assert own.status == 200  # and the table has been asked about them
    traces = []
    for company_id, ids in ((foreign, things), (absent, nothing(route))):
        work = Work(services)
        reply = town.door.ask(*town.request(route, other, **ids, company_id=company_id))
        shown = {name: value for name, value in reply.headers.items() if name != "Date"}
        traces.append((reply.status, reply.text, shown, work.done()))
    assert traces[0] == traces[1]
    assert traces[0][0] == 403
    assert foreign not in traces[0][1]


class Work:
    """What a request makes the services do, counted."""

    def __init__(self, services: FakeServices) -> None:
        self._services = services
        self._before = self._counts()

    def _counts(self) -> tuple[int, ...]:
        services = self._services
        return (
            len(services.sessions.calls),
            len(services.backups.calls),
            len(services.messaging.sent),
            len(services.reports.asked),
            len(services.webhooks.targets.requests),
            services.webhooks.database.calls,
            services.keys.store.calls,
            services.users.table.calls,
        )

    def done(self) -> tuple[int, ...]:
        """Return how often each was called."""
        return tuple(now - was for now, was in zip(self._counts(), self._before, strict=True))


def test_a_page_of_a_foreign_company_does_not_tell_whether_it_exists(
    services: FakeServices, town: Town
) -> None:
    services.sessions.connections[town.company_id] = connected(town.company_id, "5511987", "Ana")
    cookie = {"Cookie": town.credentials["other"].cookie}
    replies = [
        town.door.ask("GET", f"/dashboard/companies/{company_id}", cookie)
        for company_id in (town.company_id, str(uuid.uuid4()))
    ]
    assert replies[0].status == replies[1].status == 403
    assert replies[0].text == replies[1].text


@pytest.mark.parametrize(
    ("mine", "stranger", "collections"),
    [
        ("own", "other", ("active-sessions", "webhooks", "keys")),
        ("user", "user-other", ("active-sessions", "webhooks")),
        ("member", "member-other", ("active-sessions", "webhooks")),
    ],
)
def test_collections_and_streams_hold_nothing_of_others(
    app: Flask,
    services: FakeServices,
    town: Town,
    mine: str,
    stranger: str,
    collections: tuple[str, ...],
) -> None:
    services.sessions.connections[town.company_id] = connected(town.company_id, "5511987", "Ana")
    town.thing("webhook_id")
    other = town.credentials[stranger].headers
    for path in collections:
        seen = town.door.ask("GET", f"/api/whatsapp/{path}", town.credentials[mine].headers)
        assert town.company_id in seen.text, path
        assert town.company_id not in town.door.ask("GET", f"/api/whatsapp/{path}", other).text
    with app.test_client().get(
        "/api/whatsapp/events", headers=dict(other), buffered=False
    ) as stream:
        pieces = stream.iter_encoded()
        services.sessions.connections[town.company_id] = connected(
            town.company_id, "5511987", "Bia"
        )
        services.sessions.connections[town.other_id] = connected(town.other_id, "5511900", "Own")
        text = b""
        while b"Own" not in text:
            text += next(pieces)
    assert town.company_id.encode() not in text


class TestDeclarations:
    def test_a_route_without_access_is_found(self, app: Flask) -> None:
        app.add_url_rule("/forgotten", "forgotten", lambda: "secret")
        with pytest.raises(Undeclared, match="forgotten"):
            list(routes(app))

    def test_a_route_that_says_nothing_of_companies_is_found(self, app: Flask) -> None:
        app.add_url_rule("/forgotten", "forgotten", requires(Scope.READ)(lambda: "secret"))
        with pytest.raises(Undeclared, match="companies"):
            list(routes(app))

    def test_a_public_route_needs_no_more(self, app: Flask) -> None:
        app.add_url_rule("/open", "open", public(lambda: "open"))
        assert any(route.endpoint == "open" for route in routes(app))
