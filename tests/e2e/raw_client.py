"""A client that sends any bytes at all, and reads answers more strictly than browsers do."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [\x20-\x7e]*")
_HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\x20-\x7e\t]*)")
_BODILESS = (204, 304)


class IllFormed(AssertionError):
    """What the server has sent is no sequence of HTTP answers."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One answer. headers: names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def error(self) -> dict[str, Any]:
        """Return the error of the contract that this is."""
        assert self.headers["content-type"] == "application/json", self
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert error["code"], self
        assert error["message"], self
        return error


def read_answers(data: bytes, *, of_head: bool = False) -> list[RawAnswer]:
    """Split what a server has sent into answers; every byte must belong to one.

    Args:
        of_head: they answer HEAD, so none has a body.
    Raises:
        IllFormed: it is anything else, or ends in the middle of one.
    """
    answers: list[RawAnswer] = []
    while data:
        head, blank_line, rest = data.partition(b"\r\n\r\n")
        status_line, *lines = head.split(b"\r\n")
        found = _STATUS_LINE.fullmatch(status_line)
        if not blank_line or found is None:
            raise IllFormed(f"not an answer: {data[:200]!r}")
        status = int(found[1])
        headers = _read_headers(lines)
        if of_head or status < 200 or status in _BODILESS:
            body, data = b"", rest
        elif headers.get("transfer-encoding") == "chunked":
            body, data = _read_chunks(rest)
        else:
            size = int(headers["content-length"])
            if len(rest) < size:
                raise IllFormed(f"{len(rest)} of {size} bytes of a body: {data[:300]!r}")
            body, data = rest[:size], rest[size:]
        answers.append(RawAnswer(status, headers, body))
    return answers


def _read_headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER_LINE.fullmatch(line)
        if found is None:
            raise IllFormed(f"not a header: {line[:200]!r}")
        name = found[1].decode().lower()
        if name in ("content-length", "transfer-encoding") and name in headers:
            raise IllFormed(f"twice: {name}")
        headers[name] = found[2].decode().strip()
    if "content-length" in headers and "transfer-encoding" in headers:
        raise IllFormed("both Content-Length and Transfer-Encoding")
    return headers


def _read_chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, ends, data = data.partition(b"\r\n")
        size = int(line, 16) if ends and re.fullmatch(rb"[0-9A-Fa-f]+", line) else -1
        if size < 0 or data[size : size + 2] != b"\r\n":
            raise IllFormed(f"not a chunk: {line[:100]!r}")
        body, data = body + data[:size], data[size + 2 :]
        if size == 0:
            return body, data


class RawConnection:
    """A connection to a port of 127.0.0.1."""

    def __init__(
        self, port: int, *, timeout_seconds: float = 30.0, receive_bytes: int | None = None
    ) -> None:
        """Connect.

        Args:
            receive_bytes: what the system takes for a client that does not read.
        """
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(timeout_seconds)
        self.socket.connect(("127.0.0.1", port))

    def send(self, data: bytes) -> bool:
        """Send; False when the server has gone."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def end_sending(self) -> None:
        """Say that nothing more comes."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def read_to_end(self, most_bytes: int = 64 * 1024 * 1024) -> bytes:
        """Return all that comes until the server closes; fails when it does not."""
        received = bytearray()
        try:
            while piece := self.socket.recv(65_536):
                received += piece
                assert len(received) <= most_bytes, "the server does not stop"
        except ConnectionResetError:
            pass
        return bytes(received)

    def read_answer(self) -> RawAnswer:
        """Return the next answer of a connection that goes on."""
        received = bytearray()
        while True:
            piece = self.socket.recv(65_536)
            assert piece, f"the server has closed after {bytes(received[:200])!r}"
            received += piece
            with contextlib.suppress(IllFormed):
                answers = read_answers(bytes(received))
                assert len(answers) == 1, answers
                return answers[0]

    def has_ended(self) -> bool:
        """Tell whether the server has closed; what it has sent before is thrown away."""
        self.socket.setblocking(False)
        try:
            while self.socket.recv(65_536):
                pass
        except BlockingIOError:
            return False
        except OSError:
            return True
        else:
            return True
        finally:
            self.socket.setblocking(True)
            self.socket.settimeout(30.0)

    def is_reset_within(self, timeout_seconds: float) -> bool:
        """Wait, without reading, until the server has thrown the connection away."""
        poll = select.poll()
        poll.register(self.socket, 0)  # errors are always told
        return bool(poll.poll(timeout_seconds * 1000))

    def abort(self) -> None:
        """Close with a reset, so that no port waits for the end of the connection."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@contextlib.contextmanager
def connections(port: int, count: int, **more: Any) -> Iterator[list[RawConnection]]:
    """Open so many connections, and close them in the end."""
    opened: list[RawConnection] = []
    try:
        for _ in range(count):
            opened.append(RawConnection(port, **more))
        yield opened
    finally:
        for connection in opened:
            connection.abort()


def exchange(
    port: int, *pieces: bytes, of_head: bool = False, timeout_seconds: float = 30.0
) -> list[RawAnswer]:
    """Send these pieces, say that nothing more comes, and return all answers."""
    connection = RawConnection(port, timeout_seconds=timeout_seconds)
    try:
        for piece in pieces:
            if not connection.send(piece):
                break
        connection.end_sending()
        return read_answers(connection.read_to_end(), of_head=of_head)
    finally:
        connection.abort()


def request(
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
) -> bytes:
    """Return a request that is as it should be."""
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")
