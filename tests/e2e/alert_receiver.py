"""A channel for alerts on this machine: what apprise's json:// posts to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from service_process import free_port


class AlertReceiver:
    """Keeps every message it was sent, once it is opened. Its address is fixed before that."""

    def __init__(self) -> None:
        self.port = free_port()
        self._changed = threading.Condition()
        self._messages: list[dict[str, Any]] = []
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Its address, with secrets in all places where an address may have some."""
        return f"json://operator:hunter22secret@127.0.0.1:{self.port}/hook/T0kenInThePath"

    SECRETS = ("hunter22secret", "T0kenInThePath")

    def __enter__(self) -> AlertReceiver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def open(self) -> AlertReceiver:
        """Begin to take messages."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver._take(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="alert-receiver")
        self._thread.start()
        return self

    def _take(self, body: dict[str, Any]) -> None:
        with self._changed:
            self._messages.append(body)
            self._changed.notify_all()

    def bodies(self) -> list[dict[str, Any]]:
        """Return everything that was posted so far, in the order in which it came."""
        with self._changed:
            return list(self._messages)

    def titles(self) -> list[str]:
        """Return the titles so far, in the order in which they came."""
        return [message["title"] for message in self.bodies()]

    def await_message(self, number: int, timeout_seconds: float = 40.0) -> dict[str, Any]:
        """Return the message of this number, from 1; fail when it does not come."""
        with self._changed:
            there = self._changed.wait_for(lambda: len(self._messages) >= number, timeout_seconds)
            assert there, f"no message {number} in {timeout_seconds} s, only {self._messages}"
            return self._messages[number - 1]
