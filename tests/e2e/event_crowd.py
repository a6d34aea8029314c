"""Many clients of the event stream on one thread; each may be cut off anywhere and comes back."""

from __future__ import annotations

import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from event_reader import BodyReader, Event, EventReader
from service_process import API, ServiceProcess, wait_for

_READ_BYTES = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


@dataclass(slots=True)
class Client:
    """One of the crowd.

    events: what it has made of the stream, over all its connections, snapshots apart.
    snapshots: the events in front of a snapshot, and how many statuses followed.
    lags_ms: from the moment of a transition until it was read here.
    refusals: statuses other than 200.
    """

    number: int
    reader: EventReader = field(default_factory=EventReader)
    body: BodyReader = field(default_factory=BodyReader)
    connection: socket.socket | None = None
    events: list[Event] = field(default_factory=list)
    snapshots: list[Event] = field(default_factory=list)
    lags_ms: list[float] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    connections: int = 0
    bytes_left: int = 0

    def ids(self, company_id: str) -> list[str]:
        """Return the notices heard of a company, in order."""
        return [event.data["notice_id"] for event in self.events if of(event) == company_id]

    def take(self, data: bytes, at: float) -> None:
        """Read what has come."""
        events = self.reader.feed(self.body.feed(data))
        if self.body.status not in (None, 200) and not self.refusals:
            self.refusals.append(self.body.status or 0)
        for event in events:
            if event.data.get("notice_id") is None:
                self.snapshots.append(event)
                continue
            self.events.append(event)
            happened = datetime.fromisoformat(event.data["timestamp"]).timestamp()
            self.lags_ms.append((at - happened) * 1000)


class Crowd:
    """Runs on a thread of its own, from `start` to `end`.

    cuts: whether clients are cut off, at random moments and at any byte.
    """

    def __init__(
        self, service: ServiceProcess, count: int, *, path: str = "", seed: int = 1
    ) -> None:
        self.clients = [Client(number) for number in range(count)]
        self.cuts = False
        self.ended: list[tuple[int, float]] = []
        self._service = service
        self._path = f"{API}/events{path}"
        self._dice = random.Random(seed)  # noqa: S311
        self._selector = selectors.DefaultSelector()
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)

    def start(self) -> Crowd:
        """Connect everybody and begin to read."""
        for client in self.clients:
            self._connect(client)
        self._thread.start()
        return self

    def end(self) -> None:
        """Stop reading and close everything; raises what went wrong on the thread."""
        self._over.set()
        self._thread.join()
        for client in self.clients:
            if client.connection is not None:
                client.connection.close()
        self._selector.close()
        if self._failure is not None:
            raise self._failure

    def await_all(
        self, what: str, wanted: Callable[[Client], bool], timeout_seconds: float = 60.0
    ) -> None:
        """Wait until every client is as wanted."""

        def reached() -> bool:
            return self._failure is not None or all(map(wanted, self.clients))

        met = wait_for(reached, timeout_seconds)
        if self._failure is not None:
            raise self._failure
        assert met, f"{what}: not for {[c.number for c in self.clients if not wanted(c)]}"

    def lags_ms(self) -> list[float]:
        """Return the lags of all clients, sorted."""
        return sorted(lag for client in self.clients for lag in client.lags_ms)

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                for key, _ in self._selector.select(0.1):
                    self._read(key.data)
        except (OSError, ValueError, KeyError, AssertionError) as error:  # shown by whoever waits
            self._failure = error

    def _read(self, client: Client) -> None:
        assert client.connection is not None
        try:
            data = client.connection.recv(_READ_BYTES)
        except ConnectionResetError:
            data = b""
        at = time.time()
        if not data:
            self.ended.append((client.number, time.monotonic()))
            self._hang_up(client)
            return
        if self.cuts and len(data) >= client.bytes_left:
            client.take(data[: client.bytes_left], at)
            self._hang_up(client)
            self._connect(client)
            return
        client.bytes_left -= len(data)
        client.take(data, at)

    def _hang_up(self, client: Client) -> None:
        assert client.connection is not None
        self._selector.unregister(client.connection)
        if self._dice.random() < 0.5:
            client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.connection.close()
        client.connection = None

    def _connect(self, client: Client) -> None:
        client.reader.start_again()
        client.body = BodyReader()
        client.bytes_left = self._dice.randrange(300, 6_000)
        client.connection = open_stream(self._service, self._path, client.reader.last_event_id)
        client.connections += 1
        self._selector.register(client.connection, selectors.EVENT_READ, client)


def of(event: Event) -> str:
    """Return the company of an event."""
    return str(event.data["company_id"])


def open_stream(
    service: ServiceProcess,
    path: str = f"{API}/events",
    last_event_id: str | None = None,
    *,
    receive_bytes: int | None = None,
) -> socket.socket:
    """Ask for a stream and read nothing.

    Args:
        receive_bytes: size of the kernel's buffer for what was not read yet.
    """
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", service.port))
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", f"X-API-Key: {service.api_key}"]
    if last_event_id is not None:
        lines.append(f"Last-Event-ID: {last_event_id}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def read_events(connection: socket.socket, reader: EventReader, body: BodyReader) -> list[Event]:
    """Read once; an empty answer may be a comment. Raises EOFError at the end of the stream."""
    data = connection.recv(_READ_BYTES)
    if not data:
        raise EOFError
    return reader.feed(body.feed(data))


@contextmanager
def crowd_on(service: ServiceProcess, count: int, path: str = "") -> Iterator[Crowd]:
    """Have a crowd listen while the block runs."""
    crowd = Crowd(service, count, path=path).start()
    try:
        yield crowd
    finally:
        crowd.end()


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many per cent of the sorted values do not exceed."""
    return values[min(len(values) - 1, int(len(values) * percent / 100))]
