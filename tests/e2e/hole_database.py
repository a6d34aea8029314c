"""A database of known holes on 127.0.0.1: OSV's query and the audit of an npm registry."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BULK = "/-/npm/v1/security/advisories/bulk"
KNOWN_PYTHON = {("jinja2", "2.4.1")}
KNOWN_NODE = {("lodash", "4.17.0")}
KNOWN_GO = {("golang.org/x/crypto", "0.1.0")}


class Manner(StrEnum):
    """How it answers."""

    KNOWS = "knows"  # as the real ones do
    MIRROR = "mirror"  # politely, with no hole in anything
    REFUSES = "refuses"  # as a mirror that takes no POST
    BABBLES = "babbles"  # 200, and a page for people
    HANGS = "hangs"  # not at all


class HoleDatabase:
    """Remembers what it was asked. holes: of packages beside those that prove it."""

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.python_holes = set(KNOWN_PYTHON)
        self.node_holes = set(KNOWN_NODE)
        self.go_holes = set(KNOWN_GO)
        self.asked_go: set[tuple[str, str]] = set()
        self.asked_python: set[tuple[str, str]] = set()
        self.asked_node: set[tuple[str, str]] = set()
        self.released = threading.Event()
        self.url = ""

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body."""
        if self.manner is Manner.HANGS:
            self.released.wait()
        if self.manner is Manner.REFUSES:
            return 405, b""
        if self.manner is Manner.BABBLES:
            return 200, b"<html>Please sign in.</html>"
        asked = json.loads(body)
        return 200, json.dumps(self._node(asked) if path == BULK else self._osv(asked)).encode()

    def _osv(self, asked: dict[str, Any]) -> dict[str, Any]:
        ecosystem = asked["package"]["ecosystem"]
        package = (asked["package"]["name"], asked["version"])
        (self.asked_go if ecosystem == "Go" else self.asked_python).add(package)
        holes = self.go_holes if ecosystem == "Go" else self.python_holes
        if self.manner is Manner.MIRROR or package not in holes:
            return {}
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}]
        affected = {"package": {"name": package[0], "ecosystem": ecosystem}, "ranges": ranges}
        return {
            "vulns": [
                {
                    "id": f"PYSEC-2026-{len(package[0])}",
                    "aliases": [f"CVE-2026-{len(package[0])}"],
                    "summary": f"{package[0]} tells strangers everything",
                    "affected": [affected],
                }
            ]
        }

    def _node(self, asked: dict[str, list[str]]) -> dict[str, Any]:
        packages = {(name, version) for name, versions in asked.items() for version in versions}
        self.asked_node |= packages
        if self.manner is Manner.MIRROR:
            return {}
        return {
            name: [
                {
                    "id": 1000 + len(name),
                    "url": f"https://github.com/advisories/GHSA-{name}",
                    "title": f"{name} tells strangers everything",
                    "severity": "high",
                    "vulnerable_versions": f"<={version}",
                    "cwe": [],
                    "cvss": {"score": 7, "vectorString": None},
                }
            ]
            for name, version in packages & self.node_holes
        }


@contextmanager
def hole_database(manner: Manner) -> Iterator[HoleDatabase]:
    """Serve while the block runs."""
    database = HoleDatabase(manner)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            self._send(*database.answer(self.path, body))

        def do_GET(self) -> None:
            """No package is described here; npm then knows of no fixed version."""
            self._send(404, b'{"error": "not found"}')

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def handle(self) -> None:
            """End in peace when the client was ended."""
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    database.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, name="hole-database")
    thread.start()
    try:
        yield database
    finally:
        database.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
