"""What stands beside the service in a CRM: its pages, and the keys of its Supabase project."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).parent
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
Answer = tuple[int, str, bytes]


@contextmanager
def serving(find: Callable[[str], Answer]) -> Iterator[str]:
    """Serve what `find` returns for a path; yields the origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = find(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="crm-site")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def crm_pages() -> Iterator[str]:
    """Serve the page of the CRM on an origin of its own."""

    def find(path: str) -> Answer:
        file = HERE / path.lstrip("/")
        if file.parent != HERE or file.suffix not in _TYPES or not file.is_file():
            return 404, "text/plain", b""
        return 200, _TYPES[file.suffix], file.read_bytes()

    with serving(find) as origin:
        yield origin


class KeyEndpoint:
    """The project's list of keys over HTTP: what tests put into it, or 503 while it is away."""

    def __init__(self) -> None:
        self.keys: list[Mapping[str, object]] = []
        self.asked = 0
        self.is_away = False

    def find(self, path: str) -> Answer:
        """Answer a request."""
        if path != "/auth/v1/.well-known/jwks.json":
            return 404, "application/json", b"{}"
        self.asked += 1
        if self.is_away:
            return 503, "application/json", b"{}"
        return 200, "application/json", json.dumps({"keys": self.keys}).encode()
