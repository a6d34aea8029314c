"""The client and its calls: what is repeated, what never is, and which way it goes."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from crm_whatsapp.domain.errors import ConfigurationError, StoreRejected, StoreUnavailable
from crm_whatsapp.stores.supabase_client import DatabaseCalls, close_client, make_client


class Flaky:
    """Fails with these errors, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture
def calls() -> DatabaseCalls:
    client = make_client("http://127.0.0.1:9", "sb_secret_x", 1.0)
    return DatabaseCalls(client, sleep=lambda seconds: None)


def test_a_passing_failure_is_repeated_once(calls: DatabaseCalls) -> None:
    flaky = Flaky(StoreUnavailable())
    assert calls.repeat(flaky) == "answer"
    assert flaky.calls == 2


def test_a_second_failure_is_told(calls: DatabaseCalls) -> None:
    flaky = Flaky(StoreUnavailable("first"), StoreUnavailable("second"))
    with pytest.raises(StoreUnavailable, match="second"):
        calls.repeat(flaky)
    assert flaky.calls == 2


def test_a_refusal_is_not_repeated(calls: DatabaseCalls) -> None:
    flaky = Flaky(StoreRejected())
    with pytest.raises(StoreRejected):
        calls.repeat(flaky)
    assert flaky.calls == 1


def test_nobody_listening_is_unavailable(calls: DatabaseCalls) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        calls.once("whatsapp_tick_v1", {})


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"])
def test_loopback_is_reached_without_the_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    client = make_client(url, "sb_secret_x", 1.0)
    assert client.postgrest.session.trust_env is False
    close_client(client)


def test_other_addresses_honour_the_proxy() -> None:
    client = make_client("https://project.example", "sb_secret_x", 1.0)
    assert client.postgrest.session.trust_env is True
    close_client(client)


@pytest.mark.parametrize(("url", "key"), [("", "k"), ("project.example", "k"), ("https://x", "")])
def test_settings_that_cannot_work_are_named(url: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match="SUPABASE_"):
        make_client(url, key, 1.0)


class Answering(BaseHTTPRequestHandler):
    """Answers with the status that the path ends in."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(int(self.path[-3:]))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def answering_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_listener_hears_of_every_call_and_its_outcome(answering_url: str) -> None:
    heard: list[tuple[str, str, float]] = []
    client = make_client(
        answering_url, "sb_secret_x", 5.0, on_call=lambda *call: heard.append(call)
    )
    calls = DatabaseCalls(client, sleep=lambda seconds: None)

    calls.once("answers_200", {})
    with pytest.raises(StoreUnavailable):
        calls.repeatable("answers_503", {})
    with pytest.raises(StoreRejected):
        calls.once("answers_403", {})
    close_client(client)

    assert [call[:2] for call in heard] == [
        ("answers_200", "ok"),
        ("answers_503", "unavailable"),
        ("answers_503", "unavailable"),
        ("answers_403", "rejected"),
    ]
    assert all(0 <= seconds < 60 for *_, seconds in heard)


def test_a_listener_hears_of_calls_without_an_answer() -> None:
    heard: list[tuple[str, str]] = []
    client = make_client(
        "http://127.0.0.1:9",
        "sb_secret_x",
        1.0,
        on_call=lambda call, outcome, seconds: heard.append((call, outcome)),
    )
    with pytest.raises(StoreUnavailable):
        DatabaseCalls(client).once("whatsapp_tick_v1", {})

    assert heard == [("whatsapp_tick_v1", "unavailable")]
