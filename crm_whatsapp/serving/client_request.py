"""A request as gunicorn parses it, whose body never surprises the app.

Source: gunicorn 27, http/message.py, http/body.py and http/parser.py.
"""

from collections.abc import Callable, Iterator
from typing import Any

from gunicorn.http.body import LengthReader  # type: ignore[import-untyped]
from gunicorn.http.errors import (  # type: ignore[import-untyped]
    LimitRequestHeaders,
    ParseException,
)
from gunicorn.http.message import Request  # type: ignore[import-untyped]
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]

from crm_whatsapp.serving.client_socket import ClientSocket, ClientTooSlow
from crm_whatsapp.web.errors import BodyBroken, BodyTooSlow

_MOST_READ_AT_END = 64 * 1024
_MOST_CHUNK_OVERHEAD_BYTES = 128 * 1024
"""Beside as many bytes as the body has. A byte in a chunk of its own costs six, and 5 us."""


class RequestBody:
    """What the app reads as `wsgi.input`.

    A body that ends early, is malformed or does not come is an error of the contract, never one
    of gunicorn's own, which the app would take for its own fault.
    """

    def __init__(self, body: Any, client: ClientSocket) -> None:
        self._body = body
        self._client = client
        reader = body.reader
        self._missing: int | None = reader.length if isinstance(reader, LengthReader) else None
        self._has_ended = self._missing == 0
        self._taken_bytes = 0
        self.failed = False

    def read(self, size: int | None = None) -> bytes:
        """Return so many bytes, fewer only at the end; everything by default.

        Raises:
            BodyTooSlow, BodyBroken.
        """
        return self._received(self._body.read, size)

    def readline(self, size: int | None = None) -> bytes:
        """Return the next line; raises as `read`."""
        return self._received(self._body.readline, size)

    def readlines(self, _hint: int | None = None) -> list[bytes]:
        """Return all lines; raises as `read`."""
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def is_over(self) -> bool:
        """Tell whether the next byte of the connection is that of another request.

        Reads what the app has left, if little, as far as it has arrived. More is never read:
        the answer will have said that the connection ends. Chunks are not worth it.
        """
        if self._missing is None and not self._has_ended:
            self.failed = True
        if not self._has_ended and not self.failed:
            with self._client.without_waiting():
                try:
                    self.read(_MOST_READ_AT_END)
                    self.failed = not self._has_ended and self.read(1) != b""
                except (BodyBroken, BodyTooSlow):
                    self.failed = True
        return self._has_ended and not self.failed

    def _received(self, call: Callable[[int | None], bytes], size: int | None) -> bytes:
        if size == 0:
            return b""
        try:
            data = call(size)
        except ClientTooSlow as exc:
            self.failed = True
            raise BodyTooSlow() from exc
        except (OSError, ParseException) as exc:
            self.failed = True
            raise BodyBroken() from exc
        if self._missing is None:
            self._take_chunks(data)
            return data
        self._missing -= len(data)
        if self._missing and not data:
            self.failed = True
            raise BodyBroken()
        self._has_ended = self._missing == 0
        return data

    def _take_chunks(self, data: bytes) -> None:
        self._has_ended = self._has_ended or not data
        self._taken_bytes += len(data)
        overhead = self._client.received_bytes - self._taken_bytes
        if overhead > self._taken_bytes + _MOST_CHUNK_OVERHEAD_BYTES:
            self.failed = True
            raise BodyBroken("The chunks of the request body are too small.")


class ClientRequest(Request):  # type: ignore[misc]
    """A request of a `ClientSocket`, whose head has arrived."""

    version: tuple[int, int]

    def parse(self, unreader: Any) -> Any:
        """Parse the head; one that is still incomplete is longer than any may be."""
        try:
            with unreader.sock.without_receiving():
                return super().parse(unreader)
        except BlockingIOError as exc:
            raise LimitRequestHeaders("the head is too long") from exc

    def parse_request_line(self, line_bytes: bytes) -> None:
        """Parse the line; called by gunicorn, which would answer in HTTP/1.9 to who speaks it."""
        super().parse_request_line(line_bytes)
        self.version = min(self.version, (1, 1))  # RFC 9110, 2.5

    def set_body_reader(self) -> None:
        """Decide where the body ends; called by gunicorn, last of all."""
        super().set_body_reader()
        self.body: RequestBody = RequestBody(self.body, self.unreader.sock)

    def should_close(self) -> bool:
        """Tell whether the connection ends with the answer; decides what its header says."""
        return bool(super().should_close()) or not self.body.is_over()


class ClientParser(RequestParser):  # type: ignore[misc]
    """The requests of one connection, one after another."""

    mesg_class = ClientRequest
