"""Carries the journal to Supabase: in batches, in order, each transition once."""

import threading
from collections.abc import Callable, Sequence
from itertools import takewhile

import structlog
from tenacity import RetryCallState, wait_exponential_jitter

from crm_whatsapp.domain.errors import (
    CrmWhatsappError,
    StorageError,
    StoreRejected,
    StoreUnavailable,
)
from crm_whatsapp.domain.ports import ConnectionStore, StateJournal
from crm_whatsapp.domain.transitions import (
    FORGOTTEN,
    Transition,
    TransitionOutcome,
    TransitionReceipt,
)

log = structlog.get_logger(__name__)

_BATCH = 200
_MOST_PROBES = 8

StaleListener = Callable[[Transition, int], None]


class WriteBehind:
    """One thread that sends what is pending, and backs off while the database is away."""

    def __init__(
        self,
        *,
        journal: StateJournal,
        store: ConnectionStore,
        longest_wait_seconds: float,
        held_count: Callable[[], int],
    ) -> None:
        """Wire it.

        Args:
            held_count: how many changes the disk has refused so far; they are not in the journal.
        """
        self._journal = journal
        self._store = store
        self._held_count = held_count
        self._wait = wait_exponential_jitter(multiplier=0.5, max=longest_wait_seconds, jitter=0.5)
        self._changed = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._stop_requested = threading.Event()
        self._failures = 0
        self._returned: list[Callable[[], None]] = []
        self._stale_listeners: list[StaleListener] = []
        self._thread = threading.Thread(target=self._loop, name="write-behind", daemon=True)
        self.problem: str | None = None
        self.sent = 0
        self.refused = 0

    def start(self) -> None:
        """Start the thread; what an earlier process left is sent first."""
        self.notify()
        self._thread.start()

    def notify(self) -> int:
        """Say that there may be something to send; return the number of this request."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._asked

    def on_return(self, listener: Callable[[], None]) -> None:
        """Have it called after the database was away and answers again."""
        self._returned.append(listener)

    def on_stale(self, listener: StaleListener) -> None:
        """Have transitions passed on whose row is newer, with the version of the row."""
        self._stale_listeners.append(listener)

    @property
    def is_reachable(self) -> bool:
        """Tell whether the last call succeeded."""
        return self.problem is None

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything recorded before this call is sent; False when it is not."""
        mine = self.notify()
        with self._changed:
            sent = self._changed.wait_for(lambda: self._answered >= mine, timeout_seconds)
        return sent and self._held_count() == 0

    def stop(self, timeout_seconds: float) -> bool:
        """Send what is pending as far as time allows, then end. True when nothing is left.

        Args:
            timeout_seconds: for both together.
        """
        mine = self.notify()
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._answered >= mine
                    or self.problem is not None
                    or not self._thread.is_alive()
                ),
                timeout_seconds * 0.8,
            )
        self._stop_requested.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds * 0.2)
        return self._is_empty()

    def _is_empty(self) -> bool:
        try:
            return self._journal.pending_count() == 0 and self._held_count() == 0
        except StorageError:
            return False

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stop_requested.is_set() or self._asked > self._answered
                )
            if self._stop_requested.is_set():
                return
            self._send_some()

    def _send_some(self) -> None:
        """Send one batch, or find that there is nothing to send."""
        with self._changed:
            asked = self._asked  # before the look: what is recorded after it asks again
        try:
            batch = self._journal.pending(_BATCH)
            if batch:
                self._send(batch)
        except CrmWhatsappError as error:
            self._failed(error.message)
            return
        except Exception as error:
            if not self._stop_requested.is_set():
                log.exception("sending transitions failed")
            self._failed(f"internal error: {type(error).__name__}, see the log")
            return
        if batch:
            self._succeeded()
            return
        with self._changed:
            self._answered = asked
            self._changed.notify_all()

    def _send(self, batch: list[Transition]) -> None:
        """Send a batch. A forgotten company is removed after all that came before it.

        The journal keeps no state of it since that was recorded; what it holds by now belongs to
        a company that was connected anew.
        """
        if batch[0].event == FORGOTTEN:
            connection = batch[0].connection
            self._store.forget_company(connection.company_id, connection.version)
            self._journal.mark_sent([batch[0].id])
            return
        ordinary = list(takewhile(lambda item: item.event != FORGOTTEN, batch))
        try:
            self._record(ordinary)
        except StoreRejected as error:
            if not self._accepts_any(ordinary):
                raise
            self._send_singly(ordinary, error)

    def _record(self, transitions: Sequence[Transition]) -> None:
        by_id = {transition.id: transition for transition in transitions}
        receipts = [
            receipt
            for receipt in self._store.record_transitions(transitions)
            if receipt.id in by_id
        ]
        if not receipts:
            raise StoreUnavailable("The database answered without receipts.")
        for receipt in receipts:
            self._take(by_id[receipt.id], receipt)
        self._journal.mark_sent([receipt.id for receipt in receipts])

    def _take(self, transition: Transition, receipt: TransitionReceipt) -> None:
        if receipt.outcome is TransitionOutcome.INVALID:
            self._note_refusal(transition, receipt.error or "no reason given")
            return
        self.sent += 1
        if receipt.outcome is TransitionOutcome.STALE:
            for listener in self._stale_listeners:
                listener(transition, receipt.row_version)

    def _accepts_any(self, transitions: list[Transition]) -> bool:
        """Tell, for a batch that was refused as a whole, whether anything is accepted at all.

        Permissions and migrations refuse everything, and nothing may be lost by that. One
        transition with a content that the database or its gateway refuses must not hold up the
        others: a few, of different companies, are tried alone.
        """
        firsts = {item.connection.company_id: item for item in reversed(transitions)}
        probes = [*firsts.values()][: _MOST_PROBES - 1]
        if transitions[-1] not in probes:
            probes.append(transitions[-1])
        for probe in probes if len(transitions) > 1 else []:
            try:
                self._record([probe])
            except StoreRejected:
                continue
            return True
        return False

    def _send_singly(self, transitions: list[Transition], error: StoreRejected) -> None:
        """Send each by itself, now that the database is known to accept some."""
        log.error("a batch was refused; its transitions are sent singly", detail=error.message)
        pending = {item.id for item in self._journal.pending(len(transitions))}
        for transition in transitions:
            if transition.id not in pending:
                continue
            try:
                self._record([transition])
            except StoreRejected as refusal:
                self._note_refusal(transition, refusal.message)
                self._journal.mark_sent([transition.id])

    def _note_refusal(self, transition: Transition, error: str) -> None:
        self.refused += 1
        log.error(
            "the database refused a transition for good",
            company_id=transition.connection.company_id,
            id=transition.id,
            status=transition.connection.status.value,
            reason=transition.connection.reason.value,
            detail=error,
        )

    def _failed(self, problem: str) -> None:
        self._failures += 1
        if self.problem is None and not self._stop_requested.is_set():
            log.warning("transitions cannot be sent and wait on disk", detail=problem)
        with self._changed:
            self.problem = problem
            self._changed.notify_all()
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
                try:
                    listener()
                except Exception:  # the journal has to be carried on
                    log.exception("a listener to the database's return failed")
