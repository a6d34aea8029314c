"""Requests to targets that misbehave: always an answer, always in time, never a wrong address."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crm_whatsapp.domain.webhooks import Answer
from crm_whatsapp.outbound.address_guard import AddressGuard, parse_address, parse_networks
from crm_whatsapp.outbound.guarded_network import NameUnknown, Resolver
from crm_whatsapp.outbound.webhook_sender import HttpWebhookSender, SenderLimits
from tests.unit.outbound.targets import NO_CONTENT, Script, Target, answering

LOOPBACK = AddressGuard(parse_networks("127.0.0.0/8"))
GUARD_SECONDS = 20.0
_MADE: list[HttpWebhookSender] = []


def sender(
    *,
    guard: AddressGuard = LOOPBACK,
    total: float = GUARD_SECONDS,
    connect: float = GUARD_SECONDS,
    lookup: Callable[[str, int], list[str]] | None = None,
) -> HttpWebhookSender:
    limits = SenderLimits(
        connect_seconds=connect, total_seconds=total, keepalive_seconds=30.0, connections=8
    )
    made = HttpWebhookSender(guard, limits, Resolver(lookup) if lookup else None)
    _MADE.append(made)
    return made


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Close the connections that a test leaves."""
    yield
    while _MADE:
        _MADE.pop().close()


def post(target: Target, *, via: HttpWebhookSender | None = None, **more: float) -> Answer:
    return (via or sender(**more)).post(
        f"http://127.0.0.1:{target.port}/hooks?token=1", {"webhook-id": "x1"}, b'{"a":1}'
    )


def test_what_is_posted() -> None:
    with Target(answering(NO_CONTENT)).running() as target:
        answer = post(target)
    assert (answer.status_code, answer.error) == (204, None)
    head, _, body = target.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /hooks?token=1 HTTP/1.1"
    assert f"Host: 127.0.0.1:{target.port}" in lines
    assert "webhook-id: x1" in lines
    assert "Content-Type: application/json" in lines
    assert any(line.startswith("User-Agent: crm-whatsapp/") for line in lines)
    assert body == b'{"a":1}'


def test_connections_are_kept_and_used_again() -> None:
    answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", NO_CONTENT]
    via = sender()
    with Target(answering(*answers)).running() as target:
        assert [post(target, via=via).status_code for _ in range(5)] == [200] + [204] * 4
        assert target.connections == 1
        via.close()


@pytest.mark.parametrize(
    ("raw", "status", "error"),
    [
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", 500, "answered 500"),
        (b"HTTP/1.1 410 Gone\r\ncontent-length: 4\r\n\r\ngone", 410, "answered 410"),
        (b"HTTP/1.0 200 OK\r\n\r\nfine", 200, None),
    ],
)
def test_answers(raw: bytes, status: int, error: str | None) -> None:
    def script(connection: socket.socket, target: Target) -> None:
        target.read_request(connection)
        connection.sendall(raw)

    with Target(script).running() as target:
        answer = post(target)
    assert (answer.status_code, answer.error) == (status, error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    with Target(answering(NO_CONTENT)).running() as other:
        location = f"Location: http://127.0.0.1:{other.port}/\r\n".encode()
        raw = b"HTTP/1.1 %d Over there\r\n%scontent-length: 0\r\n\r\n" % (status, location)
        with Target(answering(raw)).running() as target:
            answer = post(target)
        assert answer.status_code == status
        assert answer.error == f"answered {status}; redirects are not followed"
        assert other.connections == 0


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", "the answer broke off or was not HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", "the answer broke off"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "was not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000, "was not HTTP"),
    ],
)
def test_what_is_no_whole_answer_is_none(raw: bytes, error: str) -> None:
    def script(connection: socket.socket, target: Target) -> None:
        target.read_request(connection)
        connection.sendall(raw)

    with Target(script).running() as target:
        answer = post(target)
    assert answer.status_code is None
    assert error in (answer.error or "")


def drip_body(connection: socket.socket, target: Target) -> None:
    target.read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while not target.ended.wait(0.02):
        connection.sendall(b".")


def drip_head(connection: socket.socket, target: Target) -> None:
    target.read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not target.ended.wait(0.02):
        connection.sendall(b"X: y\r\n")


def interim_answers(connection: socket.socket, target: Target) -> None:
    target.read_request(connection)
    while not target.ended.wait(0.02):
        connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")


def silence(connection: socket.socket, target: Target) -> None:
    target.read_request(connection)
    target.ended.wait(GUARD_SECONDS)


def slow_reading(connection: socket.socket, target: Target) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    while not target.ended.wait(0.02):
        connection.recv(64)


@pytest.mark.parametrize(
    "script",
    [drip_body, drip_head, interim_answers, silence, slow_reading],
    ids=lambda it: it.__name__,
)
def test_nothing_outlasts_the_whole_time(script: Script) -> None:
    via = sender(total=0.5)
    with Target(script).running() as target:
        begun = time.monotonic()
        answer = via.post(f"http://127.0.0.1:{target.port}/", {}, b"x" * 20_000_000)
        took = time.monotonic() - begun
        target.ended.set()
    assert answer.status_code is None
    assert answer.error == "no whole answer within 0.5 s"
    assert took < 5.0  # many times the limit for the load, a fraction of what the target would do


def test_a_body_without_end_is_read_to_a_bound_and_dropped() -> None:
    sent = []

    def script(connection: socket.socket, target: Target) -> None:
        target.read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while not target.ended.is_set():
            connection.sendall(b"z" * 65_536)
            sent.append(65_536)

    with Target(script).running() as target:
        answer = post(target)
    assert (answer.status_code, answer.error) == (200, None)
    assert sum(sent) < 50_000_000


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("7", 7, 7), ("0", 0, 0), ("soon", None, None), ("-3", None, None), ("DATE", 100, 121)],
)
def test_retry_after(value: str, low: float | None, high: float | None) -> None:
    if value == "DATE":
        moment = datetime.now(UTC) + timedelta(seconds=120)
        value = moment.strftime("%a, %d %b %Y %H:%M:%S GMT")
    raw = f"HTTP/1.1 503 Busy\r\nRetry-After: {value}\r\ncontent-length: 0\r\n\r\n".encode()
    with Target(answering(raw)).running() as target:
        asked = post(target).retry_after_seconds
    assert asked is None if low is None or high is None else asked is not None
    if asked is not None and low is not None and high is not None:
        assert low <= asked <= high


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    answer = sender().post(f"http://127.0.0.1:{port}/", {}, b"{}")
    assert (answer.status_code, answer.error) == (None, "no connection: Connection refused")


def test_a_url_that_is_none_is_no_answer() -> None:
    answer = sender().post("https://user:pw@crm.example.com/", {}, b"{}")
    assert answer.error == "url must not carry a user name or password."


class TestAddresses:
    def test_a_name_is_judged_by_what_it_resolves_to_when_it_is_connected_to(self) -> None:
        """DNS rebinding: public when it was registered, loopback a moment later."""
        answers = [["93.184.216.34"], ["127.0.0.1"]]
        guard = AddressGuard(allows_http=True)
        with Target(answering(NO_CONTENT)).running() as target:
            url = f"http://rebound.example:{target.port}/"
            via = sender(guard=guard, lookup=lambda host, port: answers.pop(0))
            guard.check_url(url)
            assert guard.permits(parse_address(answers.pop(0)[0]), is_plain=True)
            answer = via.post(url, {}, b"{}")
            assert target.connections == 0
        assert "not allowed" in (answer.error or "")
        assert "127.0.0.1" not in (answer.error or "")

    def test_one_refused_address_among_public_ones_refuses_the_name(self) -> None:
        tried = []

        class Watched(AddressGuard):
            def permits(self, address, *, is_plain=False):  # type: ignore[no-untyped-def]
                tried.append(str(address))
                return super().permits(address, is_plain=is_plain)

        via = sender(guard=Watched(), lookup=lambda host, port: ["8.8.8.8", "10.0.0.1"])
        answer = via.post("https://mixed.example/", {}, b"{}")
        assert "not allowed" in (answer.error or "")
        assert tried == ["8.8.8.8", "10.0.0.1"]

    def test_the_address_that_was_judged_is_the_one_connected_to(self) -> None:
        asked = []

        def lookup(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.1"]

        with Target(answering(NO_CONTENT)).running() as target:
            via = sender(lookup=lookup)
            answer = via.post(f"http://crm.internal:{target.port}/", {}, b"{}")
            assert answer.status_code == 204
            assert f"Host: crm.internal:{target.port}".encode() in target.requests[0]
            via.close()
        assert asked == ["crm.internal"]

    def test_the_next_address_is_tried_when_one_does_not_answer(self) -> None:
        with Target(answering(NO_CONTENT)).running() as target:
            via = sender(lookup=lambda host, port: ["127.0.0.9", "127.0.0.1"])
            answer = via.post(f"http://crm.internal:{target.port}/", {}, b"{}")
            via.close()
        assert answer.status_code == 204

    def test_http_to_a_public_address_is_refused(self) -> None:
        guard = AddressGuard(parse_networks("10.0.0.0/8"))
        via = sender(guard=guard, lookup=lambda host, port: ["8.8.8.8"])
        assert "not allowed" in (via.post("http://crm.example/", {}, b"{}").error or "")

    def test_environment_proxies_are_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with (
            Target(answering(NO_CONTENT)).running() as proxy,
            Target(answering(NO_CONTENT)).running() as target,
        ):
            for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            via = sender()
            assert post(target, via=via).status_code == 204
            via.close()
            assert proxy.connections == 0


class TestNames:
    def test_a_name_that_is_not_known(self) -> None:
        def lookup(host: str, port: int) -> list[str]:
            raise socket.gaierror(-2, "Name or service not known")

        answer = sender(lookup=lookup).post("https://nowhere.example/", {}, b"{}")
        assert answer.error == "the host name cannot be resolved: Name or service not known"

    def test_a_lookup_that_hangs_costs_the_connect_time_and_no_other_name(self) -> None:
        go_on = threading.Event()

        def lookup(host: str, port: int) -> list[str]:
            if host == "hanging.example":
                go_on.wait(GUARD_SECONDS)
            return ["127.0.0.1"]

        via = sender(lookup=lookup, connect=0.2)
        try:
            answer = via.post("https://hanging.example/", {}, b"{}")
            assert answer.error == "the host name was not resolved in time"
            with Target(answering(NO_CONTENT)).running() as target:
                other = via.post(f"http://quick.example:{target.port}/", {}, b"{}")
                assert other.status_code == 204
                via.close()
        finally:
            go_on.set()

    def test_all_who_wait_for_a_name_wait_for_one_lookup(self) -> None:
        go_on, asked = threading.Event(), []

        def lookup(host: str, port: int) -> list[str]:
            asked.append(host)
            go_on.wait(GUARD_SECONDS)
            return ["127.0.0.1"]

        resolver = Resolver(lookup)
        found: list[list[str]] = []
        waiting = [
            threading.Thread(target=lambda: found.append(resolver.resolve("a", 1, GUARD_SECONDS)))
            for _ in range(5)
        ]
        for thread in waiting:
            thread.start()
        with pytest.raises(NameUnknown):
            resolver.resolve("a", 1, 0.01)
        go_on.set()
        for thread in waiting:
            thread.join()
        assert found == [["127.0.0.1"]] * 5
        assert asked == ["a"]


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        return self_signed(tmp_path, "crm.internal")

    def test_a_certificate_that_nobody_vouches_for(self, certificate: Path) -> None:
        with Target(behind_tls(certificate)).running() as target:
            answer = sender(lookup=lambda host, port: ["127.0.0.1"]).post(
                f"https://crm.internal:{target.port}/", {}, b"{}"
            )
        assert answer.status_code is None
        assert "its certificate is not valid: self-signed certificate" in (answer.error or "")
        assert not target.requests

    def test_the_certificate_is_held_to_the_name_not_to_the_address(
        self, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Target(behind_tls(certificate)).running() as target:
            via = sender(lookup=lambda host, port: ["127.0.0.1"])
            good = via.post(f"https://crm.internal:{target.port}/", {}, b"{}")
            bad = via.post(f"https://other.internal:{target.port}/", {}, b"{}")
            via.close()
        assert good.status_code == 204
        assert "Hostname mismatch" in (bad.error or "")

    def test_a_handshake_that_hangs(self) -> None:
        def script(connection: socket.socket, target: Target) -> None:
            target.ended.wait(GUARD_SECONDS)

        with Target(script).running() as target:
            answer = sender(connect=0.2).post(f"https://127.0.0.1:{target.port}/", {}, b"{}")
        assert answer.error == "no connection within 0.2 s"


def behind_tls(certificate: Path) -> Script:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))

    def script(connection: socket.socket, target: Target) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            while target.read_request(secured):
                secured.sendall(NO_CONTENT)

    return script


def self_signed(folder: Path, host: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    path.with_suffix(".key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path
