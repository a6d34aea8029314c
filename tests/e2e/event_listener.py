"""Hears the event stream of a company, as a CRM does: reconnecting, from where it was."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from service_process import API, ServiceProcess

_SILENCE_SECONDS = 60.0

Event = dict[str, Any]


class _Refused(Exception):
    """The service answers, but not with a stream."""


class EventListener:
    """Collects events on a thread of its own until it is closed.

    A stream that ends is opened again at once. Where nobody listens, or the stream is refused, it
    is opened again when the test has seen the service up the next time.
    """

    def __init__(self, service: ServiceProcess, company_id: str) -> None:
        self._service = service
        self._path = f"{API}/events?company_id={company_id}"
        self._changed = threading.Condition()
        self._heard: list[Event] = []
        self._last_id: str | None = None
        self._opens = 0
        self._closed = False
        self._refusal: str | None = None
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="event-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; no thread is left behind."""
        with self._changed:
            self._closed = True
            if self._socket is not None:
                with suppress(OSError):  # the service was there first
                    self._socket.shutdown(socket.SHUT_RDWR)
        with self._service.readied:
            self._service.readied.notify_all()
        self._thread.join(_SILENCE_SECONDS)
        assert not self._thread.is_alive(), "the listener does not end"

    def heard(self, *names: str) -> list[Event]:
        """Return the data of the events of these names, in order, each with its `event_name`."""
        with self._changed:
            return [event for event in self._heard if event["event_name"] in names]

    def messages(self) -> list[Event]:
        """Return the messages heard so far."""
        return self.heard("message")

    def await_open(self, times: int = 1, timeout_seconds: float = 30.0) -> EventListener:
        """Wait until the stream has begun, for the first time or again."""
        with self._changed:
            opened = self._changed.wait_for(lambda: self._opens >= times, timeout_seconds)
            assert opened, f"no stream in {timeout_seconds} s: {self._refusal}"
        return self

    def await_count(self, count: int, *names: str, timeout_seconds: float = 60.0) -> list[Event]:
        """Wait until so many events of these names have been heard; return them."""

        def enough() -> bool:
            return len(self.heard(*names)) >= count

        with self._changed:
            self._changed.wait_for(enough, timeout_seconds)
        heard = self.heard(*names)
        assert len(heard) >= count, f"{len(heard)} of {count} {names} in {timeout_seconds} s"
        return heard

    def await_one(
        self, what: str, wanted: Callable[[Event], bool], timeout_seconds: float = 30.0
    ) -> Event:
        """Wait for an event that is as wanted."""

        def found() -> Event | None:
            return next((event for event in self._heard if wanted(event)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None, timeout_seconds)
            event = found()
            last = self._heard[-3:]
        assert event is not None, f"no {what} in {timeout_seconds} s; last: {last}"
        return event

    def _run(self) -> None:
        while not self._closed:
            ready_count = self._service.ready_count
            try:
                self._listen()
            except (ConnectionRefusedError, _Refused) as refusal:
                self._refusal = str(refusal)
                self._await_service(ready_count)
            except (OSError, HTTPException, ValueError) as broken:
                self._refusal = repr(broken)  # cut off: the next try tells whether it is there

    def _await_service(self, ready_count: int) -> None:
        """Wait until the service was seen up once more than then."""
        service = self._service
        with service.readied:
            service.readied.wait_for(lambda: self._closed or service.ready_count > ready_count)

    def _listen(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._service.port, timeout=_SILENCE_SECONDS)
        try:
            connection.connect()
            with self._changed:
                if self._closed:
                    return
                self._socket = connection.sock
            headers = {"X-API-Key": self._service.api_key}
            if self._last_id is not None:
                headers["Last-Event-ID"] = self._last_id
            connection.request("GET", self._path, headers=headers)
            with connection.getresponse() as response:
                self._hear(response)
        finally:
            with self._changed:
                self._socket = None
            connection.close()

    def _hear(self, response: HTTPResponse) -> None:
        if response.status != 200:
            raise _Refused(f"{response.status}: {response.read()[:300]!r}")
        with self._changed:
            self._opens += 1
            self._changed.notify_all()
        for event in self._events(response):
            with self._changed:
                self._heard.append(event)
                self._changed.notify_all()

    def _events(self, response: HTTPResponse) -> Iterator[Event]:
        name, data = "message", ""
        while line := response.readline():
            field, _, value = line.decode().rstrip("\n").partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "data":
                data = value
            elif field == "id":
                self._last_id = value
            elif not line.strip() and data:
                yield {**json.loads(data), "event_name": name}
                name, data = "message", ""


@contextmanager
def listening(service: ServiceProcess, company_id: str) -> Iterator[EventListener]:
    """Listen while the block runs; the stream is open when it begins."""
    listener = EventListener(service, company_id)
    try:
        yield listener.await_open()
    finally:
        listener.close()
