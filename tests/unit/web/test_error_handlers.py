"""Which answer each error becomes."""

import logging
from datetime import UTC, datetime

import pytest
from flask import Flask
from flask.testing import FlaskClient
from structlog.contextvars import get_contextvars

from crm_whatsapp.domain import errors
from crm_whatsapp.domain.api_keys import Scope
from crm_whatsapp.domain.connection import Status, UserAction
from crm_whatsapp.web import errors as web_errors
from crm_whatsapp.web.error_handlers import status_of
from tests.unit.web.fakes import FakeServices

API = "/api/whatsapp"
STATUS_OF = {
    errors.CrmWhatsappError: 500,
    errors.InvalidInput: 400,
    errors.ConfigurationError: 500,
    errors.NotFound: 404,
    errors.WrongState: 422,
    errors.SessionNotConnected: 422,
    errors.NothingToScan: 422,
    errors.NothingSaved: 422,
    errors.PairingConflict: 409,
    errors.RateLimited: 429,
    errors.ServiceStopping: 503,
    errors.ServiceBusy: 503,
    errors.TooManyStreams: 503,
    errors.StoreUnavailable: 503,
    errors.StoreRejected: 503,
    errors.StorageError: 503,
    errors.EngineError: 503,
    errors.EngineUnavailable: 503,
    errors.SendUnconfirmed: 503,
    errors.SendRejected: 422,
    web_errors.Unauthorized: 401,
    web_errors.Forbidden: 403,
    web_errors.CsrfFailed: 403,
    web_errors.UnsupportedMediaType: 415,
    web_errors.BodyTooLarge: 413,
    web_errors.BodyTooSlow: 408,
    web_errors.BodyBroken: 400,
    web_errors.Starting: 503,
    web_errors.NotReady: 503,
}


def all_errors() -> set[type[errors.CrmWhatsappError]]:
    found: set[type[errors.CrmWhatsappError]] = set()
    waiting: list[type[errors.CrmWhatsappError]] = [errors.CrmWhatsappError]
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        if kind.__module__ in (errors.__name__, web_errors.__name__):
            found.add(kind)
    return found


def test_every_error_is_listed_here() -> None:
    assert all_errors() == set(STATUS_OF)


@pytest.mark.parametrize(("kind", "status"), STATUS_OF.items(), ids=lambda it: str(it))
def test_each_error_has_its_number(kind: type[errors.CrmWhatsappError], status: int) -> None:
    assert status_of(kind()) == status


@pytest.mark.parametrize("kind", STATUS_OF, ids=lambda kind: kind.__name__)
def test_each_error_becomes_the_documented_body(
    client: FlaskClient,
    services: FakeServices,
    company: str,
    kind: type[errors.CrmWhatsappError],
) -> None:
    services.sessions.failure = kind("What happened.", extra="more")

    answer = client.get(f"{API}/status?company_id={company}")

    assert answer.status_code == STATUS_OF[kind]
    body = answer.get_json()
    assert body["error"]["code"] == kind.code
    assert body["error"]["message"] == "What happened."
    assert "more" in (body["error"].get("extra"), body.get("extra"))
    assert answer.headers["Cache-Control"] == "no-store"


def test_send_in_the_wrong_state_tells_what_to_do(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    services.messaging.failure = errors.SessionNotConnected(
        status=Status.LOGGED_OUT,
        expected=[Status.CONNECTED],
        user_action=UserAction.CONNECT,
        since=datetime(2026, 1, 8, 12, tzinfo=UTC),
    )

    answer = client.post(
        f"{API}/messages/send",
        json={"company_id": company, "to": "5511987654321", "type": "text", "text": "hi"},
    )

    assert answer.status_code == 422
    assert answer.get_json()["error"] == {
        "code": "session-not-connected",
        "message": "The session is not connected. Please reconnect the session.",
        "status": "logged_out",
        "expected": ["connected"],
        "user_action": "connect",
        "since": "2026-01-08T12:00:00Z",
    }


def test_unconfirmed_send_has_the_id_and_no_retry_after(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    services.messaging.failure = errors.SendUnconfirmed(whatsapp_id="3EB0")

    answer = client.post(
        f"{API}/messages/send",
        json={"company_id": company, "to": "5511987654321", "type": "text", "text": "hi"},
    )

    assert answer.status_code == 503
    assert answer.get_json()["error"]["whatsapp_id"] == "3EB0"
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize(
    "kind",
    [errors.ServiceStopping, errors.ServiceBusy, errors.StoreUnavailable, errors.EngineUnavailable],
)
def test_errors_that_pass_say_when_to_try_again(
    client: FlaskClient,
    services: FakeServices,
    company: str,
    kind: type[errors.CrmWhatsappError],
) -> None:
    services.sessions.failure = kind()

    answer = client.get(f"{API}/status?company_id={company}")

    assert int(answer.headers["Retry-After"]) >= 1


def test_field_named_by_a_service_is_listed(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    services.messaging.failure = errors.InvalidInput("to is not a number.", field="to")

    answer = client.post(
        f"{API}/messages/send",
        json={"company_id": company, "to": "nobody", "type": "text", "text": "hi"},
    )

    error = answer.get_json()["error"]
    assert error["field"] == "to"
    assert error["fields"] == [{"field": "to", "message": "to is not a number."}]


def test_unknown_exception_is_logged_and_not_shown(
    client: FlaskClient, services: FakeServices, company: str, caplog: pytest.LogCaptureFixture
) -> None:
    services.sessions.failure = RuntimeError("password=hunter2")

    bound: list[dict[str, object]] = []
    caplog.handler.addFilter(lambda record: bound.append(get_contextvars()) or True)
    with caplog.at_level(logging.ERROR):
        answer = client.get(f"{API}/status?company_id={company}")

    assert answer.status_code == 500
    assert answer.get_json() == {
        "error": {
            "code": "internal-error",
            "message": "Something went wrong here. It has been logged.",
        }
    }
    record = next(r for r in caplog.records if r.name == "crm_whatsapp.web.error_handlers")
    assert bound[caplog.records.index(record)]["company_id"] == company
    assert get_contextvars() == {}  # not on the lines of the next request of this thread
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)


def test_unknown_address_is_404(anonymous: FlaskClient) -> None:
    for path in ("/nowhere", f"{API}/nowhere", f"{API}//status", "/api/whatsapp/../../etc"):
        answer = anonymous.get(path)
        assert answer.status_code == 404, path
        assert answer.get_json()["error"]["code"] == "not-found"


def test_wrong_method_is_405(client: FlaskClient) -> None:
    answer = client.post(f"{API}/status")

    assert answer.status_code == 405
    assert answer.get_json()["error"]["code"] == "method-not-allowed"
    assert "GET" in answer.headers["Allow"]


def test_everything_but_health_waits_for_the_start(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    services.started = False

    answer = client.get(f"{API}/status?company_id={company}")

    assert answer.status_code == 503
    assert answer.get_json()["error"]["code"] == "starting"
    assert answer.headers["Retry-After"] == "1"


def test_no_trace_even_in_debug(app: Flask, services: FakeServices, company: str) -> None:
    app.debug = True
    services.sessions.failure = ZeroDivisionError("secret place")

    answer = app.test_client().get(
        f"{API}/status?company_id={company}",
        headers={"X-API-Key": "service-key-for-tests-0123456789"},
    )

    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert "secret place" not in answer.text


@pytest.mark.parametrize(
    "kind", [errors.StoreUnavailable, errors.StoreRejected, errors.StorageError]
)
def test_what_is_inside_is_told_to_the_operator_alone(
    client: FlaskClient,
    app: Flask,
    services: FakeServices,
    company: str,
    kind: type[errors.CrmWhatsappError],
    caplog: pytest.LogCaptureFixture,
) -> None:
    services.sessions.failure = kind("Cannot read /data/sessions on db.internal.", sql_state="42")
    _, text = services.keys.make(company_id=company, scopes=frozenset({Scope.READ}))
    path = f"{API}/status?company_id={company}"

    own = app.test_client().get(path, headers={"X-API-Key": text})
    assert own.status_code == status_of(kind())
    assert own.get_json()["error"] == {"code": kind.code, "message": kind().message}
    assert "db.internal" in caplog.text
    told = client.get(path).get_json()["error"]
    assert told["message"] == "Cannot read /data/sessions on db.internal."
    assert told["sql_state"] == "42"


@pytest.mark.parametrize("path", ["/dashboard/login", "/dashboard", "/healthz", "/nowhere"])
@pytest.mark.parametrize("host", ["a" * 64, "a" * 200, "\xff", "a..b"])
def test_a_host_that_is_none_is_a_bad_request(client: FlaskClient, path: str, host: str) -> None:
    answer = client.get(path, headers={"Host": host, "Accept": "text/html"})

    assert answer.status_code < 500
    if len(host) > 63:
        assert answer.status_code == 400
        assert answer.get_json()["error"]["code"] == "bad-request"
