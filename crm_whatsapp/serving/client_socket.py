"""A connection whose client is waited for, within bounds.

gunicorn's threads block in `recv` and `sendall` for as long as a client likes. Here every wait
takes from an allowance, which bytes that move fill up again, and only so many threads may wait
at once.
"""

import contextlib
import errno
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTerms:
    """What clients are granted.

    head_seconds: from the first byte of a request, or from connecting, to the end of its head.
    patience_seconds: longest standstill within a body, or within an answer.
    bytes_per_second: a client that is slower uses up its patience.
    most_waited_for: so many threads may wait for clients; beyond, who is nearest to the end of
        its patience is dropped.
    """

    head_seconds: float = 10.0
    patience_seconds: float = 10.0
    bytes_per_second: float = 8192.0
    most_waited_for: int = 16


class ClientTooSlow(BrokenPipeError):
    """The client sends, or takes, less than it is granted time for."""

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the client is too slow")


class Allowance:
    """Seconds that may still be waited for a client in one direction."""

    def __init__(self, terms: ClientTerms) -> None:
        self._terms = terms
        self.left_seconds = terms.patience_seconds

    def earn(self, moved_bytes: int) -> None:
        """Grant more, for bytes that moved; never more than the patience."""
        earned = self.left_seconds + moved_bytes / self._terms.bytes_per_second
        self.left_seconds = min(self._terms.patience_seconds, earned)

    def spend(self, seconds: float) -> None:
        """Take off what was waited."""
        self.left_seconds -= seconds


class WaitingRoom:
    """The clients that threads are waiting for now."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._gives_up_at: dict[ClientSocket, float] = {}

    @contextlib.contextmanager
    def place(self, client: "ClientSocket", gives_up_at: float) -> Iterator[None]:
        """Hold a place; when there is none, who would have given up first loses his.

        Args:
            gives_up_at: on the monotonic clock.
        """
        with self._lock:
            self._gives_up_at[client] = gives_up_at
            if len(self._gives_up_at) > self._capacity:
                first = min(self._gives_up_at, key=self._gives_up_at.__getitem__)
                del self._gives_up_at[first]
                first.give_up()
        try:
            yield
        finally:
            with self._lock:
                self._gives_up_at.pop(client, None)


class ClientSocket(socket.socket):
    """An accepted socket. Waits only while a request is being served, see `begin_request`."""

    def __init__(self, accepted: socket.socket, terms: ClientTerms, room: WaitingRoom) -> None:
        """Take over an accepted socket, which is of no use afterwards."""
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self._terms = terms
        self._room = room
        self._waits = False
        self._receives = True
        self.received_bytes = 0
        self.is_given_up = False
        self._reading = self._writing = Allowance(terms)

    def begin_request(self) -> None:
        """Grant a new request its time."""
        self._reading, self._writing = Allowance(self._terms), Allowance(self._terms)
        self._waits = True
        self.received_bytes = 0

    def end_request(self) -> None:
        """Wait no more."""
        self._waits = False

    @contextlib.contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Raise BlockingIOError instead of waiting, within this context."""
        waits, self._waits = self._waits, False
        try:
            yield
        finally:
            self._waits = waits

    @contextlib.contextmanager
    def without_receiving(self) -> Iterator[None]:
        """Raise BlockingIOError instead of receiving, within this context."""
        self._receives = False
        try:
            yield
        finally:
            self._receives = True

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive what has arrived, or wait for something.

        Raises:
            ClientTooSlow: nothing came in time.
            BlockingIOError: nothing is there, and nobody is to wait for it.
        """
        if not self._receives:
            raise BlockingIOError(errno.EAGAIN, "nothing is to be received now")
        while True:
            try:
                data = super().recv(size, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._wait(select.POLLIN, self._reading)
                continue
            if self.is_given_up:
                raise ClientTooSlow()
            self._reading.earn(len(data))
            self.received_bytes += len(data)
            return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send everything, waiting until it is taken; raises as `recv`."""
        left = memoryview(data)
        while left:
            try:
                sent = super().send(left, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._wait(select.POLLOUT, self._writing)
                continue
            self._writing.earn(sent)
            left = left[sent:]

    def send(self, data: Any, flags: int = 0) -> int:
        """Send everything, as gunicorn expects of the few bytes that it sends this way."""
        self.sendall(data, flags)
        return len(data)

    def give_up(self) -> None:
        """Wake the thread that waits for this client; any thread may call this."""
        self.is_given_up = True
        with contextlib.suppress(OSError):  # it has gone by itself
            self.shutdown(socket.SHUT_RDWR)

    def _wait(self, event: int, allowance: Allowance) -> None:
        if not self._waits:
            raise BlockingIOError(errno.EAGAIN, "nothing has arrived")
        begun = time.monotonic()
        poll = select.poll()
        poll.register(self, event)
        with self._room.place(self, begun + allowance.left_seconds):
            found = poll.poll(max(0.0, allowance.left_seconds) * 1000)
        allowance.spend(time.monotonic() - begun)
        if event == select.POLLOUT and not found:
            self.is_given_up = True  # what it has not taken is not worth keeping
        if not found or self.is_given_up:
            raise ClientTooSlow()
