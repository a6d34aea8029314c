"""How the restores of the last minutes went, company by company."""

import threading
from dataclasses import dataclass

from crm_whatsapp.domain.connection import Reason, Status
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.restore_outcomes import RestoreOutcome, outcome_of
from crm_whatsapp.domain.transitions import Transition


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRate:
    """Companies that were restored lately, and those of them whose last restore failed."""

    companies: int
    failed: int


class RestoreWatch:
    """Hears of every transition; one company that fails all the time counts as one."""

    def __init__(self, clock: Clock, *, window_seconds: float) -> None:
        self._clock = clock
        self._window_seconds = window_seconds
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._last: dict[str, tuple[float, bool]] = {}

    def watch(self, transition: Transition) -> None:
        """Take note of a restore that begins or ends."""
        connection = transition.connection
        company_id = connection.company_id
        with self._lock:
            if connection.reason is Reason.RESTORING:
                if connection.status is Status.CONNECTING:  # otherwise it waits for a poll to begin
                    self._under_way.add(company_id)
                return
            if company_id not in self._under_way:
                return
            self._under_way.discard(company_id)
            outcome = outcome_of(connection.reason)
            if outcome in (RestoreOutcome.SUCCEEDED, RestoreOutcome.FAILED):
                failed = outcome is RestoreOutcome.FAILED
                self._last[company_id] = (self._clock.monotonic(), failed)

    def rate(self) -> RestoreRate:
        """Return the figures of the window that ends now."""
        oldest = self._clock.monotonic() - self._window_seconds
        with self._lock:
            self._last = {key: value for key, value in self._last.items() if value[0] >= oldest}
            failed = sum(failed for _, failed in self._last.values())
            return RestoreRate(companies=len(self._last), failed=failed)
