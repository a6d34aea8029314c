"""One thread that calls functions at their time."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Alarm:
    """Rings at deadlines. What it calls must return at once."""

    def __init__(self, name: str) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ring_in(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` once, `seconds` from now."""
        entry = (time.monotonic() + seconds, next(self._numbers), call)
        with self._changed:
            heapq.heappush(self._due, entry)
            if self._due[0] is entry:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            call = self._next()
            try:
                call()
            except Exception:  # noqa: BLE001 - one deadline must not cost the others theirs
                _log.exception("a deadline failed")

    def _next(self) -> Callable[[], None]:
        with self._changed:
            while True:
                if not self._due:
                    self._changed.wait()
                    continue
                wait_seconds = self._due[0][0] - time.monotonic()
                if wait_seconds <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait_seconds)
