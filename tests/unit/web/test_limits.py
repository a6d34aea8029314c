"""Who is counted with whom, what a refusal says, and that good callers do not pay for bad ones."""

import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from crm_whatsapp.domain.errors import RateLimited
from crm_whatsapp.limit_settings import LimitSettings
from crm_whatsapp.service.metrics.call_meters import LIMITS
from crm_whatsapp.web.app_factory import WebSettings, create_app
from crm_whatsapp.web.auth import Principal, Scope, declared_access
from crm_whatsapp.web.limits import (
    MOST_ADDRESSES,
    MOST_CALLERS,
    LimitTerms,
    RequestLimits,
    client_network,
)
from tests.unit.web.fakes import SERVICE_KEY, FakeServices
from tests.unit.web.test_dashboard import log_in
from tests.unit.web.test_token_buckets import SECOND, Watch

API = "/api/whatsapp"
COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
OTHER = "9d6f2061-60e5-4e93-a0df-f55dd5c3d40c"
TERMS = LimitTerms(
    reads_per_minute=6,
    sends_per_minute=2,
    manage_per_minute=3,
    company_factor=2,
    all_companies_factor=4,
    failed_logins_per_minute=3,
)
Call = Callable[..., TestResponse]


@pytest.fixture
def watch() -> Watch:
    return Watch()


def make_app(services: FakeServices, watch: Watch, terms: LimitTerms, proxies: int = 0) -> Flask:
    settings = WebSettings(
        secret_key="a-secret-of-the-tests", limits=terms, trusted_proxies=proxies
    )
    app = create_app(services.provide, settings)
    state = app.extensions["crm_whatsapp"]
    app.extensions["crm_whatsapp"] = replace(state, limits=RequestLimits(terms, watch))
    return app


@pytest.fixture
def app(services: FakeServices, watch: Watch) -> Flask:
    return make_app(services, watch, TERMS)


@pytest.fixture
def call(app: Flask, services: FakeServices) -> Call:
    """Ask for a status, or anything else, with a key."""
    client = app.test_client()
    services.authenticator.add_key("key-of-the-company-0123456789", company_id=COMPANY)
    services.authenticator.add_key("other-key-of-the-company-0123", company_id=COMPANY)
    services.authenticator.add_key("a-third-key-of-the-company-01", company_id=COMPANY)

    def ask(
        key: str = "key-of-the-company-0123456789",
        path: str = f"{API}/status?company_id={COMPANY}",
        **more: object,
    ) -> TestResponse:
        return client.open(path, headers={"X-API-Key": key}, **more)

    return ask


def status_path(company_id: str) -> str:
    return f"{API}/status?company_id={company_id}"


def send(call: Call, **more: object) -> TestResponse:
    body = {"company_id": COMPANY, "to": "+5511987654321", "type": "text", "text": "Hi"}
    return call(path=f"{API}/messages/send", method="POST", json=body, **more)


# --- what a refusal says --------------------------------------------------------------------------


def test_the_call_after_the_last_one_is_refused_and_told_when_to_come_again(
    call: Call, services: FakeServices, watch: Watch
) -> None:
    answers = [call() for _ in range(7)]

    assert [it.status_code for it in answers] == [200] * 6 + [429]
    refused = answers[-1]
    error = refused.get_json()["error"]
    assert error == {
        "code": "rate-limited",
        "message": "More than the 6 reads a minute that one caller may make for a company. "
        "Try again in 10 seconds.",
        "limit": "reads",
        "retry_after_seconds": 10,
    }
    assert refused.headers["Retry-After"] == "10"
    assert refused.headers["Cache-Control"] == "no-store"
    assert services.metrics.limited == ["reads"]
    watch.advance(9.99)
    assert call().status_code == 429
    watch.advance(0.01)
    assert call().status_code == 200


def test_every_answer_says_how_much_is_left(call: Call) -> None:
    answers = [call() for _ in range(7)]

    assert {it.headers["RateLimit-Policy"] for it in answers} == {'"reads";q=6;w=60'}
    assert [it.headers["RateLimit"] for it in answers] == [
        '"reads";r=5;t=10',
        '"reads";r=4;t=20',
        '"reads";r=3;t=30',
        '"reads";r=2;t=40',
        '"reads";r=1;t=50',
        '"reads";r=0;t=60',
        '"reads";r=0;t=10',
    ]


def test_a_refused_call_does_nothing(call: Call, services: FakeServices) -> None:
    for _ in range(20):
        send(call)

    assert len(services.messaging.sent) == 2


def test_a_wait_of_one_second_is_one_second(services: FakeServices, watch: Watch) -> None:
    limits = RequestLimits(LimitTerms(reads_per_minute=600), watch)
    principal = Principal(id="a", scopes=frozenset(Scope), companies={COMPANY: frozenset(Scope)})
    for _ in range(600):
        limits.enter(principal, Scope.READ)
    with pytest.raises(RateLimited, match=r"Try again in 1 second\.$") as caught:
        limits.enter(principal, Scope.READ)

    assert caught.value.details["retry_after_seconds"] == 1


# --- who is counted with whom ---------------------------------------------------------------------


def test_reads_sends_and_managing_are_apart(call: Call) -> None:
    for _ in range(10):
        call()

    assert send(call).status_code == 200
    assert (
        call(path=f"{API}/disconnect", method="POST", json={"company_id": COMPANY}).status_code
        == 200
    )
    assert [send(call).status_code for _ in range(2)] == [200, 429]
    assert send(call).get_json()["error"]["limit"] == "sends"


def test_keys_of_a_company_are_apart_up_to_what_the_company_may(call: Call) -> None:
    for _ in range(10):
        call()

    second = [call("other-key-of-the-company-0123").status_code for _ in range(7)]
    third = call("a-third-key-of-the-company-01")

    assert second == [200] * 6 + [429]
    assert third.status_code == 429
    assert third.get_json()["error"]["limit"] == "company-reads"
    assert third.get_json()["error"]["message"].startswith(
        "More than the 12 reads a minute that all callers together may make for a company."
    )


def test_a_service_key_has_a_quota_for_each_company(call: Call, services: FakeServices) -> None:
    first = [call(SERVICE_KEY).status_code for _ in range(7)]
    second = [call(SERVICE_KEY, status_path(OTHER)).status_code for _ in range(7)]

    assert first == second == [200] * 6 + [429]


def test_a_service_key_has_a_quota_for_all_companies(call: Call) -> None:
    answers = [call(SERVICE_KEY, status_path(str(uuid.uuid4()))) for _ in range(25)]

    assert [it.status_code for it in answers] == [200] * 24 + [429]
    assert answers[-1].get_json()["error"]["limit"] == "all-companies-reads"
    # The nearest end is told: first that of the companies, of which each is new, then that of all.
    assert answers[0].headers["RateLimit"].startswith('"reads"')
    assert answers[-2].headers["RateLimit"] == '"all-companies-reads";r=0;t=60'


def test_what_one_company_is_refused_is_not_taken_from_the_others(call: Call) -> None:
    for _ in range(200):
        call(SERVICE_KEY)

    others = [call(SERVICE_KEY, status_path(str(uuid.uuid4()))).status_code for _ in range(19)]
    assert others == [200] * 18 + [429]


def test_calls_about_no_company_have_a_quota_of_their_own(call: Call) -> None:
    collection = [call(SERVICE_KEY, f"{API}/active-sessions").status_code for _ in range(7)]

    assert collection == [200] * 6 + [429]
    assert call(SERVICE_KEY).status_code == 200


@pytest.mark.parametrize("companies_of_user", [(COMPANY,), (COMPANY, OTHER)])
def test_a_user_is_one_caller_whatever_token_is_shown(
    watch: Watch, companies_of_user: tuple[str, ...]
) -> None:
    limits = RequestLimits(replace(TERMS, all_companies_factor=1), watch)
    companies = {company_id: frozenset(Scope) for company_id in companies_of_user}
    tokens = [
        Principal(id=f"user:u:{number}", scopes=frozenset(Scope), companies=companies, user_id="u")
        for number in range(7)
    ]
    for token in tokens[:6]:
        limits.enter(token, Scope.READ)
    with pytest.raises(RateLimited):
        limits.enter(tokens[6], Scope.READ)


def test_a_user_of_several_companies_has_a_quota_for_each(
    call: Call, services: FakeServices
) -> None:
    rights = frozenset({Scope.READ})
    services.authenticator.add_user("token-of-a-user-0123456789", {COMPANY: rights, OTHER: rights})

    for company_id in (COMPANY, OTHER):
        path = status_path(company_id)
        answers = [call("token-of-a-user-0123456789", path).status_code for _ in range(7)]
        assert answers == [200] * 6 + [429]


def test_a_callers_bad_requests_are_counted_too(call: Call) -> None:
    answers = [
        call(path=f"{API}/disconnect", method="POST", data="{", content_type="application/json")
        for _ in range(4)
    ]

    assert [it.status_code for it in answers] == [400, 400, 400, 429]


def test_asking_for_a_foreign_company_takes_nothing_from_it(
    call: Call, services: FakeServices
) -> None:
    services.authenticator.add_key("key-of-the-other-company-0123", company_id=OTHER)
    for _ in range(50):
        call(path=status_path(OTHER))

    assert call("key-of-the-other-company-0123", status_path(OTHER)).status_code == 200


def test_a_call_without_the_scope_takes_nothing_from_the_company(
    call: Call, services: FakeServices
) -> None:
    services.authenticator.add_key(
        "key-that-reads-only-012345678", company_id=COMPANY, scopes=frozenset({Scope.READ})
    )
    for _ in range(50):
        assert send(call, key="key-that-reads-only-012345678").status_code == 403

    assert send(call).status_code == 200


def test_zero_switches_a_limit_off(services: FakeServices, watch: Watch) -> None:
    client = make_app(services, watch, LimitTerms()).test_client()
    headers = {"X-API-Key": SERVICE_KEY}
    answers = [client.get(status_path(COMPANY), headers=headers) for _ in range(50)]
    wrong = [client.get(status_path(COMPANY), headers={"X-API-Key": "x"}) for _ in range(50)]

    assert {it.status_code for it in answers} == {200}
    assert {it.status_code for it in wrong} == {401}
    assert not any("RateLimit" in it.headers for it in answers)


def test_open_routes_are_never_limited(app: Flask, call: Call) -> None:
    for _ in range(30):
        call("wrong")
    for _ in range(30):
        assert call("wrong", "/healthz").status_code == 200
        assert call("wrong", "/readyz").status_code == 200


def test_memory_is_bounded_whoever_calls(watch: Watch) -> None:
    limits = RequestLimits(TERMS, watch)
    service = Principal(id="service", scopes=frozenset(Scope))
    for number in range(MOST_CALLERS + 500):
        watch.ns += 3 * SECOND
        entry = limits.enter(service, Scope.READ)
        assert entry is not None
        limits.enter_company(entry, service, Scope.READ, f"company {number}")
        limits.note_wrong_key(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")

    assert len(limits._callers) == MOST_CALLERS
    assert len(limits._addresses) == MOST_ADDRESSES


# --- wrong keys -----------------------------------------------------------------------------------


def test_wrong_keys_are_limited_and_a_good_one_from_the_same_address_is_not(
    call: Call, services: FakeServices, watch: Watch
) -> None:
    answers = [call(f"wrong-key-{number}") for number in range(5)]

    assert [it.status_code for it in answers] == [401, 401, 401, 429, 429]
    assert answers[-1].headers["Retry-After"] == "20"
    error = answers[-1].get_json()["error"]
    assert error["limit"] == "failed-logins"
    assert error["message"] == (
        "Too many wrong keys came from your address. Try again in 20 seconds."
    )
    assert call().status_code == 200
    assert services.metrics.limited == ["failed-logins"] * 2
    watch.advance(20)
    assert call("wrong-key").status_code == 401


def test_good_keys_are_not_counted_as_attempts(call: Call) -> None:
    for _ in range(5):
        call()

    assert [call("wrong").status_code for _ in range(4)] == [401, 401, 401, 429]


def test_calls_without_any_key_are_no_attempts(app: Flask) -> None:
    client = app.test_client()

    assert {client.get(status_path(COMPANY)).status_code for _ in range(20)} == {401}


def test_wrong_tokens_count_as_wrong_keys_do(app: Flask) -> None:
    client = app.test_client()
    headers = {"Authorization": "Bearer made.up.token"}
    answers = [client.get(status_path(COMPANY), headers=headers).status_code for _ in range(4)]

    assert answers == [401, 401, 401, 429]


def test_the_login_page_says_it_and_lets_the_right_key_in(
    app: Flask, services: FakeServices
) -> None:
    client = app.test_client()
    answers = [log_in(client, "a-wrong-key") for _ in range(4)]

    assert [it.status_code for it in answers] == [401, 401, 401, 429]
    assert (
        "Too many wrong keys came from your address. Try again in 20 seconds." in answers[-1].text
    )
    assert answers[-1].headers["Retry-After"] == "20"
    assert 'name="api_key"' in answers[-1].text
    assert services.metrics.limited == ["failed-logins"]
    assert log_in(client, SERVICE_KEY).status_code == 303


def test_addresses_are_apart(app: Flask) -> None:
    client = app.test_client()

    def wrong(address: str) -> int:
        return client.get(
            status_path(COMPANY),
            headers={"X-API-Key": "wrong"},
            environ_base={"REMOTE_ADDR": address},
        ).status_code

    assert [wrong("192.0.2.1") for _ in range(4)] == [401, 401, 401, 429]
    assert wrong("192.0.2.2") == 401
    assert [wrong(f"2001:db8::{number}") for number in range(1, 5)] == [401, 401, 401, 429]
    assert wrong("2001:db8:0:1::1") == 401


# --- proxies --------------------------------------------------------------------------------------


def wrong_through(app: Flask, forwarded: str) -> int:
    return (
        app.test_client()
        .get(
            status_path(COMPANY),
            headers={"X-API-Key": "wrong", "X-Forwarded-For": forwarded},
            environ_base={"REMOTE_ADDR": "10.0.0.1"},
        )
        .status_code
    )


def test_without_a_trusted_proxy_the_header_is_not_believed(app: Flask) -> None:
    answers = [wrong_through(app, f"192.0.2.{number}") for number in range(4)]

    assert answers == [401, 401, 401, 429]


@pytest.mark.parametrize("proxies", [1, 2])
def test_what_a_client_writes_into_the_header_itself_changes_nothing(
    services: FakeServices, watch: Watch, proxies: int
) -> None:
    app = make_app(services, watch, TERMS, proxies)
    added = ", ".join(["203.0.113.7", "10.0.0.9"][:proxies])

    answers = [wrong_through(app, f"192.0.2.{number}, {added}") for number in range(4)]
    neighbour = wrong_through(app, added.replace("203.0.113.7", "203.0.113.8"))

    assert answers == [401, 401, 401, 429]
    assert neighbour == 401


def test_a_request_past_a_proxy_counts_for_its_socket(services: FakeServices, watch: Watch) -> None:
    app = make_app(services, watch, TERMS, 2)

    answers = [wrong_through(app, f"192.0.2.{number}") for number in range(4)]

    assert answers == [401, 401, 401, 429]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:50123", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("[2001:db8:1:2::9]:443", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("unknown", "unknown"),
        ("_hidden", "unknown"),
        ("1.2.3.4.5", "unknown"),
        ("<script>", "unknown"),
        ("9" * 10_000, "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_addresses_are_read_as_sockets_and_proxies_write_them(
    address: str | None, network: str
) -> None:
    assert client_network(address) == network


# --- pairings -------------------------------------------------------------------------------------


def test_a_refused_pairing_is_an_answer_like_the_others(call: Call, services: FakeServices) -> None:
    services.sessions.failure = RateLimited(
        "The next time is possible in 6 minutes.",
        limit="pairings",
        retry_after_seconds=360,
        next_at=datetime(2026, 11, 21, 12, tzinfo=UTC),
    )
    body = {"company_id": COMPANY, "method": "qr"}

    answer = call(path=f"{API}/connect", method="POST", json=body)

    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "360"
    assert answer.get_json()["error"]["limit"] == "pairings"
    assert answer.get_json()["error"]["next_at"] == "2026-11-21T12:00:00Z"
    assert answer.headers["RateLimit"] == '"manage";r=2;t=20'
    assert services.metrics.limited == ["pairings"]


def test_a_crm_that_polls_once_a_second_for_twenty_pages_is_never_refused(watch: Watch) -> None:
    """With the settings of a deployment that says nothing of limits."""
    names = LimitTerms.__dataclass_fields__
    defaults = {name: LimitSettings.model_fields[f"limit_{name}"].default for name in names}
    limits = RequestLimits(LimitTerms(**defaults), watch)
    companies = {COMPANY: frozenset(Scope)}
    key = Principal(id="key", scopes=frozenset(Scope), companies=companies)
    service = Principal(id="service", scopes=frozenset(Scope))
    users = [
        Principal(
            id=f"t{number}", scopes=frozenset(Scope), companies=companies, user_id=f"{number}"
        )
        for number in range(20)
    ]
    for _ in range(180):
        watch.advance(1)
        for page in range(20):
            limits.enter(key, Scope.READ)
            limits.enter(users[page], Scope.READ)
        for company in range(60):
            entry = limits.enter(service, Scope.READ)
            assert entry is not None
            limits.enter_company(entry, service, Scope.READ, f"company {company}")


# --- what is said elsewhere -----------------------------------------------------------------------


def test_every_limit_is_counted_under_its_own_name(watch: Watch) -> None:
    limits = RequestLimits(TERMS, watch)
    names = {
        quota.name
        for quotas in limits._quotas.values()
        for quota in (quotas.caller, quotas.company, quotas.all_companies)
    }

    assert names | {"failed-logins", "pairings"} == set(LIMITS)


def test_the_document_has_429_exactly_where_there_is_a_limit(app: Flask) -> None:
    document = app.test_client().get(f"{API}/openapi.json").get_json()
    limited = 0
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[a-z]+:)?([a-z_]+)>", r"{\1}", rule.rule)
        for method in (rule.methods or set()) & {"GET", "POST", "PATCH", "DELETE"}:
            operation = document["paths"].get(path, {}).get(method.lower())
            if operation is None:
                continue
            access = declared_access(app.view_functions[rule.endpoint])
            assert access is not None
            assert ("429" in operation["responses"]) == (access.scope is not None), path
            limited += access.scope is not None
    assert limited > 20


def test_every_route_with_a_scope_is_limited(services: FakeServices, watch: Watch) -> None:
    """Whatever a key asks for, the second call of a minute is the one too many."""
    terms = LimitTerms(
        reads_per_minute=1, sends_per_minute=1, manage_per_minute=1, all_companies_factor=1
    )
    checked = 0
    for rule in make_app(services, watch, terms).url_map.iter_rules():
        for method in (rule.methods or set()) & {"GET", "POST", "PATCH", "DELETE"}:
            app = make_app(services, watch, terms)
            access = declared_access(app.view_functions[rule.endpoint])
            assert access is not None
            if access.scope is None or access.is_page:
                continue
            client = app.test_client()
            path = re.sub(r"<[^>]+>", COMPANY, rule.rule)
            headers = {"X-API-Key": SERVICE_KEY}
            answers = [
                client.open(path, method=method, headers=headers, buffered=False) for _ in range(2)
            ]
            assert [it.status_code == 429 for it in answers] == [False, True], (method, path)
            for answer in answers:
                answer.close()
            checked += 1
    assert checked > 20
