"""Finds flipped bits in the stores of running sessions, before a client writes them back.

A store is compared with its page record at every start and before every copy. One in which nothing
happens is copied by nobody, so it is compared here now and then.
"""

import threading
from collections.abc import Callable, Sequence

import structlog

from crm_whatsapp.domain.connection import ClientPhase, Connection
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.ports import Clock, StoreCopier
from crm_whatsapp.domain.snapshots import StoreDamaged, StoreUnfit

log = structlog.get_logger(__name__)


class StoreGuard:
    """Compares each running store every interval. Threads may share it."""

    def __init__(
        self,
        *,
        copier: StoreCopier,
        clock: Clock,
        interval_seconds: float,
        has_snapshot: Callable[[str], bool],
    ) -> None:
        """Begin with nothing compared.

        Args:
            has_snapshot: tells whether there is one that a start of this company could use.
        """
        self._copier = copier
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._has_snapshot = has_snapshot
        self._lock = threading.Lock()
        self._compared_at: dict[str, float] = {}
        self._told: dict[str, bool] = {}
        self._listener: Callable[[str], None] = lambda company_id: None

    def on_damage(self, listener: Callable[[str], None]) -> None:
        """Have companies passed on whose store is damaged and can be replaced by a snapshot."""
        self._listener = listener

    def check(self, connections: Sequence[Connection]) -> int:
        """Compare the stores that are due; return how many were."""
        now = self._clock.monotonic()
        running = {
            item.company_id: item
            for item in connections
            if item.is_connected and item.client is ClientPhase.LIVE
        }
        with self._lock:
            known = self._compared_at
            self._compared_at = {item: known.get(item, now) for item in running}
            for gone in self._told.keys() - running.keys():
                self._told.pop(gone)
            due = [
                company_id
                for company_id, at in self._compared_at.items()
                if now - at >= self._interval_seconds
            ]
        for company_id in due:
            self._compare(company_id)
        return len(due)

    def found(self, company_id: str, detail: str) -> None:
        """Take note that a store is damaged, and have it replaced if something can replace it."""
        replaceable = self._has_snapshot(company_id)
        with self._lock:
            known = self._told.get(company_id) == replaceable
            self._told[company_id] = replaceable
        if known:
            return
        log.error(
            "the store of a running session is damaged",
            company_id=company_id,
            detail=detail,
            next_step="started again from its snapshot"
            if replaceable
            else "left alone: without a snapshot a start would lose it",
        )
        if replaceable:
            self._listener(company_id)

    def _compare(self, company_id: str) -> None:
        with self._lock:
            self._compared_at[company_id] = self._clock.monotonic()
        try:
            self._copier.verify(company_id)
        except StoreDamaged as error:
            self.found(company_id, error.message)
        except (StoreUnfit, StorageError) as error:
            log.info("a store was not compared", company_id=company_id, detail=error.message)
        else:
            with self._lock:
                self._told.pop(company_id, None)
