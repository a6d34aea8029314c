"""The start gate: what keeps neonize's unlocked maps from being written and read at once.

neonize 0.5.2 keeps its clients in Go maps without a lock (goneonize/main.go: clients, eventChannel,
StopSignal). Starts and stops write them, every call on a client reads them, and Go ends the
process when it sees both at once. So a start or a stop takes the write side of one lock, a call
the read side, and each only for as long as it may touch the maps.
"""

import threading
from collections.abc import Callable

from crm_whatsapp.engine.alarm import Alarm


class ReadersWriterLock:
    """Many readers or one writer; either side may be released by another thread.

    A waiting writer holds back new readers. When a writer leaves, the readers that wait then go
    before the next writer, so neither side starves.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._writing = False
        self._writers_waiting = 0
        self._readers_waiting = 0
        self._readers_admitted = 0
        self._phase = 0

    def acquire_read(self) -> None:
        with self._changed:
            if not self._writing and not self._writers_waiting:
                self._readers += 1
                return
            phase = self._phase
            self._readers_waiting += 1
            self._changed.wait_for(lambda: self._may_read(phase))
            self._readers_waiting -= 1
            if phase < self._phase and self._readers_admitted:
                self._readers_admitted -= 1
            self._readers += 1
            self._changed.notify_all()

    def release_read(self) -> None:
        with self._changed:
            self._readers -= 1
            self._changed.notify_all()

    def acquire_write(self) -> None:
        with self._changed:
            self._writers_waiting += 1
            self._changed.wait_for(self._may_write)
            self._writers_waiting -= 1
            self._writing = True

    def release_write(self) -> None:
        with self._changed:
            self._writing = False
            self._phase += 1
            self._readers_admitted = self._readers_waiting
            self._changed.notify_all()

    def _may_read(self, phase: int) -> bool:
        if self._writing:
            return False
        return phase < self._phase or not self._writers_waiting

    def _may_write(self) -> bool:
        return not self._writing and not self._readers and not self._readers_admitted


class Turn:
    """One hold of the lock; released once, by whoever comes first."""

    def __init__(self, release: Callable[[], None], start_clock: Callable[[], None]) -> None:
        self._release = release
        self._start_clock = start_clock
        self._lock = threading.Lock()
        self._held = True

    def begin(self) -> None:
        """Start the clock of the hold; to be called right before the call into Go."""
        self._start_clock()

    def release(self) -> None:
        with self._lock:
            held, self._held = self._held, False
        if held:
            self._release()


class DialSlot:
    """The right to dial; given back once."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._lock = threading.Lock()
        self._held = True

    def release(self) -> None:
        with self._lock:
            held, self._held = self._held, False
        if held:
            self._give_back()


class DialSlots:
    """How many clients may dial at once; the limit can change while they do."""

    def __init__(self, limit: int) -> None:
        self._changed = threading.Condition()
        self._limit = limit
        self._taken = 0

    def acquire(self) -> DialSlot:
        with self._changed:
            self._changed.wait_for(lambda: self._taken < self._limit)
            self._taken += 1
        return DialSlot(self._give_back)

    def set_limit(self, limit: int) -> None:
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def _give_back(self) -> None:
        with self._changed:
            self._taken -= 1
            self._changed.notify_all()


class StartGate:
    """The lock with its time limits.

    Args:
        start_max_seconds: a start or stop keeps the write side no longer than this. The map
            writes are done about 6 ms after the call (measured).
        entry_max_seconds: a call keeps the read side no longer than this: it looks at the maps
            first and may then hang for a minute.
    """

    def __init__(
        self, *, alarm: Alarm, start_max_seconds: float, entry_max_seconds: float, dials: int
    ) -> None:
        self._alarm = alarm
        self._start_max_seconds = start_max_seconds
        self._entry_max_seconds = entry_max_seconds
        self._lock = ReadersWriterLock()
        self.dials = DialSlots(dials)

    def enter_write(self) -> Turn:
        """Wait for the write side; it is lost `start_max_seconds` after `Turn.begin`."""
        self._lock.acquire_write()
        return self._turn(self._lock.release_write, self._start_max_seconds)

    def enter_read(self) -> Turn:
        """Wait for the read side; it is lost `entry_max_seconds` after `Turn.begin`."""
        self._lock.acquire_read()
        return self._turn(self._lock.release_read, self._entry_max_seconds)

    def _turn(self, release: Callable[[], None], seconds: float) -> Turn:
        turn = Turn(release, lambda: self._alarm.ring_in(seconds, turn.release))
        return turn
