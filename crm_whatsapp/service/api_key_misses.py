"""When a key that is not known is worth a look into the database.

A stranger can make up as many well-formed keys as they like, so looks are counted, not keys: one at
a time, at most one in so many seconds, and half as often after each that found nothing.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from crm_whatsapp.domain.ports import Clock

_MOST_ABSENT = 1024
_MOST_WAITING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MissTerms:
    """How long things take.

    longest_seconds: looks are never further apart, and an absent key is remembered so long.
    first_seconds: a look comes at most this often.
    patience_seconds: a request waits so long for the look that it caused.
    """

    longest_seconds: float
    first_seconds: float
    patience_seconds: float = 2.0


class KeyMisses:
    """Decides about looks, and lets the requests that caused one wait for it. Thread-safe."""

    def __init__(self, clock: Clock, terms: MissTerms) -> None:
        self._clock = clock
        self._terms = terms
        self._changed = threading.Condition()
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._pause_seconds = terms.first_seconds
        self._asked_at: float | None = None
        self._is_asked = False
        self._waiting = 0
        self._begun = 0  # number of the look that began last
        self._done = 0  # number of the look that succeeded last
        self._over = 0  # number of the look that ended last, well or not

    def begin(self) -> int:
        """Note that the keys are being read from now on; return the number of this look."""
        with self._changed:
            self._begun += 1
            return self._begun

    def end(self, number: int, *, succeeded: bool, found_news: bool) -> None:
        """Note that a look is over."""
        with self._changed:
            self._over = max(self._over, number)
            if succeeded:
                self._done = max(self._done, number)
            if found_news:
                self._pause_seconds = self._terms.first_seconds
                self._absent.clear()
            self._is_asked = False
            self._changed.notify_all()

    def consult(self, key_id: str, ask: Callable[[], None]) -> bool:
        """Have the keys read if that is due, and wait for it; tell whether they were.

        Args:
            ask: starts a look; it need not wait for it.
        """
        with self._changed:
            now = self._clock.monotonic()
            if self._absent.get(key_id, now) > now or self._waiting >= _MOST_WAITING:
                return False
            before = self._begun
            joins = self._is_asked and now < (self._asked_at or 0) + self._terms.patience_seconds
            if not joins and not self._is_due(now):
                return False
            self._waiting += 1
        try:
            if joins:
                before -= 1  # the look that was asked for may have begun
            else:
                ask()
            with self._changed:
                patience = self._terms.patience_seconds
                self._changed.wait_for(lambda: self._over > before, patience)
                return self._done > before
        finally:
            with self._changed:
                self._waiting -= 1

    def note_absent(self, key_id: str) -> None:
        """Remember that there is no such key."""
        with self._changed:
            self._absent[key_id] = self._clock.monotonic() + self._terms.longest_seconds
            self._absent.move_to_end(key_id)
            while len(self._absent) > _MOST_ABSENT:
                self._absent.popitem(last=False)

    def _is_due(self, now: float) -> bool:
        """Take the next look if it may be taken now; how far apart they are, see the module."""
        longest = self._terms.longest_seconds
        since = longest if self._asked_at is None else now - self._asked_at
        if since >= longest:
            self._pause_seconds = self._terms.first_seconds
        elif since < self._pause_seconds:
            return False
        else:
            self._pause_seconds = min(self._pause_seconds * 2, longest)
        self._asked_at = now
        self._is_asked = True
        return True
