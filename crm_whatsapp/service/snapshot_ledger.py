"""What is known of every company's last snapshot, and what follows from it."""

import threading
from dataclasses import dataclass, replace

from crm_whatsapp.domain.errors import CrmWhatsappError
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.snapshots import SnapshotMeta, StoreFingerprint

_DAY_SECONDS = 86_400.0
_LONGEST_PAUSE_SECONDS = 15.0
"""Between attempts for a session whose snapshots fail; the first ones come sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTerms:
    """How often and how much, in seconds and bytes."""

    ratchet_interval_seconds: float = 900.0
    daily_bytes: int = 50 * 1024 * 1024
    threads: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotState:
    """What is known of a company's last snapshot.

    problem: why the last attempt failed; None after one that succeeded or was not needed.
    failures: attempts that failed, in a row; the next one is due at retry_at_monotonic.
    """

    fingerprint: StoreFingerprint | None = None
    taken_at_monotonic: float = float("-inf")
    meta: SnapshotMeta | None = None
    day: int = 0
    bytes_today: int = 0
    problem: str | None = None
    failures: int = 0
    retry_at_monotonic: float = float("-inf")

    @property
    def important(self) -> str | None:
        """The part of the fingerprint that matters at once."""
        return self.fingerprint.important if self.fingerprint is not None else None


_NOTHING = SnapshotState()


class SnapshotLedger:
    """One state a company. Threads may share it."""

    def __init__(self, clock: Clock, terms: SnapshotTerms) -> None:
        self._clock = clock
        self._terms = terms
        self._lock = threading.Lock()
        self._states: dict[str, SnapshotState] = {}
        self._behind_since: dict[str, float] = {}

    def states(self) -> dict[str, SnapshotState]:
        """Return what is known of every company's last snapshot."""
        with self._lock:
            return dict(self._states)

    def behind_seconds(self) -> dict[str, float]:
        """Return how long a store has been known to hold what its snapshot does not, by company."""
        now = self._clock.monotonic()
        with self._lock:
            return {company_id: now - since for company_id, since in self._behind_since.items()}

    def note_seen(self, company_id: str, present: StoreFingerprint) -> None:
        """Note whether a store as it is now is ahead of its last snapshot."""
        with self._lock:
            if present == self._states.get(company_id, _NOTHING).fingerprint:
                self._behind_since.pop(company_id, None)
            else:
                self._behind_since.setdefault(company_id, self._clock.monotonic())

    def state(self, company_id: str) -> SnapshotState:
        """Return what is known of the company's last snapshot."""
        with self._lock:
            return self._states.get(company_id, _NOTHING)

    def problems(self) -> dict[str, str]:
        """Return why the last snapshot of a company failed, for those whose did."""
        with self._lock:
            return {
                company_id: state.problem
                for company_id, state in self._states.items()
                if state.problem is not None
            }

    def drop(self, company_id: str) -> None:
        """Forget the company."""
        with self._lock:
            self._states.pop(company_id, None)
            self._behind_since.pop(company_id, None)

    def may_try(self, company_id: str) -> bool:
        """Tell whether the pause after the last failure is over."""
        return self._clock.monotonic() >= self.state(company_id).retry_at_monotonic

    def is_due(self, company_id: str, present: StoreFingerprint) -> bool:
        """Tell whether a store that looks like this ought to be copied now."""
        state = self.state(company_id)
        if present == state.fingerprint:
            return False
        if present.important != state.important:
            return True
        if state.meta is not None and state.meta.clean:
            return True  # it says that nothing has changed since: no longer so
        waited = self._clock.monotonic() - state.taken_at_monotonic
        return waited >= self._terms.ratchet_interval_seconds and self._has_budget(state)

    def is_needless(
        self, company_id: str, epoch: int, present: StoreFingerprint, *, clean: bool
    ) -> bool:
        """Tell whether a snapshot of this term holds already what matters of such a store."""
        state = self.state(company_id)
        last = state.meta
        if last is None or last.epoch != epoch:
            return False
        if present == state.fingerprint and (last.clean or not clean):
            return True
        minor = not last.clean and present.important == state.important
        return minor and not clean and not self._has_budget(state)

    def note_needless(self, company_id: str) -> None:
        """Note that the last attempt found nothing to write."""
        self._set(company_id, replace(self.state(company_id), problem=None, failures=0))

    def note_failure(self, company_id: str, error: Exception) -> None:
        """Note that an attempt failed; the pause to the next one doubles."""
        state = self.state(company_id)
        pause = min(_LONGEST_PAUSE_SECONDS, 2.0 ** min(state.failures, 10))
        unforeseen = f"internal error: {type(error).__name__}"
        with self._lock:
            self._behind_since.setdefault(company_id, self._clock.monotonic())
        self._set(
            company_id,
            replace(
                state,
                problem=error.message if isinstance(error, CrmWhatsappError) else unforeseen,
                failures=state.failures + 1,
                retry_at_monotonic=self._clock.monotonic() + pause,
            ),
        )

    def note_written(
        self, company_id: str, fingerprint: StoreFingerprint, meta: SnapshotMeta
    ) -> None:
        """Note a snapshot that was written and verified."""
        state, today = self.state(company_id), self._today()
        spent = state.bytes_today if state.day == today else 0
        with self._lock:
            self._behind_since.pop(company_id, None)
        self._set(
            company_id,
            SnapshotState(
                fingerprint=fingerprint,
                taken_at_monotonic=self._clock.monotonic(),
                meta=meta,
                day=today,
                bytes_today=spent + meta.size_bytes,
            ),
        )

    def _has_budget(self, state: SnapshotState) -> bool:
        return state.day != self._today() or state.bytes_today < self._terms.daily_bytes

    def _today(self) -> int:
        return int(self._clock.now().timestamp() // _DAY_SECONDS)

    def _set(self, company_id: str, state: SnapshotState) -> None:
        with self._lock:
            self._states[company_id] = state
