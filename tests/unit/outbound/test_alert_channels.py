"""Messages through the real apprise, in its own process, to receivers on this machine."""

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from crm_whatsapp.domain.alerts import AlertMessage, AlertState, Severity
from crm_whatsapp.outbound.alert_channels import AppriseChannels, split_urls
from crm_whatsapp.outbound.apprise_process import without_secrets

DEADLINE_SECONDS = 30.0
MESSAGE = AlertMessage(
    state=AlertState.OPEN,
    severity=Severity.WARNING,
    title="WhatsApp: <b>Bella</b> was logged out",
    body="*Bella*\n- _a_ & b",
)


class Receiver(ThreadingHTTPServer):
    """Takes what is posted; /refuses answers 503, /hangs never answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, str]] = []
        self.hung = threading.Event()
        self.let_go = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver = self.server
        assert isinstance(receiver, Receiver)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/hangs":
            receiver.hung.set()
            receiver.let_go.wait(DEADLINE_SECONDS)
            return
        receiver.bodies.append(body)
        self.send_response(503 if self.path == "/refuses" else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()
        thread.join()


def channels(urls: str, timeout_seconds: float = DEADLINE_SECONDS) -> AppriseChannels:
    return AppriseChannels(urls, timeout_seconds=timeout_seconds, environment=os.environ)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  ", []),
        ("json://a", ["json://a"]),
        ("json://a,slack://b", ["json://a", "slack://b"]),
        ("json://a slack://b\n tgram://c/d ,", ["json://a", "slack://b", "tgram://c/d"]),
        (
            "mailto://u:p@h?to=a@x.de,b@x.de, json://a",
            ["mailto://u:p@h?to=a@x.de,b@x.de", "json://a"],
        ),
    ],
)
def test_urls_are_separated_by_commas_or_spaces(text: str, expected: list[str]) -> None:
    assert split_urls(text) == expected


def test_channels_are_called_by_their_schema_and_hold_nothing_secret() -> None:
    made = channels("slack://T1/B2/xyz, slack://T3/B4/abc, tgram://123:secret/-1, nonsense")
    assert made.channels == ("slack-1", "slack-2", "tgram-1")
    assert "secret" not in repr(made)
    alone = channels("nonsense")
    assert alone.channels == ()
    assert alone.problems == ("entry 1 of ALERT_URLS is not a URL of apprise",)


def test_a_message_arrives_as_it_was_written(receiver: Receiver) -> None:
    made = channels(f"json://127.0.0.1:{receiver.server_port}/path")
    assert made.check("json-1") is None
    assert receiver.bodies == []
    outcome = made.send("json-1", MESSAGE)
    assert (outcome.sent, outcome.detail) == (True, "")
    (body,) = receiver.bodies
    assert (body["title"], body["message"]) == (MESSAGE.title, MESSAGE.body)
    assert body["type"] == "warning"


@pytest.mark.parametrize(
    ("state", "severity", "expected"),
    [
        (AlertState.OPEN, Severity.CRITICAL, "failure"),
        (AlertState.RESOLVED, Severity.CRITICAL, "success"),
    ],
)
def test_apprise_is_told_how_bad_it_is(
    receiver: Receiver, state: AlertState, severity: Severity, expected: str
) -> None:
    made = channels(f"json://127.0.0.1:{receiver.server_port}")
    made.send("json-1", AlertMessage(state=state, severity=severity, title="t", body="b"))
    assert receiver.bodies[0]["type"] == expected


def test_a_refusal_is_told_without_the_address(receiver: Receiver) -> None:
    made = channels(f"json://user:hunter22@127.0.0.1:{receiver.server_port}/refuses")
    outcome = made.send("json-1", MESSAGE)
    assert not outcome.sent
    assert "503" in outcome.detail
    for secret in ("hunter22", "user", "127.0.0.1", "refuses", str(receiver.server_port)):
        assert secret not in outcome.detail


def test_nobody_there_is_told_without_the_address() -> None:
    outcome = channels("json://hunter22.invalid/token1234").send("json-1", MESSAGE)
    assert not outcome.sent
    assert "onnection" in outcome.detail
    assert "hunter22" not in outcome.detail


def test_an_address_that_apprise_does_not_know_is_found_before_it_is_needed() -> None:
    made = channels("foobar://x/y, slack://nonsense")
    assert made.check("foobar-1") == "apprise does not know this URL"
    assert made.check("slack-1") is not None
    assert not made.send("foobar-1", MESSAGE).sent


def test_a_channel_that_hangs_is_ended_in_time(receiver: Receiver) -> None:
    address = f"json://127.0.0.1:{receiver.server_port}/hangs?rto=300"
    made = channels(address, timeout_seconds=1.0)
    begun = time.monotonic()
    outcome = made.send("json-1", MESSAGE)
    assert not outcome.sent
    assert outcome.detail == "no answer within 1 s"
    assert time.monotonic() - begun < DEADLINE_SECONDS


def test_a_stop_ends_what_is_being_sent(receiver: Receiver) -> None:
    made = channels(f"json://127.0.0.1:{receiver.server_port}/hangs?rto=300")
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(made.send("json-1", MESSAGE)))
    thread.start()
    assert receiver.hung.wait(DEADLINE_SECONDS)
    made.stop()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()
    assert not outcomes[0].sent
    assert not made.send("json-1", MESSAGE).sent, "nothing is started after the stop"


def test_the_process_gets_no_key_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "sb_secret_x")
    monkeypatch.setenv("ALERT_URLS", "json://secret")
    made = channels("json://a")
    assert not {name for name in made._environment if name.startswith(("SUPABASE", "ALERT"))}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("tgram://123456:AAbbCC/-100123", "POST https://api.telegram.org/bot123456:AAbbCC/send"),
        ("mailtos://me:s3cr%40t@mail.example.com?to=you@x.de", "login of me with s3cr@t failed"),
        (
            "slack://TAAA/BBBB/ccccDDDD/#ops",
            "hooks.slack.com/services/TAAA/BBBB/ccccDDDD not found",
        ),
    ],
)
def test_what_apprise_says_loses_every_piece_of_the_url(url: str, said: str) -> None:
    told = without_secrets(said, url)
    for secret in ("123456", "AAbbCC", "s3cr@t", "s3cr%40t", "TAAA", "BBBB", "ccccDDDD"):
        assert secret not in told
