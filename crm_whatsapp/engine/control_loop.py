"""One thread on which everything of the fleet is decided, so that nothing needs a lock."""

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable

import structlog

_log = structlog.get_logger(__name__)


class Timer:
    """A call that will be made unless it is cancelled first."""

    __slots__ = ("call", "cancelled")

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ControlLoop:
    """Runs posted calls in order and timed calls at their time."""

    def __init__(self, name: str) -> None:
        self._changed = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def post(self, call: Callable[[], None]) -> None:
        """Run `call` on the loop's thread, after all that was posted before."""
        with self._changed:
            self._calls.append(call)
            self._changed.notify()

    def call_in(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Run `call` on the loop's thread after so many seconds."""
        timer = Timer(call)
        with self._changed:
            due = time.monotonic() + seconds
            heapq.heappush(self._timers, (due, next(self._numbers), timer))
            self._changed.notify()
        return timer

    def end(self, timeout_seconds: float) -> None:
        """Finish what is posted, then end the thread."""

        def end() -> None:
            self._ended = True

        self.post(end)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._ended:
            call = self._next()
            try:
                call()
            except Exception:  # noqa: BLE001 - the fleet must outlive one bad step
                _log.exception("engine_control_step_failed")

    def _next(self) -> Callable[[], None]:
        with self._changed:
            while True:
                if self._calls:
                    return self._calls.popleft()
                if not self._timers:
                    self._changed.wait()
                    continue
                wait_seconds = self._timers[0][0] - time.monotonic()
                if wait_seconds <= 0:
                    timer = heapq.heappop(self._timers)[2]
                    if not timer.cancelled:
                        return timer.call
                    continue
                self._changed.wait(wait_seconds)
