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

_MOST_HELD = 10_000

TransitionListener = Callable[[Transition], None]


class Recorder:
    """Appends to the journal. A full disk delays the record, it never stops a session."""

    def __init__(self, journal: StateJournal) -> None:
        """Write to this journal. `lost` counts the changes that will never be in it."""
        self._journal = journal
        self._lock = threading.Lock()
        self._held: deque[Transition] = deque()
        self.lost = 0
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
        *,
        sets_desired_state: bool = False,
    ) -> None:
        """Record one change of a connection.

        Args:
            sets_desired_state: set the row's, although this change does not change it.
        """
        wish = sets_desired_state or before.desired_state is not after.desired_state
        transition = Transition(
            id=str(uuid.uuid4()),
            connection=after,
            event=event,
            from_status=before.status,
            occurred_at=occurred_at,
            sets_desired_state=wish,
            final=wish or is_final(before, after) or event == FORGOTTEN,
        )
        with self._lock:
            self._held.append(transition)
            self._write_held()
            if len(self._held) > _MOST_HELD:
                self._lose(self._held.popleft(), "the disk refused too much for too long")
        for listener in self._listeners:
            try:
                listener(transition)
            except Exception:  # the change has happened, whoever cannot hear of it
                log.exception(
                    "a listener to transitions failed",
                    company_id=after.company_id,
                    id=transition.id,
                )

    def retry_held(self) -> int:
        """Try again to write what the disk refused; return how much was written."""
        with self._lock:
            before = len(self._held)
            self._write_held()
            return before - len(self._held)

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
            except Exception as error:  # one that cannot be written must not hold up the others
                log.exception("a transition cannot be written at all", id=transition.id)
                self._lose(transition, f"{type(error).__name__}: {error}")
            self._held.popleft()

    def _lose(self, transition: Transition, why: str) -> None:
        self.lost += 1
        log.error(
            "a transition is lost",
            company_id=transition.connection.company_id,
            id=transition.id,
            status=transition.connection.status.value,
            reason=transition.connection.reason.value,
            detail=why,
        )


def is_final(before: Connection, after: Connection) -> bool:
    """Tell whether forgetting this change in a power cut would do harm."""
    if before.desired_state is not after.desired_state or before.intent is not after.intent:
        return True
    return after.status in (Status.LOGGED_OUT, Status.BANNED, Status.FAILED)
