"""Carries the journal to Supabase: in batches, in order, each transition once."""

import threading
from collections.abc import Callable
from itertools import takewhile

import structlog
from tenacity import RetryCallState, wait_exponential_jitter

from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable
from crm_whatsapp.domain.ports import ConnectionStore, StateJournal
from crm_whatsapp.domain.transitions import (
    FORGOTTEN,
    Transition,
    TransitionOutcome,
    TransitionReceipt,
)

log = structlog.get_logger(__name__)

_BATCH = 200


class WriteBehind:
    """One thread that sends what is pending, and backs off while the database is away."""

    def __init__(
        self,
        *,
        journal: StateJournal,
        store: ConnectionStore,
        longest_wait_seconds: float,
        is_known: Callable[[str], bool],
    ) -> None:
        self._journal = journal
        self._store = store
        self._is_known = is_known
        self._wait = wait_exponential_jitter(initial=0.5, max=longest_wait_seconds, jitter=0.5)
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._stop_requested = threading.Event()
        self._failures = 0
        self._returned: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._loop, name="write-behind", daemon=True)
        self.problem: str | None = None
        self.sent = 0
        self.refused = 0

    def start(self) -> None:
        """Start the thread; what an earlier process left is sent first."""
        self._wake.set()
        self._thread.start()

    def notify(self) -> None:
        """Say that there may be something to send."""
        self._idle.clear()
        self._wake.set()

    def on_return(self, listener: Callable[[], None]) -> None:
        """Have it called after the database was away and answers again."""
        self._returned.append(listener)

    @property
    def is_reachable(self) -> bool:
        """Tell whether the last call succeeded."""
        return self.problem is None

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything pending is sent; False when it is not by then."""
        self.notify()
        return self._idle.wait(timeout_seconds)

    def stop(self, timeout_seconds: float) -> bool:
        """Send what is pending as far as time allows, then end. True when nothing is left."""
        flushed = self.flush(timeout_seconds) if self.is_reachable else False
        self._stop_requested.set()
        self._wake.set()
        self._thread.join(1.0)
        return flushed

    def _loop(self) -> None:
        while not self._stop_requested.is_set():
            self._wake.wait()
            self._wake.clear()
            while not self._stop_requested.is_set() and self._send_some():
                pass

    def _send_some(self) -> bool:
        """Send one batch; True when there may be more to do now."""
        try:
            batch = self._journal.pending(_BATCH)
            if not batch:
                self._idle.set()
                return False
            self._send(batch)
        except (StoreUnavailable, StoreRejected) as error:
            self._failed(error.message)
            return True
        except Exception:
            log.exception("sending transitions failed")
            self._failed("internal error, see the log")
            return True
        self._succeeded()
        return True

    def _send(self, batch: list[Transition]) -> None:
        """Send a batch. A forgotten company is removed after all that came before it."""
        if batch[0].event == FORGOTTEN:
            self._forget(batch[0])
            return
        ordinary = list(takewhile(lambda item: item.event != FORGOTTEN, batch))
        receipts = self._store.record_transitions(ordinary)
        self._report(receipts)
        self._journal.mark_sent([receipt.id for receipt in receipts])
        self.sent += len(receipts)

    def _forget(self, transition: Transition) -> None:
        connection = transition.connection
        self._store.forget_company(connection.company_id, connection.version)
        self._journal.mark_sent([transition.id])
        if not self._is_known(connection.company_id):
            self._journal.forget_company(connection.company_id)

    def _report(self, receipts: list[TransitionReceipt]) -> None:
        for receipt in receipts:
            if receipt.outcome is TransitionOutcome.INVALID:
                self.refused += 1
                log.error("the database refused a transition", id=receipt.id, error=receipt.error)

    def _failed(self, problem: str) -> None:
        self._failures += 1
        if self.problem is None:
            log.warning("the database is away; transitions wait on disk", detail=problem)
        self.problem = problem
        self._stop_requested.wait(self._seconds_to_wait())

    def _seconds_to_wait(self) -> float:
        state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
        state.attempt_number = self._failures
        return self._wait(state)

    def _succeeded(self) -> None:
        was_away = self.problem is not None
        self.problem = None
        self._failures = 0
        if was_away:
            log.info("the database answers again")
            for listener in self._returned:
                listener()
