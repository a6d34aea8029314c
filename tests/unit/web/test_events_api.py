"""The event stream as a client sees it: its text, its ends, and a client that does not read."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from crm_whatsapp.domain.connection import PairingMethod
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.service.event_stream import EventStream
from crm_whatsapp.service.steady_clock import SteadyClock
from crm_whatsapp.web.app_factory import WebSettings, create_app
from crm_whatsapp.web.auth import Scope
from crm_whatsapp.web.services import StreamTerms
from event_reader import BodyReader, Event, EventReader
from service_process import wait_for
from tests.unit.web.conftest import COMPANY
from tests.unit.web.fakes import SERVICE_KEY, STREAM_LIMITS, FakeServices, connected
from tests.unit.web.test_dashboard import log_in, page_token

PATH = "/api/whatsapp/events"
OTHER = "9d6f2061-60e5-4e93-a0df-f55dd5c3d40c"
DEADLINE_SECONDS = 30.0


def settings_with(**terms: float) -> WebSettings:
    return WebSettings(secret_key="a-secret-of-the-tests", streams=StreamTerms(**terms))


@pytest.fixture
def known(services: FakeServices) -> FakeServices:
    """Two companies that are connected."""
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Ana")
    services.sessions.connections[OTHER] = connected(OTHER, "5511912345678", "Bia")
    return services


@pytest.fixture
def open_stream(client: FlaskClient) -> Iterator[Callable[..., "Listening"]]:
    """Open streams that end with the test."""
    opened: list[Listening] = []

    def make(query: str = "", *, of: FlaskClient = client, **headers: str) -> Listening:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = of.get(f"{PATH}?{query}", headers=sent, buffered=False)
        assert answer.status_code == 200, answer.text
        opened.append(Listening(answer))
        return opened[-1]

    yield make
    for listening in opened:
        listening.answer.close()


class Listening:
    """A client without a socket: every pull takes what the server writes at once."""

    def __init__(self, answer: TestResponse) -> None:
        self.answer = answer
        self.reader = EventReader()
        self._pieces = iter(answer.response)

    def pull(self) -> list[Event]:
        """Take the next piece; fails with StopIteration when the stream has ended."""
        piece = next(self._pieces)
        return self.reader.feed(piece.encode() if isinstance(piece, str) else piece)

    def events(self, count: int) -> list[Event]:
        """Take pieces until there are so many events."""
        found: list[Event] = []
        while len(found) < count:
            found += self.pull()
        return found

    def to_the_end(self) -> list[Event]:
        """Take what comes until the stream ends."""
        found: list[Event] = []
        for piece in self._pieces:
            found += self.reader.feed(piece.encode() if isinstance(piece, str) else piece)
        return found


def message(company_id: str, text: str) -> Notice:
    return Notice(
        id="00000000-0000-4000-8000-000000000000",
        kind=NoticeKind.MESSAGE,
        company_id=company_id,
        occurred_at=datetime(2026, 11, 21, tzinfo=UTC),
        data={"text": text},
    )


# --- what is told ---------------------------------------------------------------------------------


def test_head_of_the_answer(open_stream: Callable[..., Listening]) -> None:
    answer = open_stream().answer

    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in answer.headers


def test_one_request_is_a_poll_and_what_follows(
    open_stream: Callable[..., Listening], known: FakeServices
) -> None:
    listening = open_stream(f"company_id={COMPANY.upper()}")

    head, status = listening.events(2)
    assert listening.reader.retry_ms == 1000
    assert (head.name, head.data["companies"]) == ("snapshot", 1)
    assert (status.name, status.data["status"], status.data["push_name"]) == (
        "status",
        "connected",
        "Ana",
    )
    assert [call[:2] for call in known.sessions.calls] == [("status", COMPANY)]

    known.sessions.disconnect(OTHER)
    known.sessions.disconnect(COMPANY)
    (told,) = listening.events(1)
    assert (told.data["company_id"], told.data["reason"]) == (COMPANY, "stopped")
    assert told.data["previous_status"] == "connected"


def test_a_company_that_nobody_knows_is_told_as_such(open_stream: Callable[..., Listening]) -> None:
    _, status = open_stream(f"company_id={COMPANY}").events(2)

    assert (status.data["company_id"], status.data["reason"]) == (COMPANY, "never-connected")


def test_a_service_key_hears_of_all_and_polls_none(
    open_stream: Callable[..., Listening], known: FakeServices
) -> None:
    listening = open_stream()

    told = {event.data["company_id"] for event in listening.events(3)[1:]}
    assert told == {COMPANY, OTHER}
    assert known.sessions.calls == []
    known.events.carry(message(OTHER, "hi"))
    assert [event.name for event in listening.events(1)] == ["message"]


def test_a_company_key_hears_of_its_company_alone(
    app: Flask, open_stream: Callable[..., Listening], known: FakeServices
) -> None:
    known.authenticator.add_key("company-key-0123456789", company_id=COMPANY)
    own = app.test_client()
    own.environ_base["HTTP_X_API_KEY"] = "company-key-0123456789"

    assert own.get(f"{PATH}?company_id={OTHER}").status_code == 403
    listening = open_stream(of=own)
    assert [event.data["company_id"] for event in listening.events(2)] == [COMPANY, COMPANY]
    known.sessions.disconnect(OTHER)
    known.sessions.disconnect(COMPANY)
    assert [event.data["company_id"] for event in listening.events(1)] == [COMPANY]

    open_stream(of=own)
    refused = own.get(PATH)
    assert (refused.status_code, refused.get_json()["error"]["limit"]) == (503, 2)


def test_codes_need_the_scope_manage(
    app: Flask, open_stream: Callable[..., Listening], services: FakeServices
) -> None:
    services.authenticator.add_key("reader-key-0123456789", scopes=frozenset({Scope.READ}))
    reader = app.test_client()
    reader.environ_base["HTTP_X_API_KEY"] = "reader-key-0123456789"
    narrow, wide = open_stream("snapshot=false", of=reader), open_stream("snapshot=false")
    services.sessions.connect(
        COMPANY,
        method=PairingMethod.QR,
        user_id=None,
        phone_number=None,
        fresh=False,
        proxy=None,
    )
    services.sessions.disconnect(COMPANY)

    assert [event.name for event in wide.events(3)] == ["status", "qr", "status"]
    assert [event.name for event in narrow.events(2)] == ["status", "status"]


def test_codes_of_now_are_told_to_who_comes_later(
    open_stream: Callable[..., Listening], services: FakeServices
) -> None:
    pairing = {"user_id": None, "fresh": False, "proxy": None}
    services.sessions.connect(
        COMPANY, method=PairingMethod.PAIRING_CODE, phone_number="5511987654321", **pairing
    )

    _, status, code = open_stream(f"company_id={COMPANY}").events(3)

    assert status.data["status"] == "awaiting_scan"
    assert (code.name, code.data["code"]) == ("pairing_code", "K7QX-4MPN")
    assert code.data["expires_at"] == status.data["qr_expires_at"]


@pytest.mark.parametrize("how", ["header", "query"])
def test_going_on_after_the_last_event(
    open_stream: Callable[..., Listening], known: FakeServices, how: str
) -> None:
    first = open_stream()
    first.events(3)
    known.events.carry(message(COMPANY, "1"))
    first.events(1)
    last_id = first.reader.last_event_id or ""
    for text in "234":
        known.events.carry(message(COMPANY, text))

    again = (
        open_stream(Last_Event_ID=last_id)
        if how == "header"
        else open_stream(f"last_event_id={last_id}")
    )

    assert [event.data["text"] for event in again.events(3)] == ["2", "3", "4"]


def test_who_missed_too_much_is_told_how_things_are(
    open_stream: Callable[..., Listening], known: FakeServices
) -> None:
    head, *rest = open_stream("snapshot=false", Last_Event_ID="another-life-7").events(3)

    assert (head.name, head.data["resync"], head.data["companies"]) == ("snapshot", True, 2)
    assert [event.data["resync"] for event in rest] == [True, True]


def test_an_event_larger_than_a_write_arrives_whole(
    open_stream: Callable[..., Listening], services: FakeServices
) -> None:
    listening = open_stream("snapshot=false")
    services.events.carry(message(COMPANY, "é" * 60_000))

    (event,) = listening.events(1)
    assert event.data["text"] == "é" * 60_000


# --- requests that open nothing -------------------------------------------------------------------


BAD_QUERIES = ["company_id=", "company_id=x", "snapshot=maybe", "key=1"]
BAD_QUERIES += ["last_event_id=" + "1" * 65, "snapshot=true&snapshot=false"]


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_bad_queries(client: FlaskClient, services: FakeServices, query: str) -> None:
    answer = client.get(f"{PATH}?{query}")

    assert answer.status_code == 400
    assert answer.get_json()["error"]["field"] == query.partition("=")[0]
    assert services.events.open_streams == 0


def test_head_and_options_open_no_stream(client: FlaskClient, services: FakeServices) -> None:
    head, options = client.head(PATH), client.options(PATH)

    assert (head.status_code, head.mimetype, head.data) == (200, "text/event-stream", b"")
    assert options.status_code == 200
    assert set(options.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert client.post(PATH).status_code == 405
    assert services.events.figures.opened == 0


def test_beyond_the_limit(client: FlaskClient, open_stream: Callable[..., Listening]) -> None:
    for _ in range(STREAM_LIMITS.streams):
        open_stream()

    refused = client.get(PATH)

    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "5"
    assert refused.get_json()["error"]["code"] == "too-many-streams"


def test_streams_may_be_off(client: FlaskClient, services: FakeServices) -> None:
    services.events = EventStream(replace(STREAM_LIMITS, streams=0), SteadyClock())

    assert client.get(PATH).get_json()["error"]["code"] == "too-many-streams"


def test_no_stream_while_the_service_stops(client: FlaskClient, services: FakeServices) -> None:
    services.events.stop()

    refused = client.get(PATH)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")


# --- ends -----------------------------------------------------------------------------------------


@pytest.fixture
def app_with(services: FakeServices) -> Callable[..., FlaskClient]:
    """Make an app with other terms."""

    def make(**terms: float) -> FlaskClient:
        client = create_app(services.provide, settings_with(**terms)).test_client()
        client.environ_base["HTTP_X_API_KEY"] = SERVICE_KEY
        return client

    return make


def test_signs_of_life_keep_the_position(
    app_with: Callable[..., FlaskClient],
    open_stream: Callable[..., Listening],
    services: FakeServices,
) -> None:
    listening = open_stream(f"company_id={COMPANY}", of=app_with(heartbeat_seconds=0.02))
    listening.events(2)
    before = listening.reader.last_event_id
    services.events.carry(message(OTHER, "of no concern here"))

    assert wait_for(
        lambda: listening.pull() == [] and listening.reader.last_event_id != before,
        DEADLINE_SECONDS,
        0,
    )
    assert set(listening.reader.comments) == {"alive"}


def test_signing_out_ends_the_streams_of_that_login(
    services: FakeServices, open_stream: Callable[..., Listening]
) -> None:
    app = create_app(services.provide, settings_with(heartbeat_seconds=0.02))
    browser, other = app.test_client(), app.test_client()
    log_in(browser)
    log_in(other)
    ends, stays = open_stream(of=browser), open_stream(of=other)
    ends.pull()
    stays.pull()

    browser.post("/dashboard/logout", data={"csrf_token": page_token(browser)})
    ends.to_the_end()

    ends.answer.close()
    assert services.events.open_streams == 1
    stays.reader.comments.clear()

    def lives_on() -> bool:
        stays.pull()
        return "alive" in stays.reader.comments

    assert wait_for(lives_on, DEADLINE_SECONDS, 0)
    assert services.events.open_streams == 1


def test_a_key_that_is_withdrawn_ends_its_stream(
    app_with: Callable[..., FlaskClient],
    open_stream: Callable[..., Listening],
    services: FakeServices,
) -> None:
    services.authenticator.add_key("second-key-0123456789")
    client = app_with(heartbeat_seconds=0.02)
    client.environ_base["HTTP_X_API_KEY"] = "second-key-0123456789"
    listening = open_stream(of=client)
    listening.pull()

    services.authenticator.remove_key("second-key-0123456789")
    listening.to_the_end()

    listening.answer.close()
    assert services.events.open_streams == 0


def test_a_stream_has_an_age(
    app_with: Callable[..., FlaskClient], open_stream: Callable[..., Listening]
) -> None:
    listening = open_stream(of=app_with(longest_seconds=0.05))

    assert listening.to_the_end()[0].name == "snapshot"
    assert listening.reader.comments == ["come again"]


def test_a_stop_is_told(open_stream: Callable[..., Listening], services: FakeServices) -> None:
    listening = open_stream("snapshot=false")
    listening.pull()
    services.events.carry(message(COMPANY, "the last"))
    services.events.stop()

    assert [event.data["text"] for event in listening.to_the_end()] == ["the last"]
    assert listening.reader.comments == ["stopping"]


def test_who_closes_gives_the_place_back(
    open_stream: Callable[..., Listening], services: FakeServices
) -> None:
    never_read, read = open_stream(), open_stream()
    read.pull()
    assert services.events.open_streams == 2
    never_read.answer.close()
    read.answer.close()
    assert services.events.open_streams == 0


# --- on a socket ----------------------------------------------------------------------------------


@contextmanager
def site(services: FakeServices, **terms: float) -> Iterator[int]:
    """Serve the app on sockets; yields the port."""
    app = create_app(services.provide, settings_with(**terms))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, name="test-site")
    thread.start()
    try:
        yield server.server_port
    finally:
        services.events.stop()
        server.shutdown()
        thread.join()
        server.server_close()


def call(port: int, last_event_id: str | None = None) -> socket.socket:
    """Ask for all events and read nothing."""
    connection = socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS)
    lines = [f"GET {PATH}?snapshot=false HTTP/1.1", "Host: x", f"X-API-Key: {SERVICE_KEY}"]
    lines += [f"Last-Event-ID: {last_event_id}"] if last_event_id else []
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def await_open(services: FakeServices, count: int) -> None:
    assert wait_for(lambda: services.events.open_streams == count, DEADLINE_SECONDS, 0.01), (
        f"{services.events.open_streams} streams are open, not {count}"
    )


class Reading:
    """A client on a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.body = BodyReader()
        self.reader = EventReader()

    def texts(self, last: str) -> list[str]:
        """Read until the message with this text, return all texts."""
        found: list[str] = []
        while last not in found:
            data = self.connection.recv(65_536)
            assert data, f"the stream ended after {found[-3:]}"
            events = self.reader.feed(self.body.feed(data))
            found += [event.data["text"] for event in events]
        return found


def test_a_client_that_leaves_is_noticed_at_once(services: FakeServices) -> None:
    with site(services, heartbeat_seconds=3600, patience_seconds=3600) as port:
        with closing(call(port)), closing(call(port)):
            await_open(services, 2)
        await_open(services, 0)


def test_a_client_that_reads_nothing_is_given_up_and_slows_nobody(services: FakeServices) -> None:
    texts = [f"{number:05}{'x' * 1_000}" for number in range(4_000)]
    with (
        site(services, heartbeat_seconds=3600, patience_seconds=0.5) as port,
        closing(call(port)) as idle,
        closing(call(port)) as busy,
    ):
        await_open(services, 2)
        reading = Reading(busy)
        found: list[str] = []
        for start in range(0, len(texts), 50):  # the reader keeps up, the other one does not
            for text in texts[start : start + 50]:
                services.events.carry(message(COMPANY, text))
            found += reading.texts(texts[start + 49])
        assert found == texts
        await_open(services, 1)
        read_late = Reading(idle)
        with pytest.raises((AssertionError, ConnectionResetError)):
            read_late.texts("never sent")


def test_who_was_too_slow_goes_on_where_it_was(services: FakeServices) -> None:
    services.events = EventStream(
        replace(STREAM_LIMITS, client_events=20, buffer_bytes=50_000_000), SteadyClock()
    )
    texts = [f"{number:05}{'x' * 10_000}" for number in range(1_000)]
    with site(services, patience_seconds=3600) as port, closing(call(port)) as slow:
        await_open(services, 1)
        for text in texts:
            services.events.carry(message(COMPANY, text))
        await_open(services, 0)
        assert services.events.figures.ended_slow == 1
        reading = Reading(slow)
        found: list[str] = []
        while data := slow.recv(65_536):
            events = reading.reader.feed(reading.body.feed(data))
            found += [event.data["text"] for event in events]
        assert 0 < len(found) < len(texts)
        with closing(call(port, reading.reader.last_event_id)) as again:
            found += Reading(again).texts(texts[-1])
    assert found == texts


def test_a_stop_ends_even_who_reads_nothing(services: FakeServices) -> None:
    with (
        site(services, heartbeat_seconds=3600, patience_seconds=3600) as port,
        closing(call(port)),
    ):
        await_open(services, 1)
        for _ in range(STREAM_LIMITS.client_events):
            services.events.carry(message(COMPANY, "x" * 100_000))
        services.events.stop()
        await_open(services, 0)
