"""Looks at the service again and again, and says what needs a person: once, and once when over."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from crm_whatsapp.domain.alert_book import (
    AlertBook,
    AlertChange,
    AlertRecord,
    AlertTerms,
    advance,
)
from crm_whatsapp.domain.alerts import Alert, AlertState, Sightings
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.service.alert_courier import AlertCourier
from crm_whatsapp.service.alert_memory import AlertMemory
from crm_whatsapp.service.alert_texts import message_of, notice_data, summary

log = structlog.get_logger(__name__)

Look = Callable[[datetime], Sightings]


class AlertDesk:
    """`check` runs by the clock; nothing in it waits for a network."""

    def __init__(
        self,
        *,
        look: Look,
        terms: AlertTerms,
        memory: AlertMemory,
        courier: AlertCourier,
        post: Callable[[Notice], None],
        clock: Clock,
        source: str,
        is_settled: Callable[[], bool],
        quiet_seconds: float,
    ) -> None:
        """Wire it.

        Args:
            source: where the service runs, for people who have several.
            is_settled: tells whether the start-up restore is over; nothing is told before, unless
                it takes longer than quiet_seconds.
        """
        self._look = look
        self._terms = terms
        self._memory = memory
        self._courier = courier
        self._post = post
        self._clock = clock
        self._source = source
        self._is_settled = is_settled
        self._quiet_until = clock.monotonic() + quiet_seconds
        self._turn = threading.Lock()
        self._stopped = False

    def start(self) -> None:
        """Read what was told before this start, and send what was not sent then."""
        self._memory.load(self._clock.now())
        self._courier.start()

    def stop(self, timeout_seconds: float) -> None:
        """Look no more: what happens while the service stops is no news."""
        with self._turn:
            self._stopped = True
        self._courier.stop(timeout_seconds)

    def open_alerts(self) -> list[Alert]:
        """Return what needs a person now."""
        return self._memory.record.book.open_alerts()

    def check(self) -> None:
        """Look, and tell what is new."""
        with self._turn:
            quiet = not self._is_settled() and self._clock.monotonic() < self._quiet_until
            if self._stopped or quiet:
                return
            now = self._clock.now()
            seen = self._look(now)
            changes: list[AlertChange] = []
            self._memory.change(lambda record: self._advanced(record, seen, now, changes))
            self._memory.settle()
        self._courier.wake()

    def _advanced(
        self, record: AlertRecord, seen: Sightings, now: datetime, changes: list[AlertChange]
    ) -> AlertRecord:
        step = advance(record.book, seen, now, self._terms)
        # Before the record: a kill in between repeats a notice and does not lose it.
        for change in step.changes:
            self._announce(change, now)
        outbox = record.outbox
        for group in step.groups:
            message = message_of(group, self._source)
            outbox += self._courier.copies(str(uuid.uuid4()), message, now)
        return replace(record, book=step.book, outbox=outbox)

    def _announce(self, change: AlertChange, now: datetime) -> None:
        alert = change.alert
        about = {
            "kind": alert.kind.value,
            "company_id": alert.company_id,
            "detail": summary(alert, change.state),
        }
        if change.state is AlertState.OPEN:
            log.warning("an alert opened", **about)
        else:
            log.info("an alert is over", **about)
        self._post(
            Notice(
                id=str(uuid.uuid4()),
                kind=NoticeKind.ALERT,
                company_id=alert.company_id,
                occurred_at=now,
                data=notice_data(change),
            )
        )


def open_by_kind(book: AlertBook) -> dict[str, int]:
    """Return how many alerts of each kind are open."""
    return dict(Counter(alert.kind.value for alert in book.open_alerts()))
