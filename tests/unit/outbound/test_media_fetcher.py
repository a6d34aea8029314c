"""Fetches: only from addresses that were judged, whole, in time and in bounds."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crm_whatsapp.domain.errors import CrmWhatsappError, InvalidInput, StorageError
from crm_whatsapp.domain.media import MediaAddressRefused, MediaTooLarge, MediaUnreachable
from crm_whatsapp.outbound.address_guard import AddressGuard, parse_networks
from crm_whatsapp.outbound.guarded_network import Lookup, Resolver
from crm_whatsapp.outbound.media_fetcher import FetchLimits, HttpMediaFetcher
from tests.unit.outbound.targets import Script, Target, answering

GUARD_SECONDS = 20.0
NOWHERE = AddressGuard(allows_http=True)
LOOPBACK = AddressGuard(parse_networks("127.0.0.0/8"), allows_http=True)


@contextmanager
def fetching(
    guard: AddressGuard = LOOPBACK,
    *,
    lookup: Lookup | None = None,
    total: float = GUARD_SECONDS,
) -> Iterator[HttpMediaFetcher]:
    limits = FetchLimits(connect_seconds=GUARD_SECONDS, total_seconds=total, connections=2)
    fetcher = HttpMediaFetcher(guard, limits, Resolver(lookup) if lookup else None)
    try:
        yield fetcher
    finally:
        fetcher.close()


def fetched(script: Script, *, most_bytes: int = 1000, total: float = GUARD_SECONDS) -> bytes:
    """Return what a target that follows the script delivers."""
    with Target(script).running() as target, fetching(total=total) as fetcher:
        got = bytearray()
        url = f"http://127.0.0.1:{target.port}/a?b=c"
        fetcher.fetch(url, got.extend, most_bytes=most_bytes)
        assert target.requests[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")
        assert b"accept-encoding: identity\r\n" in target.requests[0].lower()
        assert b"cookie" not in target.requests[0].lower()
    return bytes(got)


def answer(body: bytes, *headers: str, status: str = "200 OK") -> Script:
    length = [] if any("ength" in it or "chunked" in it for it in headers) else [len(body)]
    lines = [f"HTTP/1.1 {status}", *headers, *(f"Content-Length: {size}" for size in length)]
    return answering("\r\n".join([*lines, "", ""]).encode() + body)


def hanging_up(data: bytes) -> Script:
    """Return a script that answers so and closes."""

    def run(connection: socket.socket, target: Target) -> None:
        target.read_request(connection)
        connection.sendall(data)

    return run


def test_a_file_is_handed_over_whole() -> None:
    assert fetched(answer(b"a" * 1000)) == b"a" * 1000
    chunked = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert fetched(answer(chunked, "Transfer-Encoding: chunked")) == b"abcde"
    assert fetched(answer(b"a", "Content-Encoding: Identity")) == b"a"


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (answer(b"a" * 1001), MediaTooLarge, "1000 bytes"),
        (answer(b"", "Content-Length: 1001"), MediaTooLarge, "1000 bytes"),
        (answer(b"", "Content-Length: 9999999999999999999999"), MediaUnreachable, "not HTTP"),
        (
            answer(b"3e9\r\n" + b"a" * 1001 + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
            MediaTooLarge,
            "1000 bytes",
        ),
        (hanging_up(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), MediaUnreachable, "broke"),
        (answer(b"a", "Content-Encoding: gzip"), MediaUnreachable, "compressed"),
        (answer(b"a", "Content-Encoding: identity, br"), MediaUnreachable, "compressed"),
        (answer(b"", "Location: /b", status="302 Found"), MediaUnreachable, "redirects"),
        (answer(b"", status="304 Not Modified"), MediaUnreachable, "redirects"),
        (answer(b"a", status="206 Partial Content"), MediaUnreachable, "answered 206"),
        (answer(b"secret", status="500 secret"), MediaUnreachable, "answered 500"),
        (hanging_up(b"SSH-2.0-secret\r\n"), MediaUnreachable, "not HTTP"),
        (hanging_up(b""), MediaUnreachable, "broke off"),
    ],
)
def test_what_is_no_whole_file_is_refused(
    script: Script, error: type[CrmWhatsappError], words: str
) -> None:
    with pytest.raises(error, match=words) as refusal:
        fetched(script)
    assert "secret" not in refusal.value.message


def test_a_silent_one_is_given_up() -> None:
    def silent(connection: socket.socket, target: Target) -> None:
        target.read_request(connection)
        target.ended.wait(GUARD_SECONDS)

    with pytest.raises(MediaUnreachable, match=r"within 0\.2 s"):
        fetched(silent, total=0.2)


def test_a_dripping_one_is_given_up_though_it_never_pauses_long() -> None:
    def drip(connection: socket.socket, target: Target) -> None:
        target.read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not target.ended.wait(0.01):
            connection.sendall(b"a")

    with pytest.raises(MediaUnreachable, match=r"within 0\.5 s"):
        fetched(drip, total=0.5)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:10.0.0.1"],
        ["fd00::1"],
        ["fe80::1%eth0"],
        ["64:ff9b::a00:1"],
        ["2002:7f00:1::"],
        ["8.8.8.8", "127.0.0.1"],
        [],
    ],
)
def test_a_name_that_leads_inside_is_refused_like_one_that_does_not_exist(
    addresses: list[str],
) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    texts = set()
    for lookup in (lambda host, port: addresses, unknown):
        with fetching(NOWHERE, lookup=lookup) as fetcher:
            fetcher.check("https://files.example.com/a")
            with pytest.raises(MediaAddressRefused) as refusal:
                fetcher.fetch("https://files.example.com/a", bytearray().extend, most_bytes=9)
        texts.add(refusal.value.message)
    with fetching(NOWHERE) as fetcher, pytest.raises(MediaAddressRefused) as refusal:
        fetcher.check("http://192.168.0.1/")
    assert texts == {refusal.value.message}
    assert "MEDIA_ALLOWED_NETWORKS" in refusal.value.message


def test_a_name_is_judged_where_it_leads_when_it_is_connected_to() -> None:
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    with Target(answer(b"inner")).running() as target:
        with fetching(NOWHERE, lookup=lambda host, port: answers[-1]) as fetcher:
            url = f"http://files.example.com:{target.port}/"
            fetcher.check(url)
            with pytest.raises(MediaAddressRefused):
                fetcher.fetch(url, bytearray().extend, most_bytes=9)
        assert target.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a.example/",
        "file:///etc/passwd",
        "https://me:secret@a.example/",
        "https://a.example/\r\nX: y",
        "https://a.example\\@b.example/",
        "https:///a",
        "https://a.example/#b",
        "https://a.example:0/",
        "https://" + "a" * 3000,
    ],
)
def test_what_is_no_url_names_the_field_and_repeats_nothing(url: str) -> None:
    with fetching() as fetcher, pytest.raises(InvalidInput) as refusal:
        fetcher.check(url)
    assert refusal.value.code == "invalid-input"
    assert refusal.value.details == {"field": "media.url"}
    assert refusal.value.message.startswith("media.url ")
    assert "secret" not in refusal.value.message


def test_a_full_disk_is_not_taken_for_a_bad_url() -> None:
    def full(chunk: bytes) -> None:
        raise StorageError("full")

    with Target(answer(b"a")).running() as target, fetching() as fetcher:
        with pytest.raises(StorageError):
            fetcher.fetch(f"http://127.0.0.1:{target.port}/", full, most_bytes=9)
