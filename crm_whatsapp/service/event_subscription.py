"""One client of the event stream: what waits for it, and the signal that something does."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """Who listens, and to what.

    principal_id: counts the streams of one caller.
    companies: those that are told of; None is all of them.
    codes_of: those whose QR and pairing codes are told as well; None is all of them.
    is_limited: is bound to a few streams, so that it leaves some for others.
    """

    principal_id: str
    companies: frozenset[str] | None = None
    codes_of: frozenset[str] | None = frozenset()
    is_limited: bool = False

    @property
    def only_company(self) -> str | None:
        """Return the company, when it is a single one."""
        return next(iter(self.companies)) if self.companies and len(self.companies) == 1 else None

    def hears_of(self, company_id: str) -> bool:
        """Tell whether what happens in the company is told."""
        return self.companies is None or company_id in self.companies

    def sees_codes_of(self, company_id: str) -> bool:
        """Tell whether its codes are."""
        return self.codes_of is None or company_id in self.codes_of


class StreamEnd(StrEnum):
    """Why the service ends a stream."""

    TOO_SLOW = "too-slow"  # the client reads more slowly than things happen
    STOPPING = "stopping"  # the service stops


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was waiting.

    blocks: to be sent in this order.
    position: once they are sent, nothing up to this event id is missing.
    end: nothing comes after the blocks.
    """

    blocks: list[bytes]
    position: str
    end: StreamEnd | None


class Subscription:
    """Filled by the stream, emptied by the one thread that serves the client.

    Its descriptor is readable while something waits, so that the thread can wait for this and for
    its socket at the same time. It holds two descriptors until it is closed.
    """

    def __init__(
        self,
        audience: Audience,
        *,
        lock: threading.Lock,
        backlog: Iterable[bytes],
        most_waiting: int,
        position: Callable[[], str],
        leave: Callable[["Subscription"], None],
    ) -> None:
        """Begin with the backlog waiting.

        Args:
            lock: the stream's; guards everything here.
            most_waiting: so many events may wait beside the backlog.
            position: returns the id of the newest event, called with the lock held.
            leave: takes the subscription from the stream, called with the lock held.
        """
        self.audience = audience
        self._lock = lock
        self._waiting = deque(backlog)
        self._most_waiting = most_waiting + len(self._waiting)
        self._position = position
        self._leave = leave
        self._end: StreamEnd | None = None
        self._is_closed = False
        self._is_signalled = False
        self._read_end, self._write_end = os.pipe()
        if self._waiting:
            self._signal()

    # --- the thread that serves the client ------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._read_end

    def put_first(self, blocks: Iterable[bytes]) -> None:
        """Have these sent before everything that waits; to be called before the first `take`."""
        with self._lock:
            before = len(self._waiting)
            self._waiting.extendleft(reversed(list(blocks)))
            self._most_waiting += len(self._waiting) - before
            self._signal()

    def take(self) -> Taken:
        """Return what waits, and reset the signal."""
        with self._lock:
            self._reset_signal()
            blocks = list(self._waiting)
            self._waiting.clear()
            return Taken(blocks=blocks, position=self._position(), end=self._end)

    def has_ended(self) -> bool:
        """Tell whether the stream is to be ended now, and reset the signal: `take` is next."""
        with self._lock:
            self._reset_signal()
            return self._end is not None

    def close(self) -> None:
        """Leave the stream; nothing happens the second time."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._leave(self)
            self._waiting.clear()
            os.close(self._read_end)
            os.close(self._write_end)

    # --- the stream, with the lock held ---------------------------------------------------------

    def offer(self, block: bytes) -> bool:
        """Add an event; False when too many wait already: then nothing is added any more."""
        if self._end is not None:
            return True
        if len(self._waiting) >= self._most_waiting:
            self.end(StreamEnd.TOO_SLOW)
            return False
        self._waiting.append(block)
        self._signal()
        return True

    def end(self, why: StreamEnd) -> None:
        """Have the stream ended."""
        self._end = self._end or why
        self._signal()

    def _signal(self) -> None:
        if not self._is_signalled and not self._is_closed:
            self._is_signalled = True
            os.write(self._write_end, b"\0")

    def _reset_signal(self) -> None:
        if self._is_signalled and not self._is_closed:
            self._is_signalled = False
            os.read(self._read_end, 1)
