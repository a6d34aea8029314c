"""What is known of alerts and not yet sent: in memory, and on the disk for the next start."""

import threading
from collections.abc import Callable
from datetime import datetime

import structlog

from crm_whatsapp.domain.alert_book import AlertLedger, AlertRecord
from crm_whatsapp.domain.errors import StorageError

log = structlog.get_logger(__name__)

MOST_WAITING = 200
"""Messages kept for channels that take none; the oldest are dropped."""


class AlertMemory:
    """One record, changed by several threads, on the disk before a change is over.

    Attributes:
        problem: why the disk does not have the record; None when it has.
        dropped: messages that were given up.
    """

    def __init__(self, ledger: AlertLedger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._record = AlertRecord()
        self._saved = AlertRecord()
        self.problem: str | None = None
        self.dropped = 0

    @property
    def record(self) -> AlertRecord:
        """The record as of now."""
        return self._record

    def load(self, now: datetime) -> None:
        """Read what the process before has left."""
        with self._lock:
            try:
                found = self._ledger.read()
            except StorageError as error:
                self._note(error.message)
                return
            self._record = AlertRecord(book=found.book.not_after(now), outbox=found.outbox)
            self._saved = found

    def change(self, work: Callable[[AlertRecord], AlertRecord]) -> AlertRecord:
        """Replace the record by what the work makes of it; return the new one.

        A disk that refuses is noted; the record is written with the next change or `settle`.
        """
        with self._lock:
            changed = work(self._record)
            surplus = len(changed.outbox) - MOST_WAITING
            if surplus > 0:
                self.dropped += surplus
                log.error("alert messages that no channel takes are dropped", messages=surplus)
                changed = AlertRecord(book=changed.book, outbox=changed.outbox[surplus:])
            self._record = changed
            self._save()
            return changed

    def settle(self) -> None:
        """Write what the disk has refused before."""
        with self._lock:
            self._save()

    def note_dropped(self) -> None:
        """Count a message that is given up."""
        with self._lock:
            self.dropped += 1

    def _save(self) -> None:
        lasting = AlertRecord(book=self._record.book.lasting(), outbox=self._record.outbox)
        if lasting == self._saved and self.problem is None:
            return
        try:
            self._ledger.write(lasting)
        except StorageError as error:
            self._note(error.message)
            return
        self._saved = lasting
        self.problem = None

    def _note(self, problem: str) -> None:
        if self.problem is None:
            log.error("what was told of alerts is not on the disk", detail=problem)
        self.problem = problem
