"""Puts the status report together: the present from memory, the past from the database."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from crm_whatsapp.domain.connection import Connection, DesiredState, Status
from crm_whatsapp.domain.engines import EngineHealth
from crm_whatsapp.domain.errors import CrmWhatsappError
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.reports import (
    EngineSummary,
    Report,
    ReportHistory,
    ReportStore,
    SnapshotCover,
    Trouble,
)
from crm_whatsapp.domain.restore_outcomes import UNWANTED
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue
from crm_whatsapp.service.snapshot_keeper import SnapshotKeeper

_MOST_KEPT = 200
_MOST_READINGS = 4  # half of the connections to the database: the sessions need the others
_MOST_CALLERS = 16  # who reads, or waits for one who reads the same
_BUSY = "Other reports are being read from the database; ask again in a moment."
_Window = tuple[int, frozenset[str] | None]  # so many hours of these companies; None: of all


@dataclass(frozen=True, slots=True)
class ReportSources:
    """Where the present comes from. None of it waits for a disk or a network."""

    connections: Callable[[], list[Connection]]
    catalogue: SnapshotCatalogue
    keeper: SnapshotKeeper
    engines: Callable[[], Sequence[EngineHealth]]
    engine_deaths: Callable[[], int]
    database_problem: Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer of the database, or why there was none."""

    read_at_monotonic: float
    history: ReportHistory | None
    problem: str | None


class StatusReport:
    """Asks the database at most once every so often, however often it is asked itself."""

    def __init__(
        self,
        sources: ReportSources,
        store: ReportStore,
        clock: Clock,
        *,
        cache_seconds: float,
        worst: int = 5,
    ) -> None:
        self._sources = sources
        self._store = store
        self._clock = clock
        self._cache_seconds = cache_seconds
        self._worst = worst
        self._lock = threading.Lock()
        self._turns: dict[_Window, threading.Lock] = {}
        self._kept: dict[_Window, _Kept] = {}
        self._failure: _Kept | None = None
        self._readings = threading.BoundedSemaphore(_MOST_READINGS)
        self._callers = threading.BoundedSemaphore(_MOST_CALLERS)

    def report(self, *, hours: int, companies: frozenset[str] | None) -> Report:
        """Return the report of some companies; waits for the database within its limit.

        Args:
            hours: the length of the window that ends now.
            companies: None is all of them.
        """
        connections = [
            item
            for item in self._sources.connections()
            if companies is None or item.company_id in companies
        ]
        running = [item for item in connections if item.desired_state is DesiredState.RUN]
        kept = self._history((hours, companies), connections, running)
        now = self._clock.now()
        engines = self._sources.engines()
        return Report(
            generated_at=now,
            since=now - timedelta(hours=hours),
            total=len(connections),
            should_run=len(running),
            by_status=_by_status(connections),
            history=kept.history,
            history_problem=kept.problem,
            snapshots=self._snapshots(running, kept.history, now),
            troubles=_troubles(running),
            engines=EngineSummary(
                total=len(engines),
                running=sum(item.alive for item in engines),
                deaths=self._sources.engine_deaths(),
                memory_mb=sum(item.memory_mb for item in engines),
            ),
            database_problem=self._sources.database_problem()
            or (kept.problem if kept.problem != _BUSY else None),
            names={item.company_id: item.push_name for item in connections if item.push_name},
        )

    def _history(
        self, window: _Window, connections: Sequence[Connection], running: Sequence[Connection]
    ) -> _Kept:
        """Return what the database says, or what it said a moment ago; one call at a time.

        There are as many windows as a caller likes: what is too much at once is not waited for.
        """
        known = self._known(window)
        if known is not None:
            return known
        busy = _Kept(self._clock.monotonic(), None, _BUSY)
        with _place_in(self._callers) as has_place:
            if not has_place:
                return busy
            with self._lock:
                turn = self._turns.setdefault(window, threading.Lock())
            with turn:
                known = self._known(window)
                if known is not None:
                    return known
                with _place_in(self._readings) as may_read:
                    if not may_read:
                        return busy
                    fresh = self._read(window[0], connections, running)
                with self._lock:
                    self._keep(window, fresh)
                return fresh

    def _known(self, window: _Window) -> _Kept | None:
        """Return an answer that is young enough; a database that was away is away for all."""
        oldest = self._clock.monotonic() - self._cache_seconds
        with self._lock:
            for kept in (self._kept.get(window), self._failure):
                if kept is not None and kept.read_at_monotonic >= oldest:
                    return kept
        return None

    def _read(
        self, hours: int, connections: Sequence[Connection], running: Sequence[Connection]
    ) -> _Kept:
        until = self._clock.now()
        try:
            history = self._store.read(
                until - timedelta(hours=hours),
                until,
                company_ids=[item.company_id for item in connections],
                running_ids=[item.company_id for item in running],
                worst=self._worst,
            )
        except CrmWhatsappError as error:
            return _Kept(self._clock.monotonic(), None, error.message)
        return _Kept(self._clock.monotonic(), history, None)

    def _keep(self, window: _Window, fresh: _Kept) -> None:
        self._failure = fresh if fresh.problem is not None else None
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
            self._turns = {key: turn for key, turn in self._turns.items() if turn.locked()}
        if fresh.problem is None:
            self._kept[window] = fresh

    def _snapshots(
        self, running: Sequence[Connection], history: ReportHistory | None, now: datetime
    ) -> SnapshotCover:
        known = set(self._sources.catalogue.companies())
        linked = [
            item.company_id
            for item in running
            if item.jid is not None and item.status is not Status.LOGGED_OUT
        ]
        covered = [company_id for company_id in linked if company_id in known]
        return SnapshotCover(
            enabled=self._sources.keeper.is_on,
            covered=len(covered),
            without=len(linked) - len(covered),
            oldest_seconds=self._oldest_seconds(covered, history, now),
        )

    def _oldest_seconds(
        self, covered: Sequence[str], history: ReportHistory | None, now: datetime
    ) -> float | None:
        """Return it from memory where this process took them all, else from the database."""
        if not covered:
            return None
        states = self._sources.keeper.states()
        metas = [state.meta for company_id in covered if (state := states.get(company_id))]
        taken = [meta.created_at for meta in metas if meta is not None]
        oldest = min(taken) if len(taken) == len(covered) else None
        if oldest is None and history is not None:
            oldest = history.oldest_snapshot_at
        return None if oldest is None else max(0.0, (now - oldest).total_seconds())


@contextmanager
def _place_in(places: threading.BoundedSemaphore) -> Iterator[bool]:
    """Tell whether a place was free; it is given back at the end."""
    has_place = places.acquire(blocking=False)
    try:
        yield has_place
    finally:
        if has_place:
            places.release()


def _by_status(connections: Sequence[Connection]) -> Mapping[Status, int]:
    counted = Counter(item.status for item in connections)
    return {status: counted[status] for status in Status}


def _troubles(running: Sequence[Connection]) -> list[Trouble]:
    """Return what should be connected and is not, worst first; pairings are none."""
    order = (Status.FAILED, Status.BANNED, Status.LOGGED_OUT, Status.DISCONNECTED)
    found = [
        Trouble(connection=item, since=item.failed_at or item.last_disconnected_at)
        for item in running
        if not item.is_connected and item.reason not in UNWANTED
    ]
    rank = {status: place for place, status in enumerate(order)}
    return sorted(
        found,
        key=lambda item: (
            rank.get(item.connection.status, len(order)),
            item.connection.company_id,
        ),
    )
