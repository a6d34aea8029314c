"""Removes what is old: history, settled deliveries, and companies logged out long ago."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from crm_whatsapp.domain.connection import ClientPhase, Connection, Status
from crm_whatsapp.domain.errors import CrmWhatsappError
from crm_whatsapp.domain.events import DeleteRequested
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.retention import RetentionStore, RetentionTerms
from crm_whatsapp.domain.webhooks import DeliveryState
from crm_whatsapp.service.session_manager import SessionManager

log = structlog.get_logger(__name__)

_BATCH = 1_000
_MOST_BATCHES = 500
_MOST_COMPANIES = 200


class ConnectedAgain(CrmWhatsappError):
    """The company is not logged out any more."""


class Retention:
    """One run removes what is due, in bounded batches; what is left over waits for the next.

    Attributes:
        removed: how much went since start, by what it was.
    """

    def __init__(
        self,
        *,
        store: RetentionStore,
        manager: SessionManager,
        clock: Clock,
        terms: RetentionTerms,
    ) -> None:
        self._store = store
        self._manager = manager
        self._clock = clock
        self._terms = terms
        self._stopping = threading.Event()
        self.removed: Counter[str] = Counter()

    def stop(self) -> None:
        """Begin no further batch."""
        self._stopping.set()

    def run(self) -> None:
        """Remove what is due. What one kind cannot do keeps the others from nothing.

        Raises:
            StoreUnavailable, StoreRejected: of the first kind that failed.
        """
        kinds: dict[str, Callable[[], int]] = {
            "status_events": self._trim_status_events,
            "delivered": lambda: self._trim_deliveries(
                DeliveryState.DELIVERED, self._terms.delivered_seconds
            ),
            "parked": lambda: self._trim_deliveries(
                DeliveryState.PARKED, self._terms.parked_seconds
            ),
            "logged_out_companies": self._forget_logged_out,
        }
        removed: dict[str, int] = {}
        failures: list[CrmWhatsappError] = []
        for name, remove in kinds.items():
            try:
                removed[name] = remove()
            except CrmWhatsappError as error:
                log.warning("clean-up postponed", what=name, detail=error.message)
                failures.append(error)
        self.removed.update(removed)
        log.info("clean-up complete", **removed)
        if failures:
            raise failures[0]

    def _trim_status_events(self) -> int:
        keep = self._terms.status_events_seconds
        if keep is None:
            return 0
        return self._in_batches(lambda: self._store.trim_status_events(keep, _BATCH))

    def _trim_deliveries(self, state: DeliveryState, keep: float | None) -> int:
        if keep is None:
            return 0
        return self._in_batches(lambda: self._store.trim_deliveries(state, keep, _BATCH))

    def _in_batches(self, remove: Callable[[], int]) -> int:
        total = 0
        for _ in range(_MOST_BATCHES):
            if self._stopping.is_set():
                break
            gone = remove()
            total += gone
            if gone < _BATCH:
                break
        return total

    def _forget_logged_out(self) -> int:
        """Forget companies as a DELETE does: through their runtime, never behind its back."""
        keep = self._terms.logged_out_seconds
        if keep is None:
            return 0
        before = self._clock.now() - timedelta(seconds=keep)
        due = [item for item in self._manager.connections() if _is_due(item, before)]
        gone = 0
        for connection in due[:_MOST_COMPANIES]:
            if self._stopping.is_set():
                break
            gone += self._forget(connection.company_id, before)
        return gone

    def _forget(self, company_id: str, before: datetime) -> bool:
        def check(current: Connection) -> None:
            if not _is_due(current, before):
                raise ConnectedAgain

        try:
            self._manager.ask(
                company_id,
                lambda: DeleteRequested(has_credentials=self._manager.has_credentials(company_id)),
                check,
            )
        except CrmWhatsappError as error:
            log.info(
                "a company logged out long ago is kept", company_id=company_id, detail=error.message
            )
            return False
        log.info("a company logged out long ago was forgotten", company_id=company_id)
        return True


def _is_due(connection: Connection, before: datetime) -> bool:
    if connection.status is not Status.LOGGED_OUT or connection.client is not ClientPhase.NONE:
        return False
    since = _logged_out_at(connection)
    return since is not None and since < before


def _logged_out_at(connection: Connection) -> datetime | None:
    """Return since when it is logged out; None when the record does not tell."""
    return connection.last_disconnected_at or connection.last_event_at
