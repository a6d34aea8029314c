"""Recording of transitions and wanted notices: first on disk, then to whoever listens."""

import threading
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from crm_whatsapp.domain.connection import Connection, Status
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.ports import JournalEntry, StateJournal
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition

log = structlog.get_logger(__name__)

_MOST_HELD = 10_000
_MOST_NOTICES_HELD = 1_000

TransitionListener = Callable[[Transition], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """An entry on its way to the disk. keep: see StateJournal.append_notice."""

    entry: JournalEntry
    keep: bool = True


class Recorder:
    """Appends to the journal. A full disk delays the record, it never stops a session.

    Attributes:
        lost: changes that will never be in the journal.
        lost_notices: notices that will never be in it.
        held: how many transitions and how many notices the disk refused when it was last asked;
            unlike held_count it is read without waiting for a write under way.
    """

    def __init__(self, journal: StateJournal) -> None:
        """Write to this journal."""
        self._journal = journal
        self._lock = threading.Lock()
        self._held: deque[_Held] = deque()
        self._refused = False
        self.lost = 0
        self.lost_notices = 0
        self.held = (0, 0)
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
        self._append(_Held(entry=transition))
        for listener in self._listeners:
            try:
                listener(transition)
            except Exception:  # the change has happened, whoever cannot hear of it
                log.exception(
                    "a listener to transitions failed",
                    company_id=after.company_id,
                    id=transition.id,
                )

    def record_notice(self, notice: Notice, *, keep: bool) -> None:
        """Put a notice into the journal, after everything recorded so far.

        Waits for one local write at most, and for none to reach the disk.

        Args:
            keep: False for what is soon worth nothing; it goes first when there is too much.
        """
        self._append(_Held(entry=notice, keep=keep))

    def retry_held(self) -> int:
        """Try again to write what the disk refused; return how much was written."""
        with self._lock:
            before = len(self._held)
            self._write_held()
            self._note_held()
            return before - len(self._held)

    @property
    def held_count(self) -> int:
        """How many transitions the disk has refused so far."""
        with self._lock:
            return len(self._held) - self._held_notices()

    def _append(self, held: _Held) -> None:
        with self._lock:
            self._held.append(held)
            self._write_held()
            notices = self._held_notices() if self._held else 0
            if notices > _MOST_NOTICES_HELD:
                self._lose(self._take_least_wanted(), "the disk refused too much for too long")
            elif len(self._held) - notices > _MOST_HELD:
                self._lose(self._take_oldest_transition(), "the disk refused too much for too long")
            self._note_held()

    def _write_held(self) -> None:
        while self._held:
            held = self._held[0]
            try:
                self._write(held)
            except StorageError as error:
                if not self._refused:
                    self._refused = True
                    log.error(
                        "the state journal cannot be written; changes are held in memory",
                        detail=error.message,
                    )
                return
            except Exception as error:  # one that cannot be written must not hold up the others
                detail = type(error).__name__
                if isinstance(held.entry, Transition):  # a notice's error could quote a message
                    log.exception("a transition cannot be written at all", id=held.entry.id)
                    detail = f"{detail}: {error}"
                self._lose(held, detail)
            self._held.popleft()
        if self._refused:
            self._refused = False
            log.info("the state journal can be written again")

    def _write(self, held: _Held) -> None:
        if isinstance(held.entry, Notice):
            self._journal.append_notice(held.entry, keep=held.keep)
        else:
            self._journal.append(held.entry)

    def _note_held(self) -> None:
        notices = self._held_notices()
        self.held = (len(self._held) - notices, notices)

    def _held_notices(self) -> int:
        return sum(isinstance(held.entry, Notice) for held in self._held)

    def _take_least_wanted(self) -> _Held:
        """Take the oldest passing notice out, or the oldest notice when there is none."""
        notices = [held for held in self._held if isinstance(held.entry, Notice)]
        least = next((held for held in notices if not held.keep), notices[0])
        self._held.remove(least)
        return least

    def _take_oldest_transition(self) -> _Held:
        oldest = next(held for held in self._held if isinstance(held.entry, Transition))
        self._held.remove(oldest)
        return oldest

    def _lose(self, held: _Held, why: str) -> None:
        entry = held.entry
        if isinstance(entry, Notice):
            self.lost_notices += 1
            log.error(
                "a notice is lost",
                company_id=entry.company_id,
                id=entry.id,
                kind=entry.kind.value,
                detail=why,
            )
            return
        self.lost += 1
        log.error(
            "a transition is lost",
            company_id=entry.connection.company_id,
            id=entry.id,
            status=entry.connection.status.value,
            reason=entry.connection.reason.value,
            detail=why,
        )


def is_final(before: Connection, after: Connection) -> bool:
    """Tell whether forgetting this change in a power cut would do harm."""
    if before.desired_state is not after.desired_state or before.intent is not after.intent:
        return True
    return after.status in (Status.LOGGED_OUT, Status.BANNED, Status.FAILED)
