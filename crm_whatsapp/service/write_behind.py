"""Carries the journal to Supabase: in batches, in order, each entry once."""

import threading
import time
from collections.abc import Callable

import structlog
from tenacity import RetryCallState, wait_exponential_jitter

from crm_whatsapp.domain.errors import (
    CrmWhatsappError,
    StorageError,
    StoreRejected,
    StoreUnavailable,
)
from crm_whatsapp.domain.ports import ConnectionStore, StateJournal
from crm_whatsapp.service.backlog_sender import (
    BacklogSender,
    NoticeQueue,
    NoticesNotTaken,
    StaleListener,
)

log = structlog.get_logger(__name__)

_BATCH = 200
_SMALLEST_BATCH = 5
_STRIKES = 3


class WriteBehind:
    """One thread that sends what is pending, and backs off while the database is away.

    Attributes:
        problem: why transitions cannot be sent, for people; None when they can.
        notice_problem: the same for notices. It holds up no transition.
    """

    def __init__(
        self,
        *,
        journal: StateJournal,
        store: ConnectionStore,
        longest_wait_seconds: float,
        held_count: Callable[[], int],
        notices: NoticeQueue | None = None,
    ) -> None:
        """Wire it.

        Args:
            held_count: how many changes the disk has refused so far; they are not in the journal.
            notices: where notices go; without it they are given up.
        """
        self._journal = journal
        self._store = store
        self._sender = BacklogSender(journal, store, notices)
        self._held_count = held_count
        self._wait = wait_exponential_jitter(multiplier=0.5, max=longest_wait_seconds, jitter=0.5)
        self._changed = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._stop_requested = threading.Event()
        self._failures = 0
        self._timeouts = 0
        self._notice_failures = 0
        self._notice_strikes = 0
        self._notices_wait_until = float("-inf")
        self._returned: list[Callable[[], None]] = []
        self._sent_listeners: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._loop, name="write-behind", daemon=True)
        self.problem: str | None = None
        self.notice_problem: str | None = None

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

    def on_sent(self, listener: Callable[[], None]) -> None:
        """Have it called after the database has taken something: deliveries may be due."""
        self._sent_listeners.append(listener)

    def on_stale(self, listener: StaleListener) -> None:
        """Have transitions passed on whose row is newer, with what the database said."""
        self._sender.on_stale(listener)

    @property
    def sent(self) -> int:
        """How many transitions the database has taken since start."""
        return self._sender.sent

    @property
    def sent_notices(self) -> int:
        """How many notices it has taken since start."""
        return self._sender.sent_notices

    @property
    def refused(self) -> int:
        """How many entries it has refused for good since start."""
        return self._sender.refused

    @property
    def is_reachable(self) -> bool:
        """Tell whether the database has taken what it was sent last."""
        return self.problem is None

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until every transition recorded before this call is sent; False when it is not."""
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
                while not self._has_work():
                    self._changed.wait(self._seconds_to_notices())
            if self._stop_requested.is_set():
                return
            self._send_pending()

    def _has_work(self) -> bool:
        return (
            self._stop_requested.is_set()
            or self._asked > self._answered
            or (self.notice_problem is not None and self._notices_are_due())
        )

    def _send_pending(self) -> None:
        """Send what is pending now; what is recorded meanwhile is asked for by itself."""
        with self._changed:
            asked = self._asked  # before the count: what is recorded after it asks again
        notices = self._notices_are_due()
        try:
            due = self._journal.pending_count(notices=notices)
            while due > 0 and not self._stop_requested.is_set():
                due -= self._send_batch(notices=notices) or due
        except NoticesNotTaken as error:
            if self._concerns_notices_alone(error.cause):
                self._put_notices_off(error.cause.message)
            else:
                self._timeouts += 1
                self._failed(error.cause.message)
            return
        except CrmWhatsappError as error:
            self._timeouts += isinstance(error, StoreUnavailable)
            self._failed(error.message)
            return
        except Exception as error:
            if not self._stop_requested.is_set():
                log.exception("sending what the journal holds failed")
            self._failed(f"internal error: {type(error).__name__}, see the log")
            return
        if due > 0:
            return
        if notices:
            self._notice_failures, self._notice_strikes, self.notice_problem = 0, 0, None
        with self._changed:
            self._answered = asked
            self._changed.notify_all()

    def _send_batch(self, *, notices: bool) -> int:
        """Send the oldest entries; return how many they were.

        After answers that did not come they are fewer: a database that is too slow for many at
        once takes some.
        """
        limit = max(_SMALLEST_BATCH, _BATCH >> min(self._timeouts, 16))
        batch = self._journal.pending(limit, notices=notices)
        if not batch:
            return 0
        before = self._sender.sent, self._sender.sent_notices
        try:
            self._sender.send(batch)
        finally:
            if (self._sender.sent, self._sender.sent_notices) != before:
                self._tell(self._sent_listeners)
        self._succeeded()
        return len(batch)

    def _notices_are_due(self) -> bool:
        return time.monotonic() >= self._notices_wait_until

    def _seconds_to_notices(self) -> float | None:
        """Return how long to wait for them; None when nothing is put off."""
        if self.notice_problem is None:
            return None
        return max(0.0, self._notices_wait_until - time.monotonic())

    def _concerns_notices_alone(self, error: CrmWhatsappError) -> bool:
        """Tell whether the database is there, and only notices are not taken, time and again.

        While it is away everything waits, so that nothing of a company overtakes the rest.
        """
        if isinstance(error, StoreRejected):
            return True
        try:
            self._store.schema_version()
        except CrmWhatsappError:
            self._notice_strikes = 0
            return False
        self._notice_strikes += 1
        return self._notice_strikes >= _STRIKES

    def _put_notices_off(self, problem: str) -> None:
        """Let transitions go on alone for a while: rows must not wait for webhooks."""
        if self.notice_problem is None:
            log.warning("notices cannot be queued and wait on disk", detail=problem)
        self._notice_failures += 1
        self.notice_problem = problem
        self._notices_wait_until = time.monotonic() + self._pause(self._notice_failures)

    def _failed(self, problem: str) -> None:
        self._failures += 1
        if self.problem is None and not self._stop_requested.is_set():
            log.warning("transitions cannot be sent and wait on disk", detail=problem)
        with self._changed:
            self.problem = problem
            self._changed.notify_all()
        self._stop_requested.wait(self._pause(self._failures))

    def _pause(self, failures: int) -> float:
        """Return how many seconds to wait after so many failures in a row."""
        state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
        state.attempt_number = failures
        return self._wait(state)

    def _succeeded(self) -> None:
        was_away = self.problem is not None
        self.problem = None
        self._failures = self._timeouts = 0
        if was_away:
            log.info("the database answers again")
            self._notices_wait_until = float("-inf")
            self._tell(self._returned)

    @staticmethod
    def _tell(listeners: list[Callable[[], None]]) -> None:
        for listener in listeners:
            try:
                listener()
            except Exception:  # the journal has to be carried on
                log.exception("a listener to the write-behind failed")
