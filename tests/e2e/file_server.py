"""A server of files, as companies have them, and of everything that is not a file."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_CHUNK = b"x" * 65_536


class FileServer:
    """Files by path, and misbehaviour by path: see `_MISBEHAVE`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._http.server_address[1])

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    @contextmanager
    def running(self) -> Iterator[FileServer]:
        """Serve for as long as it lasts."""
        thread = threading.Thread(target=self._http.serve_forever, name="file-server")
        thread.start()
        try:
            yield self
        finally:
            self._released.set()
            self._http.shutdown()
            thread.join()
            self._http.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        path = request.path.partition("?")[0]
        content = self.files.get(path)
        try:
            if content is not None:
                self._send(request, content)
            else:
                getattr(self, f"_{path.strip('/')}")(request)
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True

    def _send(self, request: BaseHTTPRequestHandler, content: bytes, **headers: str) -> None:
        request.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    def _redirect(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", next(iter(self.files)))
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _missing(self, request: BaseHTTPRequestHandler) -> None:
        request.send_error(404)

    def _packed(self, request: BaseHTTPRequestHandler) -> None:
        bomb = gzip.compress(b"\0" * 8 * 1024 * 1024)
        self._send(request, bomb, Content_Encoding="gzip")

    def _huge(self, request: BaseHTTPRequestHandler) -> None:
        """Say a length above every bound, and send none of it."""
        request.send_response(200)
        request.send_header("Content-Length", str(1 << 40))
        request.end_headers()
        self._released.wait()

    def _short(self, request: BaseHTTPRequestHandler) -> None:
        """Say more than there is."""
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"%PDF-1.4\n")
        request.close_connection = True

    def _endless(self, request: BaseHTTPRequestHandler) -> None:
        """Send chunks for as long as somebody takes them."""
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        while not self._released.is_set():
            request.wfile.write(b"%x\r\n%s\r\n" % (len(_CHUNK), _CHUNK))

    def _drip(self, request: BaseHTTPRequestHandler) -> None:
        """Send a byte now and then."""
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        while not self._released.wait(0.1):
            request.wfile.write(b"x")

    def _silent(self, request: BaseHTTPRequestHandler) -> None:
        """Answer nothing."""
        self._released.wait()
