"""Mailboxes: each company's messages are handled one after another, companies in parallel."""

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

import structlog

log = structlog.get_logger(__name__)

Message = Callable[[], None]


class Mailbox:
    """The messages of one company, in order."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._lock = threading.Lock()
        self._messages: deque[Message] = deque()
        self._scheduled = False

    def put(self, message: Message) -> bool:
        """Add a message; True when the mailbox must be handed to a worker now."""
        with self._lock:
            self._messages.append(message)
            if self._scheduled:
                return False
            self._scheduled = True
            return True

    def take(self) -> Message | None:
        """Return the next message; None means that the mailbox went idle."""
        with self._lock:
            if self._messages:
                return self._messages.popleft()
            self._scheduled = False
            return None


class Mailroom:
    """A few threads that empty the mailboxes which have something in them."""

    _MOST_IN_A_ROW = 16

    def __init__(self, threads: int = 4) -> None:
        self._waiting: SimpleQueue[Mailbox | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"mailroom-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Handle what was posted so far, then end the threads; not for longer than the time."""
        give_up_at = time.monotonic() + timeout_seconds
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, give_up_at - time.monotonic()))
        # A mailbox that had its turn, or was posted to meanwhile, waits behind the end marks.
        while not self._waiting.empty() and time.monotonic() < give_up_at:
            mailbox = self._waiting.get()
            while mailbox is not None and (message := mailbox.take()) is not None:
                self._handle(mailbox, message)

    def post(self, mailbox: Mailbox, message: Message) -> None:
        """Have the message handled after everything posted to this mailbox before."""
        if mailbox.put(message):
            self._waiting.put(mailbox)

    def _work(self) -> None:
        while (mailbox := self._waiting.get()) is not None:
            for _ in range(self._MOST_IN_A_ROW):
                message = mailbox.take()
                if message is None:
                    break
                self._handle(mailbox, message)
            else:
                self._waiting.put(mailbox)

    @staticmethod
    def _handle(mailbox: Mailbox, message: Message) -> None:
        try:
            with structlog.contextvars.bound_contextvars(company_id=mailbox.owner):
                message()
        except Exception:  # the other companies must go on
            log.exception("a message could not be handled", company_id=mailbox.owner)
