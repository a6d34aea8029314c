"""How fast messages and receipts of one client may go to the supervisor, and when the last one has.

Whatever is on its way is lost when the engine is killed, so little is let out at a time. A client
that has to wait keeps neonize's callback waiting, then its channel of 100 events fills, then
whatsmeow stops reading messages, and WhatsApp keeps them until they are asked for again. Neither
heartbeats nor other clients notice.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class InboundFlow:
    """Counts what one client has sent and the service has not told yet.

    Args:
        most_events, most_characters: how much may be on its way. One event always may.
    """

    def __init__(self, *, most_events: int = 64, most_characters: int = 262_144) -> None:
        self._most_events = most_events
        self._most_characters = most_characters
        self._changed = threading.Condition()
        self._sizes: deque[int] = deque()
        self._characters = 0
        self._opened = False
        self._hearing = 0
        self._heard_at = float("-inf")

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Note that an event is being handled."""
        with self._changed:
            self._hearing += 1
        try:
            yield
        finally:
            with self._changed:
                self._hearing -= 1
                self._heard_at = time.monotonic()
                self._changed.notify_all()

    def admit(self, characters: int) -> None:
        """Wait until one more event of this size may go."""
        with self._changed:
            self._changed.wait_for(lambda: self._opened or self._has_room(characters))
            self._sizes.append(characters)
            self._characters += characters

    def taken(self, count: int) -> None:
        """Note that the service has told the oldest `count` events."""
        with self._changed:
            for _ in range(min(count, len(self._sizes))):
                self._characters -= self._sizes.popleft()
            self._changed.notify_all()

    def open(self) -> None:
        """Hold nothing back any more: the client stops."""
        with self._changed:
            self._opened = True
            self._changed.notify_all()

    def wait_quiet(self, quiet_seconds: float, limit_seconds: float) -> bool:
        """Wait until no event has been handled for so long; False when they still come."""
        asked_at = time.monotonic()
        with self._changed:
            while True:
                now = time.monotonic()
                if now - asked_at >= limit_seconds:
                    return False
                quiet_for = now - max(self._heard_at, asked_at)
                if not self._hearing and quiet_for >= quiet_seconds:
                    return True
                left = limit_seconds - (now - asked_at)
                pause = quiet_seconds if self._hearing else quiet_seconds - quiet_for
                self._changed.wait(min(left, pause))

    def _has_room(self, characters: int) -> bool:
        if not self._sizes:
            return True
        fits = self._characters + characters <= self._most_characters
        return fits and len(self._sizes) < self._most_events
