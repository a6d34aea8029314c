"""Requests and their bodies, as the app gets them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from gunicorn.config import Config  # type: ignore[import-untyped]
from gunicorn.http.errors import LimitRequestHeaders  # type: ignore[import-untyped]

from crm_whatsapp.serving.client_request import ClientParser, ClientRequest
from crm_whatsapp.serving.client_socket import ClientSocket, ClientTerms, WaitingRoom
from crm_whatsapp.web.errors import BodyBroken, BodyTooSlow

TERMS = ClientTerms(patience_seconds=0.05)
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


@contextmanager
def conversation(
    sent: bytes, *, later: bytes = b"", ends: bool = False
) -> Iterator[tuple[ClientRequest, ClientParser]]:
    """Yield a request whose head has arrived, and the parser of its connection.

    Args:
        sent: has been read from the socket already, as the worker does.
        later: is still in the socket.
    """
    accepted, theirs = socket.socketpair()
    with theirs, ClientSocket(accepted, TERMS, WaitingRoom(1)) as client:
        theirs.sendall(later)
        if ends:
            theirs.shutdown(socket.SHUT_WR)
        parser = ClientParser(Config(), client, ("127.0.0.1", 1))
        parser.unreader.unread(sent)
        request = next(parser)
        client.begin_request()
        yield request, parser


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: 5\r\n\r\nhello",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\nX: y\r\n\r\n",
    ],
    ids=["length", "chunks"],
)
def test_a_body_is_read_to_its_end_and_no_further(sent: bytes) -> None:
    for cut in range(sent.index(b"\r\n\r\n") + 4, len(sent) + 1):
        with conversation(sent[:cut], later=sent[cut:] + HEAD + b"\r\n") as (request, parser):
            assert request.body.read() == b"hello"
            assert request.body.read() == b""
            assert not request.should_close()
            came_with_it = parser.unreader.take_buffered()
            came_later = b"" if came_with_it else parser.unreader.sock.recv(1000)
            assert came_with_it + came_later == HEAD + b"\r\n"


def test_lines_of_a_body() -> None:
    sent = HEAD + b"Content-Length: 11\r\n\r\n"
    with conversation(sent, later=b"one\ntwo\nend") as (request, _):
        assert request.body.readline() == b"one\n"
        assert request.body.readlines() == [b"two\n", b"end"]
        assert request.body.is_over()


@pytest.mark.parametrize(
    ("sent", "closes"),
    [
        (b"\r\n", False),
        (b"Content-Length: 0\r\n\r\n", False),
        (b"Content-Length: 5\r\n\r\nhello", False),
        (b"Content-Length: 5\r\n\r\nhell", True),
        (b"Content-Length: 500000\r\n\r\n" + b"x" * 100_000, True),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", True),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", True),
        (b"Transfer-Encoding: chunked\r\n\r\nz\r\n", True),
        (b"Transfer-Encoding: chunked\r\n\r\n18a00\r\n" + b"x" * 100_864 + b"\r\n0\r\n\r\n", True),
        (b"Connection: close\r\n\r\n", True),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_body_that_nobody_has_read_is_not_waited_for(sent: bytes, closes: bool) -> None:
    with conversation(HEAD + sent) as (request, _):
        assert request.should_close() is closes
        assert request.should_close() is closes, "and it stays with that"


@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: 5\r\n\r\nhell",
        b"Content-Length: 5\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhell",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
)
def test_a_body_that_does_not_come(sent: bytes) -> None:
    with conversation(HEAD + sent) as (request, _), pytest.raises(BodyTooSlow):
        request.body.read()
    with conversation(HEAD + sent, ends=True) as (request, _):
        with pytest.raises(BodyBroken):
            list(iter(lambda: request.body.read(100), b""))
        assert request.should_close()


@pytest.mark.parametrize(
    "sent",
    [
        b"z\r\n",
        b"5\r\nhellooo\r\n",
        b"5;=\r\nhello\r\n",
        b"5\r\nhello\r\n0\r\nHost: b\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: a\nY: b\r\n\r\n",
    ],
)
def test_malformed_chunks_are_the_clients_fault(sent: bytes) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with conversation(head + sent) as (request, _):
        with pytest.raises(BodyBroken):
            request.body.read()
        assert request.should_close()


def test_chunks_may_not_be_small_for_ever() -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    sent = b"1\r\nx\r\n" * 10_000
    with conversation(head, later=sent) as (request, _):
        assert request.body.read(5_000) == b"x" * 5_000
    with conversation(head, later=b"") as (request, parser):
        client = parser.unreader.sock
        client.received_bytes = 500_000
        parser.unreader.unread(sent)
        with pytest.raises(BodyBroken, match="too small"):
            request.body.read(5_000)
        assert request.should_close()


def test_a_head_that_is_not_all_there_is_too_long() -> None:
    with (
        pytest.raises(LimitRequestHeaders),
        conversation(HEAD + b"X: " + b"y" * 9000, later=b"y" * 9000 + b"\r\n\r\n"),
    ):
        pass
