"""Hears the event stream of a company, as a CRM does: reconnecting, from where it was."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from service_process import API, ServiceProcess

_SILENCE_SECONDS = 60.0

Event = dict[str, Any]


class EventListener:
    """Collects events on a thread of its own until it is closed."""

    def __init__(self, service: ServiceProcess, company_id: str) -> None:
        self._service = service
        self._path = f"{API}/events?company_id={company_id}"
        self._changed = threading.Condition()
        self._heard: list[Event] = []
        self._last_id: str | None = None
        self._opened = False
        self._closed = False
        self._connection: HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, name="event-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._closed = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            connection.sock.close()

    def heard(self, *names: str) -> list[Event]:
        """Return the data of the events of these names, in order, each with its `event_name`."""
        with self._changed:
            return [event for event in self._heard if event["event_name"] in names]

    def messages(self) -> list[Event]:
        """Return the messages heard so far."""
        return self.heard("message")

    def await_open(self, timeout_seconds: float = 30.0) -> EventListener:
        """Wait until the stream has begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._opened, timeout_seconds), "no stream"
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
            try:
                self._listen()
            except (OSError, HTTPException, ValueError):
                if not self._closed:
                    time.sleep(0.1)  # the service restarts

    def _listen(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._service.port, timeout=_SILENCE_SECONDS)
        self._connection = connection
        try:
            headers = {"X-API-Key": self._service.api_key}
            if self._last_id is not None:
                headers["Last-Event-ID"] = self._last_id
            connection.request("GET", self._path, headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise HTTPException(f"{response.status}: {response.read()[:300]!r}")
            with self._changed:
                self._opened = True
                self._changed.notify_all()
            for event in self._events(response):
                with self._changed:
                    self._heard.append(event)
                    self._changed.notify_all()
        finally:
            connection.close()

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
