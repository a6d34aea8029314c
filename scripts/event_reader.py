"""Server-Sent Events from bytes: for the tests and the benchmarks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One event. id: the last event id as of this event, None before there was one."""

    name: str
    data: dict[str, Any]
    id: str | None


@dataclass(slots=True)
class EventReader:
    """Takes the body of a stream, cut anywhere; keeps what a client has to keep.

    last_event_id: to be sent as Last-Event-ID by whoever comes back.
    retry_ms: how long to wait before that.
    comments: what the lines that begin with a colon say.

    Source: WHATWG HTML, 9.2.6 "Interpreting an event stream".
    """

    last_event_id: str | None = None
    retry_ms: int | None = None
    comments: list[str] = field(default_factory=list)
    _rest: bytes = b""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that are complete now."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        events = []
        for block in blocks:
            event = self._read(block.decode())
            if event is not None:
                events.append(event)
        return events

    def start_again(self) -> None:
        """Forget the half event at the end of a stream that was cut off."""
        self._rest = b""

    def _read(self, block: str) -> Event | None:
        name, lines = "message", []
        for line in block.split("\n"):
            key, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match key:
                case "":
                    self.comments.append(value)
                case "event":
                    name = value
                case "data":
                    lines.append(value)
                case "id":
                    self.last_event_id = value
                case "retry":
                    self.retry_ms = int(value)
        return Event(name, json.loads("\n".join(lines)), self.last_event_id) if lines else None


class BodyReader:
    """Takes the bytes of an HTTP/1.1 answer, cut anywhere, and gives its body without chunking.

    Attributes:
        status: None until the head is complete.
        headers: lower-case names.
        is_complete: the body has ended as it should.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return what of the body came with these bytes."""
        self._rest += data
        if self.status is None and not self._read_head():
            return b""
        if self.headers.get("transfer-encoding") == "chunked":
            return b"".join(self._chunks())
        body, self._rest = self._rest, b""
        return body

    def _read_head(self) -> bool:
        head, found, rest = self._rest.partition(b"\r\n\r\n")
        if not found:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        self._rest = rest
        return True

    def _chunks(self) -> list[bytes]:
        chunks = []
        while not self.is_complete:
            size_text, found, rest = self._rest.partition(b"\r\n")
            size = int(size_text, 16) if found else 0
            if not found or len(rest) < size + 2:
                break
            self.is_complete = size == 0
            chunks.append(rest[:size])
            self._rest = rest[size + 2 :]
        return chunks
