"""A CRM's end of webhooks: verifies what comes in, and misbehaves when it is told to."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

_HANG_SECONDS = 60.0
_SLOW_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Received:
    """One request. at: on the monotonic clock; taken: it was answered 204."""

    path: str
    event: dict[str, Any]
    webhook_id: str
    verified: bool
    signatures: int
    at: float
    taken: bool

    @property
    def lag_seconds(self) -> float:
        """How long after the event it came in; both clocks are this machine's."""
        return time.time() - time.monotonic() + self.at - _epoch(self.event["timestamp"])


class WebhookReceiver:
    """Targets by path: /a, /b, ... Each has a secret and a mode."""

    MODES: ClassVar = ("ok", "fail", "hang", "drip", "redirect", "die", "slow", "gone", "busy")

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.modes: dict[str, str] = {}
        self._changed = threading.Condition()
        self._requests: list[Received] = []
        self._released = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def do_POST(self) -> None:
                receiver._take(self)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """Connections break; that is what tests are for."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def url(self, path: str) -> str:
        """Return the URL of a target."""
        return f"http://127.0.0.1:{self.port}{path}"

    def received(self, path: str | None = None, *, taken: bool | None = None) -> list[Received]:
        """Return the requests so far, in the order of their arrival."""
        with self._changed:
            return [
                item
                for item in self._requests
                if path in (None, item.path) and taken in (None, item.taken)
            ]

    def taken_ids(self, path: str) -> set[str]:
        """Return the ids of the events that this target has taken."""
        return {item.event["id"] for item in self.received(path, taken=True)}

    def await_requests(self, path: str, count: int, timeout_seconds: float = 30.0) -> None:
        """Wait until so many requests came to a target."""

        def came() -> bool:
            return sum(item.path == path for item in self._requests) >= count

        with self._changed:
            if not self._changed.wait_for(came, timeout_seconds):
                raise AssertionError(
                    f"{sum(item.path == path for item in self._requests)} of {count} requests "
                    f"to {path} within {timeout_seconds} s"
                )

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        at = time.monotonic()
        mode = self.modes.get(handler.path, "ok")
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        if handler.command == "POST":
            self._note(handler, body, at, taken=mode in ("ok", "slow"))
        if mode in ("hang", "slow"):
            self._released.wait(_HANG_SECONDS if mode == "hang" else _SLOW_SECONDS)
        if mode == "hang":
            handler.close_connection = True
        elif mode == "die":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of")
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        elif mode == "drip":
            self._drip(handler)
        else:
            _answer(handler, mode, self.url("/redirected"))

    def _drip(self, handler: BaseHTTPRequestHandler) -> None:
        """Send a byte now and then, for ever: no single read ever waits long."""
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not self._released.wait(0.05):
            try:
                handler.wfile.write(b".")
            except OSError:
                return

    def _note(
        self, handler: BaseHTTPRequestHandler, body: bytes, at: float, *, taken: bool
    ) -> None:
        headers = dict(handler.headers.items())
        lowered = {name.lower(): value for name, value in headers.items()}
        try:
            Verifier(self.secrets[handler.path]).verify(body, headers)
            verified = True
        except (WebhookVerificationError, KeyError):
            verified = False
        item = Received(
            path=handler.path,
            event=json.loads(body),
            webhook_id=lowered.get("webhook-id", ""),
            verified=verified,
            signatures=len(lowered.get("webhook-signature", "").split()),
            at=at,
            taken=taken,
        )
        with self._changed:
            self._requests.append(item)
            self._changed.notify_all()

    @contextmanager
    def running(self) -> Iterator[WebhookReceiver]:
        """Listen for as long as this lasts."""
        self._thread.start()
        try:
            yield self
        finally:
            self._released.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


def _answer(handler: BaseHTTPRequestHandler, mode: str, elsewhere: str) -> None:
    status = {"fail": 500, "redirect": 307, "gone": 410, "busy": 503}.get(mode, 204)
    handler.send_response(status)
    if mode == "redirect":
        handler.send_header("Location", elsewhere)
    if mode == "busy":
        handler.send_header("Retry-After", "1")
    if status != 204:
        handler.send_header("Content-Length", "0")
    handler.end_headers()


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
