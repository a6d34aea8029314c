"""Recording of transitions: first on disk, then to whoever listens."""

import threading
import uuid
from collections import deque
from collections.abc import Callable
from datetime import datetime

import structlog

from crm_whatsapp.domain.connection import Connection, Status
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.ports import StateJournal
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition

log = structlog.get_logger(__name__)

TransitionListener = Callable[[Transition], None]


class Recorder:
    """Appends to the journal. A full disk delays the record, it never stops a session."""

    def __init__(self, journal: StateJournal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._held: deque[Transition] = deque(maxlen=10_000)
        self._listeners: list[TransitionListener] = []

    def listen(self, listener: TransitionListener) -> None:
        """Have every recorded transition passed on, on the recording thread."""
        self._listeners.append(listener)

    def record(
        self,
        before: Connection,
        after: Connection,
        event: str,
        occurred_at: datetime,
    ) -> None:
        """Record one change of a connection."""
        transition = Transition(
            id=str(uuid.uuid4()),
            connection=after,
            event=event,
            from_status=before.status,
            occurred_at=occurred_at,
            sets_desired_state=before.desired_state is not after.desired_state,
            final=is_final(before, after) or event == FORGOTTEN,
        )
        with self._lock:
            self._held.append(transition)
            self._write_held()
        for listener in self._listeners:
            listener(transition)

    def retry_held(self) -> int:
        """Try again to write what the disk refused; return how much is still held in memory."""
        with self._lock:
            self._write_held()
            return len(self._held)

    @property
    def held_count(self) -> int:
        """How many transitions the disk has refused so far."""
        return len(self._held)

    def _write_held(self) -> None:
        while self._held:
            transition = self._held[0]
            try:
                self._journal.append(transition)
            except StorageError as error:
                log.error(
                    "the state journal cannot be written",
                    company_id=transition.connection.company_id,
                    detail=error.message,
                    held=len(self._held),
                )
                return
            self._held.popleft()


def is_final(before: Connection, after: Connection) -> bool:
    """Tell whether forgetting this change in a power cut would do harm."""
    if before.desired_state is not after.desired_state or before.intent is not after.intent:
        return True
    return after.status in (Status.LOGGED_OUT, Status.BANNED, Status.FAILED)
