"""Calls on clients: each on a thread of its own, with a deadline that does not depend on it."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

from crm_whatsapp.engine.alarm import Alarm
from crm_whatsapp.engine.start_gate import StartGate

T = TypeVar("T")


class CallTimedOut(Exception):
    """The call got no answer in time."""


class TooManyCalls(Exception):
    """Too many earlier calls have not come back."""


class Outcome(Generic[T]):
    """The first of answer, error and deadline; what comes later is dropped."""

    def __init__(self, done: Callable[[T | Exception], None]) -> None:
        self._lock = threading.Lock()
        self._open = True
        self._done = done

    def settle(self, result: T | Exception) -> bool:
        """Pass the result on if it is the first; say whether it was."""
        with self._lock:
            was_open, self._open = self._open, False
        if was_open:
            self._done(result)
        return was_open


class CallDesk:
    """Makes calls through the gate and counts those that have not come back."""

    def __init__(self, *, gate: StartGate, alarm: Alarm, per_client: int, per_engine: int) -> None:
        self._gate = gate
        self._alarm = alarm
        self._per_client = per_client
        self._per_engine = per_engine
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._hanging = 0

    def call(
        self,
        company_id: str,
        function: Callable[[], T],
        *,
        timeout_seconds: float,
        done: Callable[[T | Exception], None],
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Run `function` on its own thread; `done` gets its result, or an exception, once.

        `prepare` is run first, outside the gate: what takes time before the call into Go begins.
        The exception is CallFailed, CallTimedOut, TooManyCalls or what the function raised.
        """
        if not self._take(company_id):
            done(TooManyCalls("Too many earlier calls were not answered."))
            return
        outcome = Outcome(done)
        self._alarm.ring_in(timeout_seconds, lambda: self._time_is_up(outcome, timeout_seconds))
        threading.Thread(
            target=self._run,
            args=(company_id, function, outcome, prepare),
            name="call",
            daemon=True,
        ).start()

    def _run(
        self,
        company_id: str,
        function: Callable[[], T],
        outcome: Outcome[T],
        prepare: Callable[[], None] | None,
    ) -> None:
        result: T | Exception
        try:
            if prepare is not None:
                prepare()
            result = self._through_gate(function)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller is told
            result = exc
        finally:
            self._give_back(company_id)
        if not outcome.settle(result):
            self._count_hanging(-1)

    @property
    def hanging(self) -> int:
        """How many calls have had their time and have not come back."""
        return self._hanging

    def _time_is_up(self, outcome: Outcome[T], timeout_seconds: float) -> None:
        if outcome.settle(CallTimedOut(f"No answer in {timeout_seconds:g} s.")):
            self._count_hanging(1)

    def _count_hanging(self, change: int) -> None:
        with self._lock:
            self._hanging += change

    def _through_gate(self, function: Callable[[], T]) -> T:
        turn = self._gate.enter_read()
        try:
            turn.begin()
            return function()
        finally:
            turn.release()

    def _take(self, company_id: str) -> bool:
        with self._lock:
            if self._open[company_id] >= self._per_client or self._open.total() >= self._per_engine:
                return False
            self._open[company_id] += 1
            return True

    def _give_back(self, company_id: str) -> None:
        with self._lock:
            self._open[company_id] -= 1
            if not self._open[company_id]:
                del self._open[company_id]
