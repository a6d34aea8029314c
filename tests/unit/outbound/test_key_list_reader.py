"""Reading the keys from an address that does all it should not."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from crm_whatsapp.domain.user_keys import KeysUnreadable
from crm_whatsapp.outbound.key_list_reader import HttpKeyListReader

Reply = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(reply: Reply) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/auth/v1/.well-known/jwks.json"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(status: int, body: bytes, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        try:
            handler.wfile.write(body)
        except OSError:
            handler.close_connection = True  # the reader has left

    return reply


def test_the_document_is_read() -> None:
    with serving(send(200, b'{"keys": []}')) as url:
        assert HttpKeyListReader(url, timeout_seconds=30.0).read() == b'{"keys": []}'


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (send(404, b"{}"), "404"),
        (send(500, b"{}"), "500"),
        (send(302, b"", Location="http://127.0.0.1:9/keys"), "302"),
        (send(200, b"x" * 200_000), "longer"),
    ],
)
def test_other_answers_are_refused(reply: Reply, why: str) -> None:
    with serving(reply) as url, pytest.raises(KeysUnreadable, match=why):
        HttpKeyListReader(url, timeout_seconds=30.0).read()


def test_an_address_that_is_away_is_told() -> None:
    with pytest.raises(KeysUnreadable, match="no answer"):
        HttpKeyListReader("http://127.0.0.1:9/", timeout_seconds=1.0).read()


def test_an_address_that_hangs_is_left() -> None:
    over = threading.Event()
    with serving(lambda handler: over.wait(30) and None) as url:
        with pytest.raises(KeysUnreadable, match="no answer"):
            HttpKeyListReader(url, timeout_seconds=0.2).read()
        over.set()


def test_an_address_that_drips_is_left() -> None:
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not over.wait(0.05):
                handler.wfile.write(b" ")
        except OSError:
            handler.close_connection = True

    with serving(drip) as url:
        with pytest.raises(KeysUnreadable, match="too long"):
            HttpKeyListReader(url, timeout_seconds=0.5).read()
        over.set()
